//! Hints that something was appended. A hint may be lost or come twice: it
//! makes a lane look sooner, and never decides what is sent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use tokio::sync::{Notify, broadcast, watch};

use crate::event::{Event, GatewayKey, Sequence};

/// How many hints a slow lane may fall behind before it must read the log instead.
/// Each gateway has a place for so many.
const CARRIED_HINTS: usize = 16;

/// "Gateway G has reached N", with the rows that took it there, if they are
/// fresh in memory.
#[derive(Clone, Debug)]
pub struct Hint {
    /// The log's last number now.
    pub head: Sequence,
    /// The rows just appended, consecutive, ending at `head`; may be empty.
    pub rows: Arc<[(Sequence, Arc<Event>)]>,
}

#[derive(Debug)]
struct Topic {
    head: watch::Sender<Sequence>,
    hints: broadcast::Sender<Hint>,
}

/// Carries hints from whoever commits to whoever waits. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    topics: DashMap<GatewayKey, Topic>,
    /// Gateways with appended or newly unserved events, for the sweep. Held
    /// only to insert or to take the whole set.
    unswept: Mutex<HashSet<GatewayKey>>,
    sweep: Notify,
    /// Something was appended by this node.
    growth: Notify,
}

/// One lane's ear.
#[derive(Debug)]
pub struct Subscription {
    /// The newest head; never misses the last value.
    pub head: watch::Receiver<Sequence>,
    /// Fresh rows; may lag, which only costs a read.
    pub hints: broadcast::Receiver<Hint>,
}

impl Wake {
    /// Listens for one gateway. Subscribe before reading the log, so that
    /// nothing falls between.
    pub fn subscribe(&self, gateway: GatewayKey) -> Subscription {
        let topic = self.0.topics.entry(gateway).or_insert_with(|| Topic {
            head: watch::Sender::new(Sequence::ZERO),
            hints: broadcast::Sender::new(CARRIED_HINTS),
        });
        Subscription { head: topic.head.subscribe(), hints: topic.hints.subscribe() }
    }

    /// Says that a gateway's log has grown; called after the commit.
    pub fn appended(&self, gateway: GatewayKey, hint: Hint) {
        if let Some(topic) = self.0.topics.get(&gateway) {
            let head = hint.head;
            // Before the head: a lane that knows only the head reads the log.
            // Nobody listening is no error: the log keeps it.
            let _ = topic.hints.send(hint);
            raise(&topic, head);
        }
        self.0.growth.notify_one();
        self.unserved(gateway);
    }

    /// Says that a gateway's log has grown elsewhere: whoever appended has
    /// looked after everything but those who listen here.
    pub fn reached(&self, gateway: GatewayKey, head: Sequence) {
        if let Some(topic) = self.0.topics.get(&gateway) {
            raise(&topic, head);
        }
    }

    /// Waits until this node has appended something since the last time.
    pub async fn grown(&self) {
        self.0.growth.notified().await;
    }

    /// The gateways that somebody listens for.
    pub fn subscribed(&self) -> Vec<GatewayKey> {
        let live = self.0.topics.iter().filter(|topic| topic.head.receiver_count() > 0);
        live.map(|topic| *topic.key()).collect()
    }

    /// Says that a gateway may have events and nobody there to receive them.
    pub fn unserved(&self, gateway: GatewayKey) {
        self.0.unswept.lock().unwrap_or_else(PoisonError::into_inner).insert(gateway);
        self.0.sweep.notify_one();
    }

    /// Waits until there is something to sweep, and takes it.
    pub async fn unswept(&self) -> Vec<GatewayKey> {
        loop {
            let taken =
                std::mem::take(&mut *self.0.unswept.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken.into_iter().collect();
            }
            self.0.sweep.notified().await;
        }
    }

    /// Forgets gateways that nobody listens for; called now and then.
    pub fn forget_idle(&self) {
        self.0.topics.retain(|_, topic| topic.head.receiver_count() > 0);
    }
}

fn raise(topic: &Topic, to: Sequence) {
    topic.head.send_if_modified(|head| {
        let grown = to > *head;
        if grown {
            *head = to;
        }
        grown
    });
}
