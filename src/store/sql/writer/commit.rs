//! Group commit: a batch is one transaction. If it fails because of one of its commands, each
//! command is tried in a transaction of its own.

use tokio::sync::watch;

use super::super::dialect::Session;
use super::batch::{Attempt, Batch, Done};
use super::command::Command;
use super::session::{Failure, Fatal, WriterSession as _};
use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::store::{Record, Result, StoreError};
use crate::wake::{Hint, Wake};

/// How often a batch that lost a race against another node is repeated as a whole.
const RACES: usize = 3;

/// Commits a batch and answers its commands. Sets `failed` before it reports a failed commit after which
/// the writer must stop.
pub(crate) async fn commit(
    session: &mut Session,
    node: NodeId,
    wake: &Wake,
    failed: &watch::Sender<Option<String>>,
    mut batch: Batch,
) -> Result<(), Fatal> {
    let (mut races, mut is_full) = (RACES, false);
    let failure = loop {
        match attempt(session, node, &batch).await {
            Ok(Attempt::Done(done)) => {
                return answer(session, node, wake, failed, batch, done).await;
            }
            Ok(Attempt::TooLarge(deliveries)) => {
                return one_by_one(session, node, wake, failed, batch.split(&deliveries)).await;
            }
            Err(Failure::Raced(_)) if races > 0 => races -= 1,
            Err(
                Failure::Refused(StoreError::StorageFull)
                | Failure::Undone(StoreError::StorageFull),
            ) if !is_full => {
                // The space that is left is for commands that cannot be refused.
                is_full = true;
                batch.refuse_appends();
            }
            Err(failure) => break failure,
        }
    };
    let concerns_one_command =
        matches!(failure, Failure::Undone(_) | Failure::Raced(_)) && batch.commands() > 1;
    let (error, fatal) = failure.into_error();
    if !concerns_one_command {
        let fatal = if Session::FAILED_COMMIT_IS_FATAL { fatal } else { Ok(()) };
        if let Err(Fatal(reason)) = &fatal {
            // First, so that the node is unready when its callers learn of the failure.
            failed.send_replace(Some(reason.clone()));
        }
        batch.fail(&error);
        return fatal;
    }
    tracing::warn!(%error, "a group commit was rolled back; executing each command in its own transaction");
    one_by_one(session, node, wake, failed, batch.into_single()).await
}

/// Commits batches one after another.
async fn one_by_one(
    session: &mut Session,
    node: NodeId,
    wake: &Wake,
    failed: &watch::Sender<Option<String>>,
    batches: Vec<Batch>,
) -> Result<(), Fatal> {
    let mut batches = batches.into_iter();
    while let Some(batch) = batches.next() {
        // Boxed because of the recursion, which ends because batches get smaller.
        if let Err(Fatal(reason)) = Box::pin(commit(session, node, wake, failed, batch)).await {
            batches.for_each(|rest| rest.fail(&StoreError::Unavailable(reason.clone())));
            return Err(Fatal(reason));
        }
    }
    Ok(())
}

async fn attempt(session: &mut Session, node: NodeId, batch: &Batch) -> Result<Attempt, Failure> {
    if batch.commands() == 0 {
        return Ok(Attempt::Done(Done::default()));
    }
    session.attempt(node, batch).await
}

/// Wakes lanes and answers the commands of a batch that was committed.
async fn answer(
    session: &mut Session,
    node: NodeId,
    wake: &Wake,
    failed: &watch::Sender<Option<String>>,
    batch: Batch,
    done: Done,
) -> Result<(), Fatal> {
    for grown in done.grown {
        wake.appended(grown.gateway, Hint::new(grown.head, grown.rows));
    }
    for ((_, answer, _), published) in batch.appends.into_iter().zip(done.published) {
        let _ = answer.send(Ok(published));
    }
    for (records, answer) in batch.records {
        for record in &records {
            if let Record::Closed { gateway, .. } = record {
                wake.request_sweep(*gateway);
            }
        }
        let _ = answer.send(Ok(()));
    }
    let mut abandoned = Vec::new();
    for ((new, answer), opened) in batch.opens.into_iter().zip(done.opened) {
        if let Err(Ok(_)) = answer.send(opened) {
            // The caller stopped waiting, so it will not record the end of the connection.
            abandoned.push(new.unused(Timestamp::now()));
        }
    }
    for ((opening, answer), opened) in batch.instances.into_iter().zip(done.instances) {
        if let Err(Ok(_)) = answer.send(opened) {
            abandoned.push(opening.connection.unused(Timestamp::now()));
        }
    }
    if abandoned.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::default();
    // A record never needs a transaction of its own.
    let _ = batch.add(Command::Record(abandoned, tokio::sync::oneshot::channel().0));
    Box::pin(commit(session, node, wake, failed, batch)).await
}
