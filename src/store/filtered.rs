//! Deliveries that instances of a gateway have filtered: their types are not among those that the
//! instance asked for, or it started after them.
//!
//! A filter moves the position of its instance, and with it that of the gateway, so the position
//! alone does not distinguish a filtered delivery from one that was received. The attempts do. A delivery
//! that the gateway's position has passed and that is no dead letter is
//!
//! | state | if |
//! |---|---|
//! | filtered | an instance filtered it, and none received or applied it or read it in a snapshot |
//! | received, applied | otherwise. The instances that filtered it do not count: if all must confirm, it is applied once each of the others that received it has applied it |
//!
//! A delivery that was [superseded](super::supersession) is passed over in the same way, and the attempts
//! show it, too: once the position has passed it, it is superseded, unless an instance received it.
//!
//! Once retention has removed the attempts, the position alone decides again.

use std::collections::{BTreeMap, BTreeSet};

use super::{DeliveryKey, Outcome};

/// An outcome of attempts of an instance at a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceAttempt {
    /// The delivery.
    pub key: DeliveryKey,
    /// The instance's name; empty for unnamed connections.
    pub instance: String,
    /// Whether it is still an instance of the gateway: it has neither expired nor been forgotten.
    pub is_current: bool,
    /// The outcome.
    pub outcome: Outcome,
}

/// The state of a delivery that an instance has filtered, or that was superseded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// The instances that filtered it, by name; the name of unnamed connections is empty.
    pub by: BTreeSet<String>,
    /// Whether another instance received or applied it, or read it in a snapshot.
    pub is_received: bool,
    /// Whether an instance applied it.
    pub is_applied: bool,
    /// Whether a newer event superseded it.
    pub is_superseded: bool,
    /// Instances that received it, and have neither applied nor filtered it.
    not_applied: BTreeSet<String>,
}

impl Filtered {
    /// Those of these deliveries that an instance has filtered or a newer event has superseded.
    pub fn of(attempts: Vec<InstanceAttempt>) -> BTreeMap<DeliveryKey, Self> {
        let mut all: BTreeMap<DeliveryKey, Self> = BTreeMap::new();
        // Received before applied and filtered, which take it back.
        let (received, others): (Vec<_>, Vec<_>) =
            attempts.into_iter().partition(|attempt| attempt.outcome == Outcome::Received);
        for InstanceAttempt { key, instance, is_current, outcome } in
            received.into_iter().chain(others)
        {
            let of = all.entry(key).or_default();
            match outcome {
                Outcome::Received => {
                    of.is_received = true;
                    if is_current {
                        of.not_applied.insert(instance);
                    }
                }
                Outcome::Applied => {
                    (of.is_received, of.is_applied) = (true, true);
                    of.not_applied.remove(&instance);
                }
                Outcome::Snapshot => of.is_received = true,
                Outcome::Filtered => {
                    of.not_applied.remove(&instance);
                    of.by.insert(instance);
                }
                Outcome::Superseded => of.is_superseded = true,
                Outcome::Failed | Outcome::Unknown => {}
            }
        }
        all.retain(|_, of| of.is_superseded || !of.by.is_empty());
        all
    }

    /// Whether each instance that received it and did not filter it has applied it.
    pub fn all_applied(&self) -> bool {
        self.is_applied && self.not_applied.is_empty()
    }
}
