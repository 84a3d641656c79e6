//! A group commit: what had gathered, as one transaction. A command that
//! spoils it takes nobody with it: then each has a transaction of its own.

use std::collections::BTreeSet;

use super::append::{self, Grown};
use super::connections::open_connection;
use super::dialect::{Connection, Session};
use super::record::record;
use super::targets;
use super::writer::{Answer, Command, Room};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId};
use crate::store::limits::MOST_DELIVERIES;
use crate::store::{NewConnection, Opened, Publish, Published, Record, Result, StoreError};
use crate::wake::{Hint, Wake};

type Append = (Publish, Answer<Published>, Room);

/// Commands that share a transaction.
#[derive(Default)]
pub(crate) struct Batch {
    appends: Vec<Append>,
    records: Vec<(Vec<Record>, Answer<()>)>,
    opens: Vec<(NewConnection, Answer<Opened>)>,
    items: usize,
    bytes: usize,
}

/// What a transaction did, in the order of its commands.
#[derive(Default)]
pub(crate) struct Done {
    published: Vec<Published>,
    opened: Vec<Result<Opened>>,
    grown: Vec<Grown>,
}

/// Why a transaction was not committed.
pub(crate) enum Failure {
    /// Nothing of it was stored, nor would anything of another one be.
    Refused(StoreError),
    /// Nothing of it was stored.
    Undone(StoreError),
    /// Another node took an id or a key first; who looks again finds its answer.
    Raced(StoreError),
    /// Nobody knows what was stored.
    Unknown(String),
}

impl Failure {
    /// Of a statement that failed, in a transaction that was undone for it.
    pub(crate) fn of(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(_) => Self::Raced(error),
            error => Self::Undone(error),
        }
    }

    /// What the caller is told, and whether what is stored is known.
    pub(crate) fn told(self) -> (StoreError, std::result::Result<(), String>) {
        match self {
            Self::Refused(error) | Self::Undone(error) | Self::Raced(error) => (error, Ok(())),
            Self::Unknown(reason) => (StoreError::Unknown(reason.clone()), Err(reason)),
        }
    }
}

/// How often a batch looks again before its commands are tried one by one.
const RACES: usize = 3;

