//! Which positions of a gateway's unnamed connections are kept, and where a new connection starts.
//!
//! # Definitions
//!
//! The *confirmed position of a gateway* is the highest sequence up to which one of its connections
//! has confirmed everything: by a receipt, by a report, or because an event was skipped permanently
//! (expired, trimmed, given up). It never moves back. An event at or below it counts as delivered,
//! unless it is a dead letter, and is never recorded as failed afterwards. An admin may want all
//! [named instances](super::instances) to confirm instead.
//!
//! A *named replica* is an [instance](super::instances): a replica that states a stable name when it
//! connects, in reliable mode. Its position is kept under this name, and it resumes there. All other
//! connections are *unnamed*.
//!
//! Each unnamed connection also has a *position of its own*, because unnamed replicas can't be told
//! apart: each of them must get every event. A position outlives its connection, because the
//! replica may reconnect.
//!
//! The table `cursors` holds all positions. In the HTTP API a *cursor* is something else: the place
//! where the next page of a list begins.
//!
//! # The bound
//!
//! A connection that dies without FIN leaves a position, too, although its replica reconnects. So
//! the number of positions is bounded by the number of replicas: the one that the operator
//! declared, or the largest number of connections that were alive at the same time within the last
//! hour. A connection is alive from its opening to its last activity, so a half-open one does not
//! count.
//!
//! While there are more positions than replicas, one of them belongs to a replica that has
//! reconnected. Which one is unknown. A position can be superseded by a connection that was opened
//! after the last activity of its own connection. Every connection starts at the lowest position
//! that is kept, so superseding the highest position that can be superseded loses no events: for
//! each replica that is disconnected, a position at or below its own remains.
//!
//! # Superseded positions
//!
//! The connection of the lower position that remains may have ended earlier, so the position may be
//! deleted earlier. If a superseded position was deleted at once, a replica that disconnected from
//! it less than an hour ago could start at a higher one. So it is stored as long as any other one,
//! and no connection starts there, until fewer positions are kept than there are replicas: then the
//! lowest superseded ones are kept again. Those that ended within the same five minutes are merged
//! into one, which is as low as the lowest and ends with the last. A gateway with one replica needs
//! none of them.
//!
//! # More declared replicas than there are
//!
//! If a gateway declares two replicas and has one, a reconnect may repeat up to an hour of confirmed
//! events. Its first connection ends at 10, its second one at 100, and the third one starts at 10
//! again. This can't be avoided: if two replicas had made the same connections, the first one at 10
//! and the second one at 100, the third connection could be that of the first replica, which lacks
//! the events after 10. The connections are the same in both cases, and an address does not identify
//! a replica. Only the operator knows how many there are, so the case is reported ([`Repeats`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::Sequence;

/// Connections that ended longer ago do not count towards the number of replicas.
pub const REPLICAS_WINDOW: Duration = Duration::from_hours(1);
/// How many of a gateway's newest ended connections are examined.
pub const RECENT_CONNECTIONS: i64 = 1000;
/// Superseded positions that ended within the same of these become one.
const MERGED: Duration = Duration::from_mins(5);
/// The shortest time.
const INSTANT: Duration = Duration::from_micros(1);

/// When an unnamed connection was alive, as far as recorded.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// When it was opened.
    pub connected_at: Timestamp,
    /// The last activity.
    pub seen_at: Timestamp,
}

impl Life {
    /// The lifetime of an ended connection. `None` if it showed no activity after its opening: it
    /// may have ended before the gateway used it, so it is no evidence of a replica.
    pub fn ended(connected_at: Timestamp, seen_at: Timestamp) -> Option<Self> {
        (seen_at > connected_at).then_some(Self { connected_at, seen_at })
    }
}

/// The position of an unnamed connection.
#[derive(Clone, Debug)]
pub struct Position {
    /// The name under which it is stored: the connection's id.
    pub instance: String,
    /// The highest sequence up to which it confirmed everything.
    pub received: Sequence,
    /// When the connection was alive.
    pub life: Life,
    /// When the connection was recorded as closed; `None` if it is open. The position is kept for
    /// an hour after that.
    pub left_at: Option<Timestamp>,
    /// When a later connection superseded it.
    pub superseded_at: Option<Timestamp>,
}

impl Position {
    /// Whether the connection is recorded as closed.
    pub const fn is_closed(&self) -> bool {
        self.left_at.is_some()
    }

    /// If the connection was active after `superseded_at`, the guess was wrong and the position is
    /// still in use.
    fn is_superseded(&self) -> bool {
        self.superseded_at.is_some_and(|at| self.life.seen_at <= at)
    }
}

/// The largest number of connections that were alive at the same time since `since`.
pub fn alive_at_once(lives: &[Life], since: Timestamp) -> usize {
    let mut starts: Vec<Timestamp> = lives.iter().map(|life| life.connected_at).collect();
    // A connection is alive at the instant of its opening.
    let end = |life: &Life| life.seen_at.max(life.connected_at.plus(INSTANT));
    let mut ends: Vec<Timestamp> = lives.iter().map(end).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    let alive = |at: Timestamp| {
        let (started, ended) =
            (starts.partition_point(|it| *it <= at), ends.partition_point(|it| *it <= at));
        started.saturating_sub(ended)
    };
    starts.iter().map(|start| alive((*start).max(since))).max().unwrap_or(0)
}

/// Confirmed events that a new connection is sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeats {
    /// The sequences between the connection's start and the gateway's confirmed position.
    pub events: i64,
    /// How many replicas the gateway declares in excess of those that were alive at the same time
    /// within the last hour. If there are any, it probably declares too many.
    pub missing_replicas: usize,
}

