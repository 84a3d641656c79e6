//! A batch: commands that share a transaction.

use std::collections::BTreeSet;

use super::super::connections::open_connection;
use super::super::dialect::Connection;
use super::super::instances::opening::open_instance;
use super::super::ledger::record::record;
use super::super::log::append::{self, Grown};
use super::super::log::targets;
use super::command::{Answer, Command, Permit};
use crate::event::{GatewayKey, NodeId};
use crate::store::limits::MAX_DELIVERIES;
use crate::store::{
    Conflict, NewConnection, OpenInstance, Opened, OpenedInstance, Publish, Published, Record,
    Result, StoreError,
};

type Append = (Publish, Answer<Published>, Permit);

/// Commands that share a transaction.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) appends: Vec<Append>,
    pub(crate) records: Vec<(Vec<Record>, Answer<()>)>,
    pub(crate) opens: Vec<(NewConnection, Answer<Opened>)>,
    pub(crate) instances: Vec<(OpenInstance, Answer<OpenedInstance>)>,
    items: usize,
    bytes: usize,
}

/// The outcome of a transaction that did not fail.
pub(crate) enum Attempt {
    /// It was committed.
    Done(Done),
    /// Nothing was written, because the batch has too many deliveries. Contains the number of
    /// deliveries of each request.
    TooLarge(Vec<usize>),
}

/// What a transaction did, in the order of its commands.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) published: Vec<Published>,
    pub(crate) opened: Vec<Result<Opened>>,
    pub(crate) instances: Vec<Result<OpenedInstance>>,
    pub(crate) grown: Vec<Grown>,
}

impl Batch {
    /// Adds a command, or returns it if it needs a transaction of its own.
    pub(crate) fn add(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::Append(publish, answer, permit) => {
                self.items += publish.events.len().max(1);
                self.bytes += payload_bytes(&publish);
                self.appends.push((publish, answer, permit));
            }
            Command::Record(records, answer) => {
                self.items += records.len();
                self.records.push((records, answer));
            }
            Command::Open(connection, answer) => {
                self.items += 1;
                self.opens.push((connection, answer));
            }
            Command::OpenInstance(opening, answer) => {
                self.items += 1;
                self.instances.push((opening, answer));
            }
            command @ (Command::Run(_) | Command::Stop) => return Some(command),
        }
        None
    }

    /// Events, records and connections to open.
    pub(crate) const fn items(&self) -> usize {
        self.items
    }

    /// Bytes of payload.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Commands that are not answered yet.
    pub(crate) fn commands(&self) -> usize {
        self.appends.len() + self.records.len() + self.opens.len() + self.instances.len()
    }

    /// Answers all appends with `StorageFull`, and keeps the other commands.
    pub(crate) fn refuse_appends(&mut self) {
        for (_, answer, _) in self.appends.drain(..) {
            let _ = answer.send(Err(StoreError::StorageFull));
        }
    }

    /// One batch per command.
    pub(crate) fn into_single(self) -> Vec<Self> {
        let appends = self.appends.into_iter();
        let records = self.records.into_iter();
        let opens = self.opens.into_iter();
        let instances = self.instances.into_iter();
        appends
            .map(|one| Self { appends: vec![one], ..Self::default() })
            .chain(records.map(|one| Self { records: vec![one], ..Self::default() }))
            .chain(opens.map(|one| Self { opens: vec![one], ..Self::default() }))
            .chain(instances.map(|one| Self { instances: vec![one], ..Self::default() }))
            .collect()
    }

    /// As few batches as stay within the limit of deliveries, given how many each request has. A
    /// request that exceeds the limit alone has its own batch.
    pub(crate) fn split(self, deliveries: &[usize]) -> Vec<Self> {
        let Self { appends, records, opens, instances, .. } = self;
        let mut last = Self { records, opens, instances, ..Self::default() };
        let (mut parts, mut total) = (Vec::new(), 0);
        for (append, own) in appends.into_iter().zip(deliveries) {
            if total + own > MAX_DELIVERIES && !last.appends.is_empty() {
                parts.push(std::mem::take(&mut last));
                total = 0;
            }
            total += own;
            last.appends.push(append);
        }
        parts.push(last);
        parts
    }

    /// Answers all commands with an error.
    pub(crate) fn fail(self, error: &StoreError) {
        for (_, answer, _) in self.appends {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.records {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.opens {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.instances {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

/// Runs the statements of a batch in a transaction that the caller commits. Does nothing if its
/// requests have too many deliveries together.
pub(crate) async fn statements(
    conn: &mut Connection,
    node: NodeId,
    batch: &Batch,
) -> Result<Attempt> {
    let publishes: Vec<&Publish> = batch.appends.iter().map(|(publish, ..)| publish).collect();
    let mut targets = targets::resolve(conn, &publishes).await?;
    if publishes.len() > 1 {
        let deliveries: Vec<usize> =
            publishes.iter().map(|publish| targets.weight(publish)).collect();
        if deliveries.iter().sum::<usize>() > MAX_DELIVERIES {
            return Ok(Attempt::TooLarge(deliveries));
        }
    }
    let records = || batch.records.iter().flat_map(|(records, _)| records);
    let mut touched: BTreeSet<GatewayKey> = targets.gateways().collect();
    touched.extend(records().filter_map(gateway_of));
    touched.extend(batch.opens.iter().map(|(new, _)| new.gateway));
    touched.extend(batch.instances.iter().map(|(opening, _)| opening.connection.gateway));
    // Before anything else, so that batches of several nodes wait for each other only here.
    let now = targets.lock(conn, &touched).await?;
    let appended = append::append(conn, now, &publishes, &targets).await?;
    // Before connections are opened, so that they can take over the positions that end here.
    record(conn, now, node, records()).await?;
    let mut opened = Vec::with_capacity(batch.opens.len());
    for (new, _) in &batch.opens {
        opened.push(match open_connection(conn, now, node, new).await {
            // Returned before anything was written.
            Err(error @ StoreError::NotFound(_)) => Err(error),
            other => Ok(other?),
        });
    }
    let mut instances = Vec::with_capacity(batch.instances.len());
    for (wanted, _) in &batch.instances {
        instances.push(match open_instance(conn, now, node, wanted).await {
            // Returned before anything was written.
            Err(
                error
                @ (StoreError::NotFound(_) | StoreError::Conflict(Conflict::Instances { .. })),
            ) => Err(error),
            other => Ok(other?),
        });
    }
    let append::Outcome { published: results, grown } = appended;
    Ok(Attempt::Done(Done { published: results, opened, instances, grown }))
}

/// Bytes of payload of a request.
pub(crate) fn payload_bytes(publish: &Publish) -> usize {
    publish.valid().map(|new| new.event.payload.get().len()).sum()
}

/// The gateway whose stream a record changes.
const fn gateway_of(record: &Record) -> Option<GatewayKey> {
    match record {
        Record::Confirmed { gateway, .. }
        | Record::Reported { gateway, .. }
        | Record::ConfirmedElsewhere { gateway, .. }
        | Record::Unmatched { gateway, .. }
        | Record::Skipped { gateway, .. }
        | Record::Instance { gateway, .. }
        | Record::Closed { gateway, .. } => Some(*gateway),
        Record::Heartbeat { .. } => None,
    }
}
