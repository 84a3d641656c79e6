//! Hints that a log has grown. A hint may be lost or duplicated: it makes a lane read sooner, but
//! never decides what is sent.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dashmap::DashMap;
use tokio::sync::{Notify, broadcast, watch};

use crate::event::{Event, GatewayKey, Sequence};

/// Capacity of each gateway's hint channel. A lane that lags further behind reads the log instead.
const CARRIED_HINTS: usize = 16;

/// A gateway's log has reached a head. Contains the new rows if they are still in memory.
#[derive(Clone, Debug)]
pub struct Hint {
    /// The log's last sequence.
    pub head: Sequence,
    /// The appended rows, consecutive, ending at `head`; may be empty.
    pub rows: Arc<[(Sequence, Arc<Event>)]>,
    /// When they were committed.
    pub committed_at: Instant,
}

impl Hint {
    /// A hint about rows that have just been committed.
    pub fn new(head: Sequence, rows: impl Into<Arc<[(Sequence, Arc<Event>)]>>) -> Self {
        Self { head, rows: rows.into(), committed_at: Instant::now() }
    }
}

/// What a lane must know of a gateway's log besides its rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The log's last sequence, as far as is known here.
    pub head: Sequence,
    /// The newest change to the delivery of the log that is known here.
    pub control: Control,
}

/// How a gateway's log is delivered. The higher revision is the newer state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Raised by each pause, resume, skip and purge that concerns the log.
    pub revision: i64,
    /// Whether nothing is sent for now.
    pub is_paused: bool,
}

#[derive(Debug)]
struct Topic {
    state: watch::Sender<LogState>,
    hints: broadcast::Sender<Hint>,
}

impl Topic {
    /// Wakes the lanes by a hint without rows, in the order in which they began to wait. A watch channel
    /// wakes its receivers in random order, so the change of the state follows.
    fn wake_in_order(&self, head: Sequence) {
        let _ = self.hints.send(Hint::new(head, []));
    }
}

/// Sends hints from writers to lanes and jobs. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    topics: DashMap<GatewayKey, Topic>,
    /// Gateways to sweep. Locked only to insert, or to take the whole set.
    sweep_requests: Mutex<BTreeSet<GatewayKey>>,
    sweep: Notify,
    /// Notified when this node has appended something.
    growth: Notify,
    /// Notified when this node has stored a bulk job.
    bulk: Notify,
    /// Notified when something may have been written, on this node or another one.
    change: Notify,
}

/// A lane's receiver of hints for one gateway.
#[derive(Debug)]
pub struct Subscription {
    /// The newest state. Never misses the last value.
    pub state: watch::Receiver<LogState>,
    /// New rows. May lag, in which case the lane reads the log.
    pub hints: broadcast::Receiver<Hint>,
}

impl Wake {
    /// Subscribes to one gateway. Subscribe before reading the log, so that no event falls in
    /// between.
    pub fn subscribe(&self, gateway: GatewayKey) -> Subscription {
        let topic = self.0.topics.entry(gateway).or_insert_with(|| Topic {
            state: watch::Sender::default(),
            hints: broadcast::Sender::new(CARRIED_HINTS),
        });
        Subscription { state: topic.state.subscribe(), hints: topic.hints.subscribe() }
    }

    /// Notifies lanes that this node has appended to a gateway's log. Call it after the commit.
    pub fn appended(&self, gateway: GatewayKey, hint: Hint) {
        if let Some(topic) = self.0.topics.get(&gateway) {
            let head = hint.head;
            // Before the head, because a lane that sees only the head reads the log. Without a
            // subscriber nothing is lost, because the event is in the log.
            let _ = topic.hints.send(hint);
            raise(&topic, head);
        }
        self.0.growth.notify_one();
        self.request_sweep(gateway);
    }

    /// Notifies lanes that another node has appended to a gateway's log. That node does the rest, such
    /// as the sweep.
    pub fn reached(&self, gateway: GatewayKey, head: Sequence) {
        if let Some(topic) = self.0.topics.get(&gateway)
            && head > topic.state.borrow().head
        {
            topic.wake_in_order(head);
            raise(&topic, head);
        }
    }

    /// Notifies lanes that the delivery of a gateway's log has changed, on any node. An older change
    /// than the newest that is known has no effect.
    pub fn changed(&self, gateway: GatewayKey, control: Control) {
        if let Some(topic) = self.0.topics.get(&gateway) {
            if control.revision > topic.state.borrow().control.revision {
                topic.wake_in_order(Sequence::ZERO);
            }
            topic.state.send_if_modified(|state| {
                let is_newer = control.revision > state.control.revision;
                if is_newer {
                    state.control = control;
                }
                is_newer
            });
        }
    }

    /// Waits until this node has appended something since the last call.
    pub async fn grown(&self) {
        self.0.growth.notified().await;
    }

    /// Requests that the worker of bulk jobs looks for work. Call it after the commit that stored
    /// a job.
    pub fn request_bulk_work(&self) {
        self.0.bulk.notify_one();
    }

    /// Waits until work on bulk jobs is requested, if it was not since the last call.
    pub async fn bulk_work_requested(&self) {
        self.0.bulk.notified().await;
    }

    /// Notifies the feed that something may have been written. Costs nothing while there is no feed.
    pub fn written(&self) {
        self.0.change.notify_one();
    }

    /// Waits until something may have been written since the last call. For one caller: the feed.
    pub async fn change(&self) {
        self.0.change.notified().await;
    }

    /// The gateways that have subscribers.
    pub fn subscribed(&self) -> Vec<GatewayKey> {
        let live = self.0.topics.iter().filter(|topic| topic.state.receiver_count() > 0);
        live.map(|topic| *topic.key()).collect()
    }

    /// Requests a sweep of a gateway that may have undelivered events and no live connection.
    pub fn request_sweep(&self, gateway: GatewayKey) {
        self.0.sweep_requests.lock().unwrap_or_else(PoisonError::into_inner).insert(gateway);
        self.0.sweep.notify_one();
    }

    /// Waits until a sweep is requested, and takes all requests.
    pub async fn sweep_requests(&self) -> Vec<GatewayKey> {
        loop {
            let taken = std::mem::take(
                &mut *self.0.sweep_requests.lock().unwrap_or_else(PoisonError::into_inner),
            );
            if !taken.is_empty() {
                return taken.into_iter().collect();
            }
            self.0.sweep.notified().await;
        }
    }

    /// Removes the channels of gateways without subscribers. Call it regularly.
    pub fn forget_idle(&self) {
        self.0.topics.retain(|_, topic| topic.state.receiver_count() > 0);
    }
}

fn raise(topic: &Topic, to: Sequence) {
    topic.state.send_if_modified(|state| {
        let grown = to > state.head;
        if grown {
            state.head = to;
        }
        grown
    });
}
