//! Decides which connections are admitted, and which are evicted for them. The table has no clock
//! and no sockets; the caller closes evicted connections.
//!
//! There are two limits: on handshakes in progress, and on connections that carry no gateway's
//! stream. (A gateway's WebSocket has left the table.) At a limit, a new connection is admitted and another one is evicted: the one
//! that has waited longest, of the source that holds most connections. So each source keeps at
//! least an equal share, and a peer that opens connections without using them only replaces its
//! own. A connection with a request in progress is never evicted. One whose peer has authenticated
//! is evicted only if there is no other.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use crate::admission::rates::Source;

/// The limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Handshakes in progress.
    pub(super) handshakes: usize,
    /// Connections that carry no gateway's stream, including handshakes.
    pub(super) connections: usize,
    /// Additional connections, for probes and admins, while no other connection can be evicted.
    pub(super) reserved: usize,
}

/// The id of a connection in the table. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u64);

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The TLS handshake is in progress.
    Handshake,
    /// No request is in progress, and none has authenticated yet.
    Idle,
    /// No request is in progress; an earlier one has authenticated.
    Authenticated,
    /// A request is in progress, or a balancer has not named its client yet.
    Busy,
    /// A gateway receives events over it. Not counted here; `delivery.max_connections` limits these.
    Streaming,
}

/// The result of admitting a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// The new connection; `None` if it is refused.
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

/// All connections that are not gateways' sockets.
#[derive(Debug)]
pub(super) struct Table {
    limits: Limits,
    entries: HashMap<Id, Entry>,
    /// How many of them carry a gateway's stream.
    streaming: usize,
    handshakes: Ranking,
    /// Handshakes, and idle connections that have not authenticated.
    unauthenticated: Ranking,
    authenticated: Ranking,
    changes: u64,
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            streaming: 0,
            handshakes: Ranking::default(),
            unauthenticated: Ranking::default(),
            authenticated: Ranking::default(),
            changes: 0,
        }
    }

    /// Admits a connection, and evicts others as needed. A balancer's connection is busy until its
    /// [client is known](Self::name_client), because until then it can't be counted for any source.
    pub(super) fn admit(&mut self, source: Source, is_balancer: bool) -> Admission {
        let mut evicted = if is_balancer { Vec::new() } else { self.free_handshake() };
        while self.counted() >= self.limits.connections
            && let Some(id) = self.candidate()
        {
            self.leave(id);
            evicted.push(id);
        }
        let is_reserve = self.counted() >= self.limits.connections;
        if self.counted() >= self.limits.connections.saturating_add(self.limits.reserved) {
            return Admission { id: None, evicted };
        }
        let id = Id(self.changes + 1);
        let phase = if is_balancer { Phase::Busy } else { Phase::Handshake };
        self.put(id, Entry { source, phase, since: 0, is_reserve });
        Admission { id: Some(id), evicted }
    }

    /// The connections that are limited here.
    fn counted(&self) -> usize {
        self.entries.len() - self.streaming
    }

    /// Evicts handshakes until there is room for another one.
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

    /// Evicts up to `count` connections, because the process has run out of a resource.
    pub(super) fn evict(&mut self, count: usize) -> Vec<Id> {
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

    /// Changes the phase of a connection; false if it was evicted.
    pub(super) fn enter(&mut self, id: Id, phase: Phase) -> bool {
        let Some(entry) = self.take(id) else {
            return false;
        };
        self.put(id, Entry { phase, ..entry });
        true
    }

    /// Sets the client that a balancer has named; its handshake begins. Returns connections to
    /// close.
    pub(super) fn name_client(&mut self, id: Id, source: Source) -> Vec<Id> {
        let Some(entry) = self.take(id) else {
            return Vec::new();
        };
        let evicted = self.free_handshake();
        self.put(id, Entry { source, phase: Phase::Handshake, ..entry });
        evicted
    }

    fn put(&mut self, id: Id, mut entry: Entry) {
        self.changes += 1;
        entry.since = self.changes;
        self.rank(id, &entry, Ranking::insert);
        self.streaming += usize::from(entry.phase == Phase::Streaming);
        self.entries.insert(id, entry);
    }

    fn take(&mut self, id: Id) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.rank(id, &entry, Ranking::remove);
        self.streaming -= usize::from(entry.phase == Phase::Streaming);
        Some(entry)
    }

    /// Removes a connection that has ended or has become a gateway's socket.
    pub(super) fn leave(&mut self, id: Id) {
        self.take(id);
    }

    /// Whether a connection is in excess of the ordinary limit, so that only probes and admins may
    /// use it.
    pub(super) fn is_reserve(&self, id: Id) -> bool {
        self.counted() > self.limits.connections
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
            Phase::Busy | Phase::Streaming => {}
        }
    }
}

/// Since when a connection waits, and its id.
type Rank = (u64, Id);

/// Waiting connections by source. Each operation takes logarithmic time, because attackers decide
/// how often it runs.
#[derive(Debug, Default)]
struct Ranking {
    by_source: HashMap<Source, BTreeSet<Rank>>,
    /// The source with most connections is last; among equals, the one that has waited longest.
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