impl Repeats {
    /// Those of a connection that starts at `start`.
    pub fn new(start: Sequence, confirmed: Sequence, declared: usize, alive: usize) -> Self {
        Self {
            events: (confirmed.0 - start.0).max(0),
            missing_replicas: declared.saturating_sub(alive.max(1)),
        }
    }
}

/// How opening an unnamed connection changes the positions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Where the connection starts; `None` for the gateway's confirmed position.
    pub start: Option<Sequence>,
    /// Positions to delete.
    pub dropped: Vec<String>,
    /// Positions to change.
    pub changed: Vec<Change>,
}

/// The changed instants of a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name under which it is stored.
    pub instance: String,
    /// When a later connection superseded it.
    pub superseded_at: Option<Timestamp>,
    /// When its connection, or one of a position that it replaces, was closed.
    pub left_at: Option<Timestamp>,
}

/// Opens a connection at `now`, of a gateway with this many replicas.
pub fn open(mut positions: Vec<Position>, replicas: usize, now: Timestamp) -> Opening {
    // The same order in all stores.
    positions.sort_by(|one, other| {
        (one.received, one.life.connected_at, &one.instance).cmp(&(
            other.received,
            other.life.connected_at,
            &other.instance,
        ))
    });
    let instants = |it: &Position| (it.superseded_at, it.left_at);
    let before: Vec<_> = positions.iter().map(instants).collect();
    if replicas > 1 {
        restore(&mut positions, replicas);
    }
    supersede(&mut positions, replicas, None);
    let start = positions.iter().find(|it| !it.is_superseded()).map(|it| it.received);
    // The new connection also has a position.
    supersede(&mut positions, replicas.saturating_sub(1), Some(now));
    let gone = if replicas > 1 { merge(&mut positions) } else { ended(&positions) };
    let mut opening = Opening { start, ..Opening::default() };
    for (position, before) in positions.into_iter().zip(before) {
        let (superseded_at, left_at) = instants(&position);
        let instance = position.instance;
        if gone.contains(&instance) {
            opening.dropped.push(instance);
        } else if (superseded_at, left_at) != before {
            opening.changed.push(Change { instance, superseded_at, left_at });
        }
    }
    opening
}

/// Keeps the lowest superseded positions again, until as many are kept as there are replicas.
fn restore(positions: &mut [Position], replicas: usize) {
    let kept = positions.iter().filter(|it| !it.is_superseded()).count();
    let superseded = positions.iter_mut().filter(|it| it.is_superseded());
    for position in superseded.take(replicas.saturating_sub(kept)) {
        position.superseded_at = None;
    }
}

/// Supersedes the highest positions that a later connection, or one that is opened now,
/// may have superseded, until at most `most` are kept. The positions are sorted.
fn supersede(positions: &mut [Position], most: usize, now: Option<Timestamp>) {
    let mut kept: Vec<_> = positions.iter_mut().filter(|it| !it.is_superseded()).collect();
    let mut over = kept.len().saturating_sub(most);
    let mut openings: BTreeMap<Timestamp, usize> = BTreeMap::new();
    for position in &kept {
        *openings.entry(position.life.connected_at).or_default() += 1;
    }
    // Among positions at the same sequence, supersede closed ones first: they are certainly not in
    // use.
    kept.sort_by_key(|it| (it.received, it.is_closed()));
    // One pass is enough: superseding a position only removes candidate successors, so a skipped
    // position cannot become eligible later.
    for position in kept.into_iter().rev() {
        if over == 0 {
            return;
        }
        let Life { connected_at, seen_at } = position.life;
        let later = openings.range(seen_at.max(connected_at.plus(INSTANT))..).next();
        let successor = now.map(|now| now.max(seen_at)).or(later.map(|(at, _)| *at));
        let Some(at) = successor else { continue };
        if let Some(count) = openings.get_mut(&connected_at) {
            *count -= 1;
            if *count == 0 {
                openings.remove(&connected_at);
            }
        }
        position.superseded_at = Some(at);
        over -= 1;
    }
}

/// The superseded positions whose connections have ended.
fn ended(positions: &[Position]) -> HashSet<String> {
    let ended = positions.iter().filter(|it| it.is_closed() && it.is_superseded());
    ended.map(|it| it.instance.clone()).collect()
}

/// Merges superseded positions whose connections have ended. Returns the positions to delete. For
/// each of them a position at or below it is kept at least as long.
fn merge(positions: &mut [Position]) -> HashSet<String> {
    let slot = |at: Timestamp| {
        Duration::from_micros(at.micros().unsigned_abs()).as_secs() / MERGED.as_secs()
    };
    let ended = positions.iter_mut().filter(|it| it.is_superseded());
    let mut ended: Vec<_> = ended.filter_map(|it| Some((it.left_at?, it))).collect();
    ended.sort_by(|(one_left, one), (other_left, other)| {
        (Reverse(one_left), one.received, &one.instance).cmp(&(
            Reverse(other_left),
            other.received,
            &other.instance,
        ))
    });
    let mut gone = HashSet::new();
    let mut last: Option<(Timestamp, Sequence, String)> = None;
    for (left_at, position) in ended {
        let merged = match &last {
            Some((_, received, _)) if *received <= position.received => {
                gone.insert(position.instance.clone());
                continue;
            }
            Some((later, _, higher)) if slot(*later) == slot(left_at) => {
                gone.insert(higher.clone());
                *later
            }
            _ => left_at,
        };
        position.left_at = Some(merged);
        last = Some((merged, position.received, position.instance.clone()));
    }
    gone
}

#[cfg(test)]
mod tests;
