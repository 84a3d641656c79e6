//! Which positions of a gateway's unnamed connections are kept, and where a new
//! one starts.
//!
//! # Definitions
//!
//! The *confirmed position of a gateway* is the highest sequence up to which one of
//! its unnamed connections has confirmed everything: by a receipt, by a report, or
//! because an event was passed over for good (expired, trimmed, given up). It never
//! moves back. An event at or below it counts as delivered, unless it is a dead
//! letter, and is never recorded as failed afterwards.
//!
//! Each unnamed connection also has a *position of its own*, because replicas of a
//! gateway can't be told apart: each of them must get every event. A position
//! outlives its connection, since the replica may come back.
//!
//! # The bound
//!
//! A connection that dies without FIN leaves a position too, although its replica
//! comes back on a new connection. So the number of positions is bounded by the
//! number of replicas: the one that the operator declared, or the largest number of
//! connections that were alive at the same time within the last hour. A connection
//! is alive from its opening to the last sign of life on it, so a half-open one does
//! not count.
//!
//! While there are more positions than replicas, one of them belongs to a replica
//! that has come back on a later connection. Which one is unknown. A position can
//! be superseded by a connection that was opened after the last sign of life on its
//! own. Every connection starts at the lowest position that is kept, so dropping the
//! *highest* one of these skips nothing: for each replica that is away, a position at
//! or below its own remains.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::Sequence;

/// Connections that ended longer ago say nothing about the number of replicas.
pub const REPLICAS_WINDOW: Duration = Duration::from_hours(1);
/// Ended connections of a gateway that are looked at, the newest ones.
pub const RECENT_CONNECTIONS: i64 = 1000;

/// The life of an unnamed connection, as far as it is on record.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// When it was opened.
    pub connected_at: Timestamp,
    /// The last sign of life.
    pub seen_at: Timestamp,
}

impl Life {
    /// That of an ended connection. `None` without a sign of life after its opening: it may
    /// have been given up before a gateway had it, and shows no replica.
    pub fn ended(connected_at: Timestamp, seen_at: Timestamp) -> Option<Self> {
        (seen_at > connected_at).then_some(Self { connected_at, seen_at })
    }
}

/// An unnamed connection's own position.
#[derive(Clone, Debug)]
pub struct Position {
    /// The name it is kept by: the connection's id.
    pub instance: String,
    /// The highest sequence up to which it confirmed everything.
    pub received: Sequence,
    /// When the connection was alive.
    pub life: Life,
    /// Whether the connection is closed on record.
    pub is_closed: bool,
    /// When a later connection took its place.
    pub superseded_at: Option<Timestamp>,
}

impl Position {
    /// A sign of life after it was superseded shows that it was not.
    fn is_superseded(&self) -> bool {
        self.superseded_at.is_some_and(|at| self.life.seen_at <= at)
    }
}

/// The largest number of connections that were alive at the same time since `since`.
pub fn alive_at_once(lives: &[Life], since: Timestamp) -> usize {
    let starts = lives.iter().map(|life| life.connected_at.max(since));
    let alive = |at: Timestamp| {
        let others = lives.iter().filter(|other| {
            // At its first instant a connection is alive, whatever follows.
            other.connected_at == at || other.connected_at < at && other.seen_at > at
        });
        others.count()
    };
    starts.map(alive).max().unwrap_or(0)
}

/// What the opening of an unnamed connection does to the positions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Where it starts; `None`: at the gateway's confirmed position.
    pub start: Option<Sequence>,
    /// Positions to be deleted.
    pub dropped: Vec<String>,
    /// Positions of connections that are open on record, superseded since the
    /// given instant. They are deleted later, unless there is a sign of life.
    pub superseded: Vec<(String, Timestamp)>,
}

/// Opens a connection at `now`, of a gateway with so many replicas.
pub fn open(positions: Vec<Position>, replicas: usize, now: Timestamp) -> Opening {
    let mut opening = Opening::default();
    let (superseded, mut kept): (Vec<_>, Vec<_>) =
        positions.into_iter().partition(Position::is_superseded);
    let over = superseded.into_iter().filter(|position| position.is_closed);
    opening.dropped.extend(over.map(|position| position.instance));
    // The same order in every store.
    kept.sort_by(|one, other| {
        (one.received, one.life.connected_at, &one.instance).cmp(&(
            other.received,
            other.life.connected_at,
            &other.instance,
        ))
    });
    opening.bound(&mut kept, replicas, None);
    opening.start = kept.iter().map(|position| position.received).min();
    // The new connection has a position, too.
    opening.bound(&mut kept, replicas.saturating_sub(1), Some(now));
    opening
}

impl Opening {
    /// Drops the highest positions that a later connection, or one that is opened
    /// now, may have superseded, until so many are left.
    fn bound(&mut self, kept: &mut Vec<Position>, most: usize, now: Option<Timestamp>) {
        while kept.len() > most {
            let successor = |one: &Position| {
                let later = kept.iter().map(|other| other.life.connected_at);
                let later =
                    later.filter(|at| *at >= one.life.seen_at && *at > one.life.connected_at);
                now.or_else(|| later.min())
            };
            // Of several at the same height one that is closed, for it is certain.
            let highest = kept
                .iter()
                .enumerate()
                .filter_map(|(nth, one)| Some((one.received, one.is_closed, nth, successor(one)?)))
                .max();
            let Some((_, is_closed, nth, at)) = highest else { return };
            let Position { instance, .. } = kept.remove(nth);
            if is_closed {
                self.dropped.push(instance);
            } else {
                self.superseded.push((instance, at));
            }
        }
    }
}

#[cfg(test)]
mod tests;
