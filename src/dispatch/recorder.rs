//! Takes outcomes from all lanes and records them in groups, in the order in which
//! they came. So no lane waits for a commit before it reads the next receipt. While the
//! database is unavailable, outcomes are kept and retried. Activity is not urgent:
//! it is recorded with the next outcome, or together after a while, because a commit
//! costs more than all of it.
//!
//! A group that can't be stored for a permanent reason, or whose statements fail, is split:
//! each outcome is stored by itself, so that it does not hold up the outcomes of other
//! gateways. One that fails alone for a permanent reason is discarded, logged and counted
//! (`gateway_events_outcomes_discarded_total`). One whose statements fail is retried beside
//! the following groups, and is discarded after [`MAX_FAILURES`] failures while the store
//! is healthy. Of the end of a connection only the outcome of its deliveries is discarded: a
//! connection that looked live would keep the failures of its gateway from being recorded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::backoff::is_passing;
use crate::jobs::{Job, Next, Supervisor};
use crate::metric;
use crate::store::{Health, InstanceOutcome, Ledger, Record, StoreError};

/// Outcomes that may be queued. Beyond that, lanes keep and merge theirs.
const QUEUE: usize = 4096;
/// The maximum number of outcomes of one commit, and of activity records.
const GROUP: usize = 512;
/// How many receipts a record costs that takes statements of its own, such as a rejection. Otherwise
/// the rejections of one gateway would delay publishers and the outcomes of others by seconds.
const FULL_COST: usize = 8;
/// How long activity waits for an outcome to be recorded with.
const ACTIVITY_DELAY: Duration = Duration::from_secs(1);
/// Attempts at a group after the last lane has ended.
const LAST_TRIES: u32 = 5;
/// After this many failures an outcome is the cause of its failures.
const MAX_FAILURES: u32 = 6;
/// How long outcomes whose statements failed wait for their next attempt.
const RETRY: Duration = Duration::from_millis(500);
/// The interval of the job.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Entry {
    Record(Record),
    Flush(oneshot::Sender<()>),
}

impl Entry {
    /// What it adds to a transaction, in receipts, which share statements.
    const fn cost(&self) -> usize {
        match self {
            Self::Flush(_)
            | Self::Record(
                Record::Confirmed { .. }
                | Record::ConfirmedElsewhere { .. }
                | Record::Heartbeat { .. }
                | Record::Instance { outcome: InstanceOutcome::Acknowledged { .. }, .. },
            ) => 1,
            Self::Record(_) => FULL_COST,
        }
    }
}

/// How many of these entries one transaction takes, in their order.
fn fitting(entries: &[Entry]) -> usize {
    let mut cost = 0;
    let fits = |entry: &&Entry| {
        cost += entry.cost();
        cost <= GROUP
    };
    entries.iter().take_while(fits).count()
}

/// The lanes' handle.
#[derive(Clone, Debug)]
pub(super) struct Recorder(mpsc::Sender<Entry>);

/// A reserved slot in the queue.
#[derive(Debug)]
pub(super) struct QueueSlot<'a>(mpsc::Permit<'a, Entry>);

impl QueueSlot<'_> {
    /// Fills the slot.
    pub(super) fn put(self, record: Record) {
        self.0.send(Entry::Record(record));
    }
}

impl Recorder {
    /// Starts the job; it ends after the last handle. `recorded` changes after each commit.
    pub(super) fn start(
        ledger: Arc<dyn Ledger>,
        health: Arc<dyn Health>,
        recorded: watch::Sender<()>,
        jobs: &Supervisor,
    ) -> Self {
        let (entries, waiting) = mpsc::channel(QUEUE);
        let job = Recording::new(ledger, health, recorded, waiting);
        jobs.start_until_finished("recorder", INTERVAL, job);
        Self(entries)
    }

    /// Waits for a free slot; `None` if the job has ended.
    pub(super) async fn reserve(&self) -> Option<QueueSlot<'_>> {
        self.0.reserve().await.ok().map(QueueSlot)
    }

    /// Waits for a free slot and fills it.
    pub(super) async fn record(&self, record: Record) {
        if let Some(slot) = self.reserve().await {
            slot.put(record);
        }
    }

    /// Waits until all outcomes handed over so far are recorded. Does not wait for activity, which
    /// callers don't need.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Entry::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// The job. Outcomes stay here until they are recorded, even if a run is aborted.
