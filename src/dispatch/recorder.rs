//! Takes outcomes from all lanes and puts them on record in groups, in the
//! order in which they came. So no lane waits for a commit before it reads the
//! next receipt; and while the database is away, outcomes are kept and tried
//! again. Signs of life are in no hurry: they go with the next outcome, or else
//! together after a while, for each commit costs more than all of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::backoff::is_passing;
use crate::jobs::{Job, Next, Supervisor};
use crate::store::{Record, Store, StoreError};

/// Outcomes that may wait; past it lanes keep theirs, and merge them.
const QUEUE: usize = 4096;
/// Outcomes of one commit at the most, and as many signs of life.
const GROUP: usize = 512;
/// How long signs of life wait for company.
const SIGNS: Duration = Duration::from_secs(1);
/// Tries that a group still gets once no lane is left to hand in another.
const LAST_TRIES: u32 = 5;
/// An idle recorder shows this often that it still runs.
const INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Entry {
    Record(Record),
    Flush(oneshot::Sender<()>),
}

/// Where lanes hand in outcomes.
#[derive(Clone, Debug)]
pub(super) struct Recorder(mpsc::Sender<Entry>);

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Place<'a>(mpsc::Permit<'a, Entry>);

impl Place<'_> {
    /// Fills it.
    pub(super) fn put(self, record: Record) {
        self.0.send(Entry::Record(record));
    }
}

impl Recorder {
    /// Starts the job; it ends after the last handle.
    pub(super) fn start(store: Arc<dyn Store>, jobs: &Supervisor) -> Self {
        let (entries, waiting) = mpsc::channel(QUEUE);
        jobs.start_until_finished("recorder", INTERVAL, Recording::new(store, waiting));
        Self(entries)
    }

    /// Waits for a place; `None` if the task is gone.
    pub(super) async fn reserve(&self) -> Option<Place<'_>> {
        self.0.reserve().await.ok().map(Place)
    }

    /// Waits for a place and fills it.
    pub(super) async fn record(&self, record: Record) {
        if let Some(place) = self.reserve().await {
            place.put(record);
        }
    }

    /// Waits until all outcomes handed in so far are on record. Signs of life
    /// are none: whoever asks how a connection ended does not ask for them.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Entry::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// The job. What it was handed stays here until it is on record, whatever
/// becomes of a run.
struct Recording {
    store: Arc<dyn Store>,
    waiting: mpsc::Receiver<Entry>,
    entries: Vec<Entry>,
    /// Signs of life, and when they are to be stored without any outcome.
    signs: Vec<Record>,
    due: Instant,
    /// One group, to be committed together.
    group: Vec<Record>,
    /// A group that was refused: each is tried by itself.
    singly: VecDeque<Record>,
    flushes: Vec<oneshot::Sender<()>>,
    /// Set while the store has a group: a panic there leaves it set.
    is_in_hand: bool,
    is_last: bool,
    last_tries: u32,
}

impl Recording {
    fn new(store: Arc<dyn Store>, waiting: mpsc::Receiver<Entry>) -> Self {
        Self {
            store,
            waiting,
            entries: Vec::with_capacity(GROUP),
            signs: Vec::new(),
            due: Instant::now(),
            group: Vec::new(),
            singly: VecDeque::new(),
            flushes: Vec::new(),
            is_in_hand: false,
            is_last: false,
            last_tries: 0,
        }
    }

    fn has_work(&self) -> bool {
        !self.group.is_empty() || !self.singly.is_empty()
    }

    /// Makes a group of what was handed in.
    fn gather(&mut self) {
        for entry in self.entries.drain(..) {
            match entry {
                Entry::Record(sign @ Record::Heartbeat { .. }) => {
                    if self.signs.is_empty() {
                        self.due = Instant::now() + SIGNS;
                    }
                    self.signs.push(sign);
                }
                Entry::Record(record) => self.group.push(record),
                Entry::Flush(done) => self.flushes.push(done),
            }
        }
        let is_time = self.is_last || Instant::now() >= self.due || self.signs.len() >= GROUP;
        if !self.group.is_empty() || is_time {
            self.group.append(&mut self.signs);
        }
    }

    /// Stores some records. A passing error is returned, and they are kept.
    async fn store(&mut self, records: Vec<Record>) -> Result<Stored, StoreError> {
        self.is_in_hand = true;
        let stored = self.store.record(records).await;
        self.is_in_hand = false;
        match stored {
            Ok(()) => Ok(Stored::Yes),
            Err(error) if is_passing(&error) => {
                if self.waiting.is_closed() {
                    self.last_tries += 1;
                }
                if self.last_tries > LAST_TRIES { Ok(Stored::Refused(error)) } else { Err(error) }
            }
            Err(error) => Ok(Stored::Refused(error)),
        }
    }

    /// The store panicked at what it was given: the same must not be tried for ever.
    fn put_down(&mut self) {
        self.is_in_hand = false;
        if !self.group.is_empty() {
            self.singly.extend(self.group.drain(..));
        } else if let Some(record) = self.singly.pop_front() {
            tracing::error!(?record, "the store panicked at an outcome; it is lost");
        }
    }
}

/// What became of records.
enum Stored {
    Yes,
    /// They can't be stored at all.
    Refused(StoreError),
}

impl Job for Recording {
    type Error = StoreError;

    async fn wait(&mut self) {
        if self.has_work() || !self.entries.is_empty() {
            return;
        }
        let more = self.waiting.recv_many(&mut self.entries, GROUP);
        self.is_last = if self.signs.is_empty() {
            more.await == 0
        } else {
            // Nothing came, and it is time for the signs alone.
            timeout_at(self.due, more).await == Ok(0)
        };
    }

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        if self.is_in_hand {
            self.put_down();
        }
        if !self.has_work() {
            self.gather();
        }
        if !self.group.is_empty()
            && let Stored::Refused(error) = self.store(self.group.clone()).await?
        {
            // A record that can't be stored at all must not hold up the others.
            if self.group.len() > 1 {
                tracing::warn!(%error, count = self.group.len(), "a group of outcomes was refused; trying each by itself");
            }
            self.singly.extend(self.group.drain(..));
        }
        self.group.clear();
        while let Some(record) = self.singly.front().cloned() {
            if let Stored::Refused(error) = self.store(vec![record.clone()]).await? {
                tracing::error!(%error, ?record, "an outcome can't be put on record and is lost");
            }
            self.singly.pop_front();
        }
        for done in self.flushes.drain(..) {
            let _ = done.send(());
        }
        Ok(if self.is_last { Next::Finished } else { Next::Wait })
    }
}
