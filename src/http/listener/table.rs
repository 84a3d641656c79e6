//! Decides which connections are admitted and which are closed to make place
//! for others. It knows no clock and no sockets; the caller closes what the
//! table evicts.
//!
//! Two bounds: handshakes under way, and connections that are not (yet) a
//! gateway's socket. At a bound the newcomer is admitted and another connection
//! is evicted: the one that has been waiting longest, of the source that holds
//! most. So each source keeps at least an equal share, and a peer that opens
//! connections without using them only replaces its own. A connection with a
//! request under way is never evicted; one whose peer has authenticated only if
//! there is no other.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::admission::rates::Source;

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes under way.
    pub(super) handshakes: usize,
    /// Connections, handshakes included.
    pub(super) connections: usize,
    /// Further connections, for probes and admins, while none of the others can
    /// be evicted.
    pub(super) reserved: usize,
}

/// A connection's identity in the table; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u64);

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The TLS handshake is not done.
    Handshake,
    /// No request is under way, and none was authenticated so far.
    Idle,
    /// No request is under way; an earlier one was authenticated.
    Authenticated,
    /// A request is under way, or a balancer has yet to name its client.
    Busy,
}

/// The answer to a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// The newcomer; `None` if it is refused.
    pub(super) id: Option<Id>,
    /// Connections to close.
    pub(super) evicted: Vec<Id>,
}

#[derive(Debug)]
struct Entry {
    source: Source,
    phase: Phase,
    /// When the phase began, counted in changes of the table.
    since: u64,
    is_reserve: bool,
}

/// All connections that are not sockets.
#[derive(Debug)]
pub(super) struct Table {
    limits: Limits,
    entries: HashMap<Id, Entry>,
    handshakes: Ranking,
    /// Handshakes and idle connections on which nothing was authenticated.
    unauthenticated: Ranking,
    authenticated: Ranking,
    changes: u64,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            handshakes: Ranking::default(),
            unauthenticated: Ranking::default(),
            authenticated: Ranking::default(),
            changes: 0,
        }
    }

    /// Takes a newcomer, and evicts others as needed. A balancer's connection is
    /// busy until its [client is known](Self::name_client): it belongs to no
    /// peer that could be judged by what it holds.
    pub(super) fn admit(&mut self, source: Source, is_balancer: bool) -> Admission {
        let mut evicted = if is_balancer { Vec::new() } else { self.free_handshake() };
        while self.entries.len() >= self.limits.connections
            && let Some(id) = self.candidate()
        {
            self.leave(id);
            evicted.push(id);
        }
        let is_reserve = self.entries.len() >= self.limits.connections;
        if self.entries.len() >= self.limits.connections.saturating_add(self.limits.reserved) {
            return Admission { id: None, evicted };
        }
        let id = Id(self.changes + 1);
        let phase = if is_balancer { Phase::Busy } else { Phase::Handshake };
        self.put(id, Entry { source, phase, since: 0, is_reserve });
        Admission { id: Some(id), evicted }
    }

    /// Evicts handshakes until there is place for one more.
    fn free_handshake(&mut self) -> Vec<Id> {
        let mut evicted = Vec::new();
        while self.handshakes.len >= self.limits.handshakes
            && let Some(id) = self.handshakes.longest_of_largest()
        {
            self.leave(id);
            evicted.push(id);
        }
        evicted
    }

    /// Evicts up to so many, because the process has run out of something.
    pub(super) fn shed(&mut self, count: usize) -> Vec<Id> {
        let mut evicted = Vec::new();
        while evicted.len() < count
            && let Some(id) = self.candidate()
        {
            self.leave(id);
            evicted.push(id);
        }
        evicted
    }

    fn candidate(&self) -> Option<Id> {
        self.unauthenticated
            .longest_of_largest()
            .or_else(|| self.authenticated.longest_of_largest())
    }

    /// Changes what a connection is at; false if it was evicted before.
    pub(super) fn enter(&mut self, id: Id, phase: Phase) -> bool {
        let Some(entry) = self.entries.remove(&id) else {
            return false;
        };
        self.rank(id, &entry, Ranking::remove);
        self.put(id, Entry { phase, ..entry });
        true
    }

    /// A balancer has named its client, whose handshake begins. Returns
    /// connections to close.
    pub(super) fn name_client(&mut self, id: Id, source: Source) -> Vec<Id> {
        let Some(entry) = self.entries.remove(&id) else {
            return Vec::new();
        };
        self.rank(id, &entry, Ranking::remove);
        let evicted = self.free_handshake();
        self.put(id, Entry { source, phase: Phase::Handshake, ..entry });
        evicted
    }

    fn put(&mut self, id: Id, mut entry: Entry) {
        self.changes += 1;
        entry.since = self.changes;
        self.rank(id, &entry, Ranking::insert);
        self.entries.insert(id, entry);
    }

    /// Removes a connection that has ended or has become a socket.
    pub(super) fn leave(&mut self, id: Id) {
        if let Some(entry) = self.entries.remove(&id) {
            self.rank(id, &entry, Ranking::remove);
        }
    }

    /// Whether a connection stands outside the ordinary places, and may be used
    /// by probes and admins only.
    pub(super) fn is_reserve(&self, id: Id) -> bool {
        self.entries.len() > self.limits.connections
            && self.entries.get(&id).is_some_and(|entry| entry.is_reserve)
    }

    fn rank(&mut self, id: Id, entry: &Entry, how: fn(&mut Ranking, Source, Rank)) {
        let rank = (entry.since, id);
        match entry.phase {
            Phase::Handshake => {
                how(&mut self.handshakes, entry.source, rank);
                how(&mut self.unauthenticated, entry.source, rank);
            }
            Phase::Idle => how(&mut self.unauthenticated, entry.source, rank),
            Phase::Authenticated => how(&mut self.authenticated, entry.source, rank),
            Phase::Busy => {}
        }
    }
}

/// Since when a connection waits, and which it is.
type Rank = (u64, Id);

/// Waiting connections by source. Each operation takes logarithmic time, for an
/// attacker decides how often they are needed.
#[derive(Debug, Default)]
struct Ranking {
    by_source: HashMap<Source, BTreeSet<Rank>>,
    /// The largest source last; among equals the one that has waited longest.
    order: BTreeSet<(usize, Reverse<Rank>, Source)>,
    len: usize,
}

impl Ranking {
    fn insert(&mut self, source: Source, rank: Rank) {
        self.change(source, |ranks| ranks.insert(rank));
        self.len += 1;
    }

    fn remove(&mut self, source: Source, rank: Rank) {
        self.change(source, |ranks| ranks.remove(&rank));
        self.len -= 1;
    }

    fn change(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<Rank>) -> bool) {
        let place = |ranks: &BTreeSet<Rank>| Some((ranks.len(), Reverse(*ranks.first()?), source));
        let ranks = self.by_source.entry(source).or_default();
        if let Some(before) = place(ranks) {
            self.order.remove(&before);
        }
        change(ranks);
        match place(ranks) {
            Some(after) => _ = self.order.insert(after),
            None => _ = self.by_source.remove(&source),
        }
    }

    fn longest_of_largest(&self) -> Option<Id> {
        self.order.last().map(|(_, Reverse((_, id)), _)| *id)
    }
}

#[cfg(test)]
mod tests;