struct Recording {
    ledger: Arc<dyn Ledger>,
    health: Arc<dyn Health>,
    /// Changes after each commit.
    recorded: watch::Sender<()>,
    waiting: mpsc::Receiver<Entry>,
    entries: Vec<Entry>,
    /// Activity, and when to store it without any outcome.
    activity: Vec<Record>,
    due: Instant,
    /// A group, which is committed together.
    group: Vec<Record>,
    /// A group that can't be stored as a whole: each is stored by itself.
    singly: VecDeque<Record>,
    /// Records whose statements failed when they were stored by themselves, oldest first. While
    /// there are [`GROUP`], no more are taken from the queue.
    failing: VecDeque<Failing>,
    /// The one of these that is being stored.
    retrying: Option<Failing>,
    retry_at: Instant,
    /// Numbers the groups, so that a flush waits for earlier failing records only.
    groups: u64,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    /// Set while the store has a group, and still set after a panic there.
    is_store_busy: bool,
    is_last: bool,
    last_tries: u32,
}

/// A record whose statements failed.
struct Failing {
    record: Record,
    failures: u32,
    /// The number of the group that it came in.
    group: u64,
}

impl Recording {
    fn new(
        ledger: Arc<dyn Ledger>,
        health: Arc<dyn Health>,
        recorded: watch::Sender<()>,
        waiting: mpsc::Receiver<Entry>,
    ) -> Self {
        Self {
            ledger,
            health,
            recorded,
            waiting,
            entries: Vec::with_capacity(GROUP),
            activity: Vec::new(),
            due: Instant::now(),
            group: Vec::new(),
            singly: VecDeque::new(),
            failing: VecDeque::new(),
            retrying: None,
            retry_at: Instant::now(),
            groups: 0,
            flushes: Vec::new(),
            is_store_busy: false,
            is_last: false,
            last_tries: 0,
        }
    }

    fn has_work(&self) -> bool {
        !self.group.is_empty() || !self.singly.is_empty()
    }

    /// Forms a group from the queue.
    fn gather(&mut self) {
        self.groups += 1;
        let waiting = u32::try_from(self.waiting.len() + self.entries.len()).unwrap_or(u32::MAX);
        metrics::gauge!(metric::RECORDER_QUEUE).set(f64::from(waiting));
        let taken = fitting(&self.entries);
        for entry in self.entries.drain(..taken) {
            match entry {
                Entry::Record(heartbeat @ Record::Heartbeat { .. }) => {
                    if self.activity.is_empty() {
                        self.due = Instant::now() + ACTIVITY_DELAY;
                    }
                    self.activity.push(heartbeat);
                }
                Entry::Record(record) => self.group.push(record),
                Entry::Flush(done) => self.flushes.push((self.groups, done)),
            }
        }
        let is_time = self.is_last || Instant::now() >= self.due || self.activity.len() >= GROUP;
        if !self.group.is_empty() || is_time {
            self.group.append(&mut self.activity);
        }
    }

    /// Stores some records. An error that may pass is returned, and they are kept.
    async fn store(&mut self, records: Vec<Record>) -> Result<Stored, StoreError> {
        self.is_store_busy = true;
        let stored = self.ledger.record(records).await;
        self.is_store_busy = false;
        match stored {
            Ok(()) => {
                self.recorded.send_replace(());
                Ok(Stored::Yes)
            }
            Err(error @ StoreError::StatementFailed(_)) => Ok(Stored::Failed(error)),
            Err(error) if is_passing(&error) => {
                if self.waiting.is_closed() {
                    self.last_tries += 1;
                }
                if self.last_tries > LAST_TRIES { Ok(Stored::Refused(error)) } else { Err(error) }
            }
            Err(error) => Ok(Stored::Refused(error)),
        }
    }

    /// Discards a record that can't be stored. Returns what is to be stored in its place.
    fn discard(mut record: Record, error: &dyn std::fmt::Display) -> Option<Record> {
        metrics::counter!(metric::OUTCOMES_DISCARDED).increment(1);
        tracing::error!(%error, ?record, "failed to record an outcome; it is discarded");
        let Record::Closed { detail, unconfirmed, give_up_after, .. } = &mut record else {
            return None;
        };
        detail.clear();
        *give_up_after = None;
        let is_shorter = !std::mem::take(unconfirmed).is_empty();
        is_shorter.then_some(record)
    }

    /// The store panicked at these records, which must not be retried forever.
    fn recover_after_panic(&mut self) {
        self.is_store_busy = false;
        if !self.group.is_empty() {
            self.singly.extend(self.group.drain(..));
        } else if let Some(record) = self.singly.pop_front() {
            self.singly.extend(Self::discard(record, &"the store panicked"));
        } else if let Some(failing) = self.retrying.take() {
            self.singly.extend(Self::discard(failing.record, &"the store panicked"));
        }
    }

    /// Stores the records that are left of a split group, each by itself.
    async fn store_singly(&mut self) -> Result<(), StoreError> {
        while let Some(record) = self.singly.front().cloned() {
            let instead = match self.store(vec![record.clone()]).await? {
                Stored::Yes => None,
                Stored::Refused(error) => Self::discard(record, &error),
                Stored::Failed(_) => {
                    if self.failing.is_empty() {
                        self.retry_at = Instant::now() + RETRY;
                    }
                    self.failing.push_back(Failing { record, failures: 1, group: self.groups });
                    None
                }
            };
            self.singly.pop_front();
            self.singly.extend(instead);
        }
        Ok(())
    }

