//! Supersession: of the events of one type that have the same *collapse key*, only the newest goes to a
//! gateway that had no connection when they were published. The older ones are withheld, and each is
//! recorded as superseded by the sequence of the newest.
//!
//! It is decided when a connection is opened, before anything is sent on it, and only for events that no
//! connection can have been sent: those that were appended after the gateway's last connection had
//! ended, while the new connection is its only one. All others are sent, whatever their keys. So an event
//! that was in flight is never withheld, whatever became of its connection, and a gateway that is
//! connected gets every event.
//!
//! An event supersedes only events of its own type: instances of a gateway may ask for different types,
//! and one that does not want the newest event might lack an older one that it wants.
//!
//! Nor does an event supersede one that expires later or never: if the newer one then expired before it
//! was sent, neither would arrive.
//!
//! An event of a type that is declared a *barrier* ends collapsing: events before and after it never
//! supersede one another, and it takes no part itself. Neither does an event that has expired, or that an
//! admin has skipped or purged. Redrives, replays and resends are orders of an admin, and append
//! deliveries without a collapse key.
//!
//! The backlog is examined backwards, in bounded pages. What is beyond the [limits](MAX_EXAMINED) is
//! sent in any case.

use std::collections::BTreeMap;

use super::Range;
use super::limits::MAX_RANGE_LENGTH;
use crate::clock::Timestamp;
use crate::event::{CollapseKey, ConnectionId, EventType, GatewayKey, Sequence};

/// Deliveries with a collapse key that are examined in one transaction.
pub const PAGE: usize = 500;
/// Deliveries with a collapse key, the newest ones, that are examined for one connection.
pub const MAX_EXAMINED: usize = 100_000;
/// Pairs of a type and a collapse key that are kept for one connection. Events with other keys, which are
/// older, are sent.
pub const MAX_KEYS: usize = 10_000;
/// What the column of the collapse key has for a barrier.
pub const BARRIER: &str = "";
/// How the detail of an attempt begins.
const DETAIL: &str = "superseded by ";

/// How an event takes part in supersession.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collapse {
    /// It supersedes older events of its type with this key.
    Key(CollapseKey),
    /// Events before and after it do not supersede one another.
    Barrier,
}

impl Collapse {
    /// As it is stored.
    pub fn stored(&self) -> &str {
        match self {
            Self::Key(key) => key.as_str(),
            Self::Barrier => BARRIER,
        }
    }
}

/// A delivery that has a collapse key or is a barrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collapsible {
    /// Its sequence.
    pub sequence: Sequence,
    /// Its event's type.
    pub event_type: EventType,
    /// Its collapse key, or [`BARRIER`].
    pub key: String,
    /// Whether it is going to be sent: it has not expired, and is not withheld.
    pub is_open: bool,
    /// When its event expires, if it does.
    pub expires_at: Option<Timestamp>,
}

/// Consecutive deliveries that the same newer one supersedes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// The older deliveries.
    pub range: Range,
    /// The newest one, which is sent.
    pub by: Sequence,
}

impl Superseded {
    /// What the ledger says about attempts at them.
    pub fn detail(&self) -> String {
        format!("{DETAIL}{}", self.by)
    }

    /// The sequence in the detail of an attempt.
    pub fn by_of(detail: &str) -> Option<Sequence> {
        detail.strip_prefix(DETAIL)?.parse().ok().map(Sequence)
    }
}

/// The backlog of a connection that was just opened, and how far it was examined.
#[derive(Clone, Debug)]
pub struct Supersession {
    /// The gateway.
    pub gateway: GatewayKey,
    /// The connection, on which nothing was sent yet.
    pub connection: ConnectionId,
    /// What precedes it is still to be examined.
    pub before: Sequence,
    /// Whether everything was examined.
    pub is_done: bool,
    /// How many deliveries are superseded so far.
    pub superseded: u64,
    examined: usize,
    /// For each type and key the delivery since the last barrier that supersedes older ones, and when its
    /// event expires.
    newest: BTreeMap<(EventType, String), (Sequence, Option<Timestamp>)>,
}

impl Supersession {
    /// The backlog up to the head of the log when the connection was opened.
    pub fn new(gateway: GatewayKey, connection: ConnectionId, head: Sequence) -> Self {
        Self {
            gateway,
            connection,
            before: head.next(),
            is_done: false,
            superseded: 0,
            examined: 0,
            newest: BTreeMap::new(),
        }
    }

    /// Takes the next page, newest first, which is the last one if it has fewer than [`PAGE`] rows.
    /// Returns what newer deliveries supersede, newest first.
    pub fn examine(&mut self, page: Vec<Collapsible>) -> Vec<Superseded> {
        self.examined += page.len();
        self.is_done = page.len() < PAGE || self.examined >= MAX_EXAMINED;
        let mut found: Vec<Superseded> = Vec::new();
        for Collapsible { sequence, event_type, key, is_open, expires_at } in page {
            self.before = sequence;
            if key == BARRIER {
                self.newest.clear();
                continue;
            }
            if !is_open {
                continue;
            }
            let name = (event_type, key);
            let newer = self.newest.get(&name);
            let Some(by) = newer.filter(|(_, end)| lasts(*end, expires_at)).map(|(by, _)| *by)
            else {
                if newer.is_some() || self.newest.len() < MAX_KEYS {
                    self.newest.insert(name, (sequence, expires_at));
                }
                continue;
            };
            self.superseded += 1;
            match found.last_mut() {
                Some(Superseded { range, by: same })
                    if *same == by
                        && range.first == sequence.next()
                        && range.last.0 - sequence.0 < MAX_RANGE_LENGTH =>
                {
                    range.first = sequence;
                }
                _ => {
                    let range = Range { first: sequence, last: sequence };
                    found.push(Superseded { range, by });
                }
            }
        }
        found
    }
}

/// Whether an event that expires at `one` does not expire before one that expires at `other`.
fn lasts(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    one.is_none_or(|one| other.is_some_and(|other| one >= other))
}

#[cfg(test)]
mod tests;
