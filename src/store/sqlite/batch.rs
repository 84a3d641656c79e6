//! A group commit: what had gathered, as one transaction. A command that
//! spoils it takes nobody with it: then each has a transaction of its own.

use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::OwnedSemaphorePermit;

use super::append::{self, Grown};
use super::connections::open_connection;
use super::record::record;
use super::writer::{Answer, Command};
use crate::clock::Timestamp;
use crate::event::{NodeId, Reason};
use crate::store::{NewConnection, Opened, Publish, Published, Record, Result, StoreError};
use crate::wake::{Hint, Wake};

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
struct Done {
    published: Vec<Published>,
    opened: Vec<Result<Opened>>,
    grown: Vec<Grown>,
}

enum Failure {
    /// Another program's transaction kept the file locked: no command is to blame.
    NotBegun(StoreError),
    /// A statement failed, and nothing was done.
    Undone(StoreError),
    /// The commit failed, and what was done is unknown.
    Unknown(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Undone(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Undone(error.into())
    }
}

impl Batch {
    /// Takes one more. Commands that want a transaction of their own have no
    /// place here.
    pub(super) fn add(&mut self, command: Command) {
        match command {
            Command::Append(publish, answer, permit) => {
                self.items += publish.events.len().max(1);
                let payloads = publish.events.iter().map(|new| new.event.payload.get().len());
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
    fn fail(self, mut error: impl FnMut() -> StoreError) {
        for (_, answer, _) in self.appends {
            let _ = answer.send(Err(error()));
        }
        for (_, answer) in self.records {
            let _ = answer.send(Err(error()));
        }
        for (_, answer) in self.opens {
            let _ = answer.send(Err(error()));
        }
    }
}

/// Commits a batch and answers everyone in it. An error says that a commit
/// failed, after which nothing may be written any more.
pub(super) async fn commit(
    connection: &mut SqliteConnection,
    node: NodeId,
    wake: &Wake,
    batch: Batch,
) -> std::result::Result<(), String> {
    let error = match attempt(connection, node, &batch).await {
        Ok(done) => return tell(connection, node, wake, batch, done).await,
        Err(Failure::Unknown(reason)) => {
            batch.fail(|| StoreError::Unknown(reason.clone()));
            return Err(reason);
        }
        Err(Failure::NotBegun(error)) => {
            // One by one they would wait for the same lock, one after the other.
            tracing::warn!(%error, "the file can't be written to; whoever waits is told so");
            let text = error.to_string();
            batch.fail(|| StoreError::Unavailable(text.clone()));
            return Ok(());
        }
        Err(Failure::Undone(error)) => error,
    };
    if batch.commands() <= 1 {
        let text = error.to_string();
        let mut error = Some(error);
        batch.fail(|| error.take().unwrap_or_else(|| StoreError::Unavailable(text.clone())));
        return Ok(());
    }
    tracing::warn!(%error, "a group commit was undone; each command is tried by itself");
    let mut apart = batch.apart().into_iter();
    while let Some(single) = apart.next() {
        // Boxed because it ends here again, once, for a single command.
        if let Err(reason) = Box::pin(commit(connection, node, wake, single)).await {
            apart.for_each(|rest| rest.fail(|| StoreError::Unavailable(reason.clone())));
            return Err(reason);
        }
    }
    Ok(())
}

async fn attempt(
    connection: &mut SqliteConnection,
    node: NodeId,
    batch: &Batch,
) -> std::result::Result<Done, Failure> {
    let now = Timestamp::now();
    let begun = connection.begin_with("begin immediate").await;
    let mut transaction = begun.map_err(|error| Failure::NotBegun(error.into()))?;
    let publishes: Vec<&Publish> = batch.appends.iter().map(|(publish, ..)| publish).collect();
    let appended = append::append(&mut transaction, now, &publishes).await?;
    // Before the openings, so that a position which is left behind now can be
    // taken over at once.
    let records = batch.records.iter().flat_map(|(records, _)| records);
    record(&mut transaction, node, records).await?;
    let mut opened = Vec::with_capacity(batch.opens.len());
    for (new, _) in &batch.opens {
        opened.push(match open_connection(&mut transaction, now, node, new).await {
            // Found out before anything was written.
            Err(error @ StoreError::NotFound(_)) => Err(error),
            other => Ok(other?),
        });
    }
    match transaction.commit().await {
        Ok(()) => Ok(Done { published: appended.answers, opened, grown: appended.grown }),
        Err(error) => Err(Failure::Unknown(error.to_string())),
    }
}

/// Wakes and answers everyone after the commit.
async fn tell(
    connection: &mut SqliteConnection,
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
            abandoned
                .add(Command::Record(vec![closed_unused(&new)], tokio::sync::oneshot::channel().0));
        }
    }
    if abandoned.items > 0 {
        return Box::pin(commit(connection, node, wake, abandoned)).await;
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