    /// Retries the records whose statements failed, when it is time.
    async fn retry(&mut self) -> Result<(), StoreError> {
        self.failing.extend(self.retrying.take());
        if self.failing.is_empty() || !(self.is_last || Instant::now() >= self.retry_at) {
            return Ok(());
        }
        for _ in 0..self.failing.len() {
            self.retrying = self.failing.pop_front();
            let Some(record) = self.retrying.as_ref().map(|failing| failing.record.clone()) else {
                break;
            };
            let stored = self.store(vec![record]).await?;
            let Some(mut failing) = self.retrying.take() else { break };
            let error = match stored {
                Stored::Yes => continue,
                Stored::Refused(error) => error,
                Stored::Failed(error) => {
                    failing.failures += 1;
                    let is_cause = failing.failures >= MAX_FAILURES || self.failing.len() >= GROUP;
                    if !(self.is_last || is_cause && self.health.check().await.is_ok()) {
                        self.failing.push_back(failing);
                        continue;
                    }
                    error
                }
            };
            let Failing { record, group, .. } = failing;
            let instead = Self::discard(record, &error);
            self.failing.extend(instead.map(|record| Failing { record, failures: 0, group }));
        }
        self.retry_at = Instant::now() + RETRY;
        Ok(())
    }

    /// Completes the flushes whose records are all recorded or discarded.
    fn complete_flushes(&mut self) {
        let oldest = self.failing.iter().map(|failing| failing.group).min();
        for (group, done) in std::mem::take(&mut self.flushes) {
            if oldest.is_some_and(|oldest| oldest <= group) {
                self.flushes.push((group, done));
            } else {
                let _ = done.send(());
            }
        }
    }
}

/// What happened to records.
enum Stored {
    Yes,
    /// They can never be stored.
    Refused(StoreError),
    /// A statement failed, and nothing was stored.
    Failed(StoreError),
}

impl Job for Recording {
    type Error = StoreError;

    async fn wait(&mut self) {
        if self.failing.len() >= GROUP {
            return sleep_until(self.retry_at).await;
        }
        if self.has_work() || !self.entries.is_empty() {
            return;
        }
        let more = self.waiting.recv_many(&mut self.entries, GROUP);
        // When there is something to do although no outcome arrives.
        let activity = (!self.activity.is_empty()).then_some(self.due);
        let retry = (!self.failing.is_empty()).then_some(self.retry_at);
        self.is_last = match activity.into_iter().chain(retry).min() {
            None => more.await == 0,
            Some(at) => timeout_at(at, more).await == Ok(0),
        };
    }

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        if self.is_store_busy {
            self.recover_after_panic();
        }
        if !self.has_work() && self.failing.len() < GROUP {
            self.gather();
        }
        if !self.group.is_empty()
            && let Stored::Refused(error) | Stored::Failed(error) =
                self.store(self.group.clone()).await?
        {
            // One record must not block the others.
            if self.group.len() > 1 {
                tracing::warn!(%error, count = self.group.len(), "failed to record a group of outcomes; trying each by itself");
            }
            self.singly.extend(self.group.drain(..));
        }
        self.group.clear();
        self.store_singly().await?;
        self.retry().await?;
        self.complete_flushes();
        Ok(if self.is_last { Next::Finished } else { Next::Wait })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::event::{ConnectionId, GatewayKey, Reason, Sequence};
    use crate::store::{Range, ReportedFailure};

    fn receipt(gateway: i64) -> Entry {
        let (first, at) = (Sequence(1), Timestamp::now());
        Entry::Record(Record::Confirmed {
            gateway: GatewayKey(gateway),
            connection: ConnectionId::new(),
            instance: "".into(),
            range: Range { first, last: first },
            started_at: at,
            finished_at: at,
        })
    }

    fn rejection(sequence: i64) -> Entry {
        Entry::Record(Record::Reported {
            gateway: GatewayKey(1),
            connection: ConnectionId::new(),
            instance: "".into(),
            sequence: Sequence(sequence),
            result: Err(ReportedFailure::new(Reason::Invalid, String::new())),
            confirms: None,
            at: Timestamp::now(),
        })
    }

    #[test]
    fn a_burst_of_rejections_is_recorded_in_small_groups() {
        let receipts: Vec<Entry> = (0..600).map(receipt).collect();
        assert_eq!(fitting(&receipts), GROUP);
        let rejections: Vec<Entry> = (0..600).map(rejection).collect();
        assert_eq!(fitting(&rejections), GROUP / FULL_COST);
        let mixed: Vec<Entry> = (0..500).map(receipt).chain((0..600).map(rejection)).collect();
        assert_eq!(fitting(&mixed), 501);
        assert_eq!(fitting(&[]), 0);
    }
}
