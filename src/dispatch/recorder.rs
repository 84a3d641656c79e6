//! Writes outcomes down, in the order in which they came, in groups. A crash
//! before a group is written means a repeat, not a loss.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::store::{Record, Store, StoreError};

/// Outcomes that may wait. Past it the lanes wait, and with them their gateways.
const QUEUE: usize = 8192;
/// Outcomes per call of the store at the most.
const GROUP: usize = 2048;
/// First and longest pause before the store is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

enum Entry {
    Record(Record),
    Flush(oneshot::Sender<()>),
}

/// The way to the recorder. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Recorder(mpsc::Sender<Entry>);

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Record(record) => record.fmt(f),
            Self::Flush(_) => f.write_str("Flush"),
        }
    }
}

impl Recorder {
    pub(super) fn spawn(store: Arc<dyn Store>) -> Self {
        let (entries, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(store, waiting));
        Self(entries)
    }

    /// Has an outcome recorded.
    pub(super) async fn put(&self, record: Record) {
        // The recorder outlives its senders.
        let _ = self.0.send(Entry::Record(record)).await;
    }

    /// The same from where nothing can be awaited.
    pub(super) fn put_detached(&self, record: Record) {
        if let Err(mpsc::error::TrySendError::Full(entry)) = self.0.try_send(Entry::Record(record))
        {
            let entries = self.0.clone();
            tokio::spawn(async move { drop(entries.send(entry).await) });
        }
    }

    /// Returns when everything put before is on record.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Entry::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

async fn run(store: Arc<dyn Store>, mut waiting: mpsc::Receiver<Entry>) {
    let mut group = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let mut records = Vec::with_capacity(group.len());
        let mut flushes = Vec::new();
        for entry in group.drain(..) {
            match entry {
                Entry::Record(record) => records.push(record),
                Entry::Flush(done) => flushes.push(done),
            }
        }
        if !records.is_empty() {
            write(store.as_ref(), records).await;
        }
        for done in flushes {
            // Whoever stopped waiting needs no answer.
            let _ = done.send(());
        }
    }
}

/// Writes a group; a store that is away is tried until it is back.
async fn write(store: &dyn Store, records: Vec<Record>) {
    let mut pause = BACKOFF.0;
    loop {
        match store.record(records.clone()).await {
            Ok(()) => return,
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(%error, records = records.len(), "outcomes wait for the database");
                // Full jitter, so that nodes don't come back together.
                tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
            Err(error) => {
                tracing::error!(%error, records = records.len(), "outcomes could not be recorded; what they confirm will be sent again");
                return;
            }
        }
    }
}