impl Batch {
    /// Takes one more. Commands that want a transaction of their own have no
    /// place here.
    pub(super) fn add(&mut self, command: Command) {
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
            Command::Other(_) | Command::Stop => {
                debug_assert!(false, "the writer keeps these apart");
            }
        }
    }

    /// Events, records and openings.
    pub(super) fn items(&self) -> usize {
        self.items
    }

    /// Bytes of payload.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Answers all appends that the disk is full, and keeps the rest.
    pub(super) fn refuse_appends(&mut self) {
        for (_, answer, _) in self.appends.drain(..) {
            let _ = answer.send(Err(StoreError::StorageFull));
        }
    }

    fn commands(&self) -> usize {
        self.appends.len() + self.records.len() + self.opens.len()
    }

    /// One batch for each command.
    fn apart(self) -> Vec<Self> {
        let appends = self.appends.into_iter();
        let records = self.records.into_iter();
        let opens = self.opens.into_iter();
        appends
            .map(|one| Self { appends: vec![one], ..Self::default() })
            .chain(records.map(|one| Self { records: vec![one], ..Self::default() }))
            .chain(opens.map(|one| Self { opens: vec![one], ..Self::default() }))
            .collect()
    }

    /// As few batches as keep within the bound, given what each request comes
    /// to; one that is heavier alone has a batch of its own.
    fn lighter(self, weights: &[usize]) -> Vec<Self> {
        let mut last = Self { records: self.records, opens: self.opens, ..Self::default() };
        let (mut parts, mut weight) = (Vec::new(), 0);
        for (append, own) in self.appends.into_iter().zip(weights) {
            if weight + own > MOST_DELIVERIES && !last.appends.is_empty() {
                parts.push(std::mem::take(&mut last));
                weight = 0;
            }
            weight += own;
            last.appends.push(append);
        }
        parts.push(last);
        parts
    }

    /// Answers everyone with an error.
    fn fail(self, error: &StoreError) {
        for (_, answer, _) in self.appends {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.records {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.opens {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

/// Commits a batch and answers everyone in it. An error says that a write
/// failed, after which nothing may be written any more.
pub(super) async fn commit(
    session: &mut Session,
    node: NodeId,
    wake: &Wake,
    mut batch: Batch,
) -> std::result::Result<(), String> {
    let (mut races, mut is_full) = (RACES, false);
    let failure = loop {
        match attempt(session, node, &batch).await {
            Ok(Ok(done)) => return tell(session, node, wake, batch, done).await,
            Ok(Err(TooMuch(weights))) => {
                return one_by_one(session, node, wake, batch.lighter(&weights)).await;
            }
            Err(Failure::Raced(_)) if races > 0 => races -= 1,
            Err(
                Failure::Refused(StoreError::StorageFull)
                | Failure::Undone(StoreError::StorageFull),
            ) if !is_full => {
                // What room there is left is for what can't be refused.
                is_full = true;
                batch.refuse_appends();
            }
            Err(failure) => break failure,
        }
    };
    let takes_others_with_it =
        matches!(failure, Failure::Undone(_) | Failure::Raced(_)) && batch.commands() > 1;
    let (error, is_known) = failure.told();
    if !takes_others_with_it {
        batch.fail(&error);
        return if Session::A_FAILED_COMMIT_IS_THE_END { is_known } else { Ok(()) };
    }
    tracing::warn!(%error, "a group commit was undone; each command is tried by itself");
    one_by_one(session, node, wake, batch.apart()).await
}

/// Commits the parts of a batch, each as a transaction of its own.
async fn one_by_one(
    session: &mut Session,
    node: NodeId,
    wake: &Wake,
    parts: Vec<Batch>,
) -> std::result::Result<(), String> {
    let mut parts = parts.into_iter();
    while let Some(part) = parts.next() {
        // Boxed because it ends here again, for a smaller batch.
        if let Err(reason) = Box::pin(commit(session, node, wake, part)).await {
            parts.for_each(|rest| rest.fail(&StoreError::Unavailable(reason.clone())));
            return Err(reason);
        }
    }
    Ok(())
}

async fn attempt(
    session: &mut Session,
    node: NodeId,
    batch: &Batch,
) -> std::result::Result<Attempted, Failure> {
    if batch.commands() == 0 {
        return Ok(Ok(Done::default()));
    }
    session.attempt(node, batch).await
}

/// How many deliveries a batch's requests come to, each, when together it is
/// too much. Nothing was done.
pub(crate) struct TooMuch(Vec<usize>);

/// What came of a transaction that went well.
pub(crate) type Attempted = std::result::Result<Done, TooMuch>;

/// A batch's statements, inside a transaction that the caller commits. It does
/// nothing if together its requests come to too much.
pub(crate) async fn statements(
    connection: &mut Connection,
    node: NodeId,
    batch: &Batch,
) -> Result<Attempted> {
    let publishes: Vec<&Publish> = batch.appends.iter().map(|(publish, ..)| publish).collect();
    let mut targets = targets::resolve(connection, &publishes).await?;
    if publishes.len() > 1 {
        let weights: Vec<usize> = publishes.iter().map(|publish| targets.weight(publish)).collect();
        if weights.iter().sum::<usize>() > MOST_DELIVERIES {
            return Ok(Err(TooMuch(weights)));
        }
    }
    let records = || batch.records.iter().flat_map(|(records, _)| records);
    let mut touched: BTreeSet<GatewayKey> = targets.gateways().collect();
    touched.extend(records().filter_map(gateway_of));
    touched.extend(batch.opens.iter().map(|(new, _)| new.gateway));
    // First of all, so that batches of several nodes wait for each other here
    // and nowhere else.
    let now = targets.lock(connection, &touched).await?;
    let appended = append::append(connection, now, &publishes, &targets).await?;
    // Before the openings, so that a position which is left behind now can be
    // taken over at once.
    record(connection, now, node, records()).await?;
    let mut opened = Vec::with_capacity(batch.opens.len());
    for (new, _) in &batch.opens {
        opened.push(match open_connection(connection, now, node, new).await {
            // Found out before anything was written.
            Err(error @ StoreError::NotFound(_)) => Err(error),
            other => Ok(other?),
        });
    }
    Ok(Ok(Done { published: appended.answers, opened, grown: appended.grown }))
}

/// What a request's events weigh in memory.
pub(super) fn payload_bytes(publish: &Publish) -> usize {
    publish.fit().map(|new| new.event.payload.get().len()).sum()
}

/// Whose stream a record changes.
const fn gateway_of(record: &Record) -> Option<GatewayKey> {
    match record {
        Record::Confirmed { gateway, .. }
        | Record::Reported { gateway, .. }
        | Record::Skipped { gateway, .. }
        | Record::Closed { gateway, .. } => Some(*gateway),
        Record::Heartbeat { .. } => None,
    }
}

/// Wakes and answers everyone after the commit.
async fn tell(
    session: &mut Session,
    node: NodeId,
    wake: &Wake,
    batch: Batch,
    done: Done,
) -> std::result::Result<(), String> {
    for grown in done.grown {
        wake.appended(grown.gateway, Hint { head: grown.head, rows: grown.rows.into() });
    }
    for ((_, answer, _), published) in batch.appends.into_iter().zip(done.published) {
        let _ = answer.send(Ok(published));
    }
    for (records, answer) in batch.records {
        for record in &records {
            if let Record::Closed { gateway, .. } = record {
                wake.unserved(*gateway);
            }
        }
        let _ = answer.send(Ok(()));
    }
    let mut abandoned = Batch::default();
    for ((new, answer), opened) in batch.opens.into_iter().zip(done.opened) {
        if let Err(Ok(_)) = answer.send(opened) {
            // Nobody waited for it, so nobody will record its end either.
            let end = new.unused(Timestamp::now());
            abandoned.add(Command::Record(vec![end], tokio::sync::oneshot::channel().0));
        }
    }
    if abandoned.items > 0 {
        return Box::pin(commit(session, node, wake, abandoned)).await;
    }
    Ok(())
}
