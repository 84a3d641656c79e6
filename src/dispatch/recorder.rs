//! Takes outcomes from all lanes and puts them on record in groups, in the
//! order in which they came. So no lane waits for a commit before it reads the
//! next receipt; and while the database is away, outcomes are kept and tried
//! again. Signs of life are in no hurry: they go with the next outcome, or else
//! together after a while, for each commit costs more than all of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::backoff::{Backoff, is_passing};
use crate::clock::millis;
use crate::store::{Record, Store};

/// Outcomes that may wait; past it lanes keep theirs, and merge them.
const QUEUE: usize = 4096;
/// Outcomes of one commit at the most, and as many signs of life.
const GROUP: usize = 512;
/// How long signs of life wait for company.
const SIGNS: Duration = Duration::from_secs(1);
/// Tries that a group still gets once nobody is left to hand in another.
const LAST_TRIES: u32 = 5;

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
    /// Starts the task; it ends with the last handle.
    pub(super) fn spawn(store: Arc<dyn Store>) -> Self {
        let (entries, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(store, waiting));
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

async fn run(store: Arc<dyn Store>, mut waiting: mpsc::Receiver<Entry>) {
    let mut entries = Vec::with_capacity(GROUP);
    let mut signs = Vec::new();
    let mut due = Instant::now();
    loop {
        let more = waiting.recv_many(&mut entries, GROUP);
        let is_last = if signs.is_empty() {
            more.await == 0
        } else {
            // Nothing came, and it is time for the signs alone.
            timeout_at(due, more).await == Ok(0)
        };
        let (mut records, mut flushes) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries.drain(..) {
            match entry {
                Entry::Record(sign @ Record::Heartbeat { .. }) => {
                    if signs.is_empty() {
                        due = Instant::now() + SIGNS;
                    }
                    signs.push(sign);
                }
                Entry::Record(record) => records.push(record),
                Entry::Flush(done) => flushes.push(done),
            }
        }
        if !records.is_empty() || is_last || Instant::now() >= due || signs.len() >= GROUP {
            records.append(&mut signs);
        }
        if !records.is_empty() {
            commit(store.as_ref(), &records, &waiting).await;
        }
        for done in flushes {
            let _ = done.send(());
        }
        if is_last {
            return;
        }
    }
}

/// Tries until it is done. A record that can't be stored at all must not hold
/// up the others: then each is tried by itself.
async fn commit(store: &dyn Store, records: &[Record], waiting: &mpsc::Receiver<Entry>) {
    let Err(error) = try_hard(store, records, waiting).await else {
        return;
    };
    if let [record] = records {
        tracing::error!(%error, ?record, "an outcome can't be put on record and is lost");
        return;
    }
    tracing::warn!(%error, count = records.len(), "a group of outcomes was refused; trying each by itself");
    for record in records {
        if let Err(error) = try_hard(store, std::slice::from_ref(record), waiting).await {
            tracing::error!(%error, ?record, "an outcome can't be put on record and is lost");
        }
    }
}

async fn try_hard(
    store: &dyn Store,
    records: &[Record],
    waiting: &mpsc::Receiver<Entry>,
) -> crate::store::Result<()> {
    let mut backoff = Backoff::default();
    let mut last_tries = 0;
    loop {
        match store.record(records.to_vec()).await {
            Err(error) if is_passing(&error) => {
                if waiting.is_closed() {
                    last_tries += 1;
                    if last_tries > LAST_TRIES {
                        return Err(error);
                    }
                }
                let wait = backoff.next();
                tracing::warn!(
                    %error,
                    count = records.len(),
                    retry_in_ms = millis(wait),
                    "outcomes could not be put on record; they are kept and tried again"
                );
                tokio::time::sleep(wait).await;
            }
            outcome => return outcome,
        }
    }
}
