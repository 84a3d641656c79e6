//! A group commit: what had gathered, as one transaction. A command that
//! spoils it takes nobody with it: then each has a transaction of its own.

use sqlx::SqliteConnection;
use tokio::sync::OwnedSemaphorePermit;

use super::append::{self, Grown};
use super::connections::open_connection;
use super::desk::{self, Desk, Failure};
use super::record::record;
use super::writer::{Answer, Command};
use crate::clock::Timestamp;
use crate::event::{NodeId, Reason};
use crate::store::{NewConnection, Opened, Publish, Published, Record, Result, StoreError};
use crate::wake::Hint;

/// Commands that share a transaction.
#[derive(Default)]
pub(super) struct Batch {
    appends: Vec<(Publish, Answer<Published>, OwnedSemaphorePermit)>,
    records: Vec<(Vec<Record>, Answer<()>)>,
    opens: Vec<(NewConnection, Answer<Opened>)>,
    items: usize,
    bytes: usize,
}

/// What a transaction did, in the order of its commands.
#[derive(Default)]
struct Done {
    published: Vec<Published>,
    opened: Vec<Result<Opened>>,
    grown: Vec<Grown>,
}

impl Batch {
    /// Takes one more. Commands that want a transaction of their own have no
    /// place here.
    pub(super) fn add(&mut self, command: Command) {
        match command {
            Command::Append(publish, answer, permit) => {
                self.items += publish.events.len().max(1);
                let payloads = publish.fit().map(|new| new.event.payload.get().len());
                self.bytes += payloads.sum::<usize>();
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
pub(super) async fn commit(desk: &mut Desk, mut batch: Batch) -> std::result::Result<(), String> {
    let mut done = attempt(desk, &batch).await;
    if let Err(Failure::UndoneInDoubt(StoreError::StorageFull)) = done {
        // The ballast's room is for what can't be refused.
        batch.refuse_appends();
        done = attempt(desk, &batch).await;
    }
    let failure = match done {
        Ok(done) => return tell(desk, batch, done).await,
        Err(failure) => failure,
    };
    let takes_others_with_it = matches!(failure, Failure::Undone(_)) && batch.commands() > 1;
    let (error, going_on) = failure.told();
    if !takes_others_with_it {
        batch.fail(&error);
        return going_on;
    }
    tracing::warn!(%error, "a group commit was undone; each command is tried by itself");
    let mut apart = batch.apart().into_iter();
    while let Some(single) = apart.next() {
        // Boxed because it ends here again, once, for a single command.
        if let Err(reason) = Box::pin(commit(desk, single)).await {
            apart.for_each(|rest| rest.fail(&StoreError::Unavailable(reason.clone())));
            return Err(reason);
        }
    }
    Ok(())
}

async fn attempt(desk: &mut Desk, batch: &Batch) -> std::result::Result<Done, Failure> {
    if batch.commands() == 0 {
        return Ok(Done::default());
    }
    let node = desk.node;
    let mut transaction = desk.begin().await?;
    let done = write(&mut transaction, node, batch).await;
    let ended = desk::end(transaction, done).await;
    desk.conclude(ended).await
}

async fn write(connection: &mut SqliteConnection, node: NodeId, batch: &Batch) -> Result<Done> {
    let now = Timestamp::now();
    let publishes: Vec<&Publish> = batch.appends.iter().map(|(publish, ..)| publish).collect();
    let appended = append::append(connection, now, &publishes).await?;
    // Before the openings, so that a position which is left behind now can be
    // taken over at once.
    let records = batch.records.iter().flat_map(|(records, _)| records);
    record(connection, node, records).await?;
    let mut opened = Vec::with_capacity(batch.opens.len());
    for (new, _) in &batch.opens {
        opened.push(match open_connection(connection, now, node, new).await {
            // Found out before anything was written.
            Err(error @ StoreError::NotFound(_)) => Err(error),
            other => Ok(other?),
        });
    }
    Ok(Done { published: appended.answers, opened, grown: appended.grown })
}

/// Wakes and answers everyone after the commit.
async fn tell(desk: &mut Desk, batch: Batch, done: Done) -> std::result::Result<(), String> {
    for grown in done.grown {
        desk.wake.appended(grown.gateway, Hint { head: grown.head, rows: grown.rows.into() });
    }
    for ((_, answer, _), published) in batch.appends.into_iter().zip(done.published) {
        let _ = answer.send(Ok(published));
    }
    for (records, answer) in batch.records {
        for record in &records {
            if let Record::Closed { gateway, .. } = record {
                desk.wake.unserved(*gateway);
            }
        }
        let _ = answer.send(Ok(()));
    }
    let mut abandoned = Batch::default();
    for ((new, answer), opened) in batch.opens.into_iter().zip(done.opened) {
        if let Err(Ok(_)) = answer.send(opened) {
            abandoned
                .add(Command::Record(vec![closed_unused(&new)], tokio::sync::oneshot::channel().0));
        }
    }
    if abandoned.items > 0 {
        return Box::pin(commit(desk, abandoned)).await;
    }
    Ok(())
}

/// Nobody waited for the opening, so nobody will record its end either.
fn closed_unused(new: &NewConnection) -> Record {
    Record::Closed {
        gateway: new.gateway,
        connection: new.id,
        reason: Reason::ConnectionLost,
        detail: "the peer left before the connection was open".to_owned(),
        unconfirmed: None,
        give_up: false,
        at: Timestamp::now(),
    }
}
