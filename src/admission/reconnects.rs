//! Limits how often an authenticated gateway may connect: in any minute, twice the
//! number of connections that it held at once in the last hour, plus
//! `limits.attempts_per_minute`. Connections that are still open don't count, nor
//! does the one that the first attempt replaces. So a fleet of replicas reconnects
//! without waiting, and a gateway that connects and fails in a loop is slowed down.
//!
//! The connections held since the process started are kept in memory. The database, which also has
//! earlier ones and those of other nodes, is queried only for a gateway that would be refused.
//!
//! Also counts the open connections of each gateway to this node, for the limit on
//! them ([`Attempt::open`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;

use crate::event::GatewayKey;
use crate::store::{Connections, GatewayCredential, Gateways, Result};

const MINUTE: Duration = Duration::from_mins(1);
/// How long ago connections count.
const LATELY: Duration = Duration::from_hours(1);
/// How long an answer of the database is used.
const LOOKED_UP: Duration = Duration::from_secs(10);

/// The attempts of all gateways of this node.
#[derive(Debug)]
pub(crate) struct Reconnects {
    configured: usize,
    gateways: DashMap<GatewayKey, Arc<Gateway>>,
}

#[derive(Debug, Default)]
struct Gateway {
    history: Mutex<History>,
    /// The peak of its recent connections, on any node.
    peak_on_record: LookedUp,
    /// Its declared number of replicas.
    replicas: LookedUp,
}

/// The last result of the query, and when it arrived. Locked during the query, so that a fleet
/// causes only one.
#[derive(Debug, Default)]
struct LookedUp(tokio::sync::Mutex<Option<(Instant, usize)>>);

/// An attempt that was allowed. It counts against its gateway once it is dropped.
#[derive(Debug)]
pub struct Attempt {
    gateway: Arc<Gateway>,
    began: Instant,
    is_open: bool,
    is_held: bool,
}

/// Whether a gateway may make an attempt now.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It may.
    Allowed(Attempt),
    /// It has made too many.
    Refused {
        /// How long it should wait.
        wait: Duration,
    },
}

impl Reconnects {
    pub(crate) fn new(configured: u32) -> Self {
        Self {
            configured: usize::try_from(configured).unwrap_or(usize::MAX),
            gateways: DashMap::new(),
        }
    }

    /// Begins an attempt, unless the gateway makes too many.
    pub(crate) async fn begin(&self, store: &dyn Connections, key: GatewayKey) -> Result<Begun> {
        let gateway = Arc::clone(&self.gateways.entry(key).or_default());
        let began = Instant::now();
        let mut answer = gateway.history().check(began, self.configured, 0);
        if answer.is_err() {
            let peak = store.peak_connections(key, LATELY);
            let held = gateway.peak_on_record.or_look_up(peak).await?;
            answer = gateway.history().check(Instant::now(), self.configured, held);
        }
        Ok(match answer {
            Ok(()) => Begun::Allowed(Attempt { gateway, began, is_open: false, is_held: false }),
            Err(wait) => Begun::Refused { wait },
        })
    }

    /// Removes gateways without anything that could count.
    pub(crate) fn remove_unused(&self) {
        let now = Instant::now();
        self.gateways.retain(|_, gateway| {
            // An attempt of a gateway that is in use elsewhere is about to be added.
            Arc::strong_count(gateway) > 1 || !gateway.history().is_over(now)
        });
        self.gateways.shrink_to_fit();
    }
}

impl Gateway {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LookedUp {
    async fn or_look_up(&self, query: impl Future<Output = Result<usize>>) -> Result<usize> {
        let mut last = self.0.lock().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < LOOKED_UP
        {
            return Ok(answer);
        }
        let answer = query.await?;
        *last = Some((Instant::now(), answer));
        Ok(answer)
    }
}

impl Attempt {
    /// Starts opening the connection, which counts as open until the attempt is dropped. Returns
    /// false if the gateway has `limit` open connections to this node.
    pub(crate) fn open(&mut self, limit: usize) -> bool {
        let mut history = self.gateway.history();
        self.is_open = history.open < limit;
        history.open += usize::from(self.is_open);
        self.is_open
    }

    /// The declared number of replicas of the gateway; 1 if it was deleted meanwhile.
    pub(crate) async fn replicas(
        &self,
        store: &dyn Gateways,
        credential: &GatewayCredential,
    ) -> Result<usize> {
        let declared = async {
            let gateway = store.gateway(credential.organisation, credential.gateway_id).await?;
            let replicas = gateway.map_or(1, |gateway| gateway.replicas);
            Ok(usize::try_from(replicas).unwrap_or(1))
        };
        self.gateway.replicas.or_look_up(declared).await
    }

    /// The connection is recorded. It counts as held until the attempt is dropped.
    pub(crate) fn held(&mut self) {
        self.is_held = true;
        self.gateway.history().opened(Instant::now());
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut history = self.gateway.history();
        let now = Instant::now();
        history.open -= usize::from(self.is_open);
        if self.is_held {
            history.closed(now);
        }
        history.ended(self.began, now);
    }
}

/// A gateway's connections to this node.
#[derive(Debug, Default)]
struct History {
    /// When the attempts of the last minute began that have ended, oldest first.
    ended: VecDeque<Instant>,
    /// Current connections, including those that are not recorded yet.
    open: usize,
    /// Current connections that are recorded.
    held: usize,
    /// Former numbers of connections, falling, and when each was last seen.
    peaks: VecDeque<(usize, Instant)>,
}

impl History {
    /// Whether another attempt is allowed. The error is the time to wait.
    fn check(
        &mut self,
        now: Instant,
        configured: usize,
        on_record: usize,
    ) -> std::result::Result<(), Duration> {
        self.forget(now);
        let peak = self.peak().max(on_record);
        let replaced = usize::from(peak > 0);
        let most = configured.saturating_add(2 * peak + replaced).max(1);
        let Some(over) = self.ended.len().checked_sub(most - 1).filter(|over| *over > 0) else {
            return Ok(());
        };
        let began = self.ended.get(over - 1).copied().unwrap_or(now);
        Err((began + MINUTE).saturating_duration_since(now))
    }

    /// The peak of recent connections.
    fn peak(&self) -> usize {
        self.peaks.front().map_or(0, |(number, _)| *number).max(self.held)
    }

    fn opened(&mut self, now: Instant) {
        self.forget(now);
        self.held += 1;
        while self.peaks.back().is_some_and(|(number, _)| *number <= self.held) {
            self.peaks.pop_back();
        }
    }

    fn closed(&mut self, now: Instant) {
        self.forget(now);
        while self.peaks.back().is_some_and(|(number, _)| *number <= self.held) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((self.held, now));
        self.held = self.held.saturating_sub(1);
    }

    fn ended(&mut self, began: Instant, now: Instant) {
        let at = self.ended.partition_point(|other| *other <= began);
        self.ended.insert(at, began);
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while self.ended.pop_front_if(|began| now.duration_since(*began) >= MINUTE).is_some() {}
        while self.peaks.pop_front_if(|(_, seen)| now.duration_since(*seen) >= LATELY).is_some() {}
    }

    fn is_over(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.held == 0 && self.ended.is_empty() && self.peaks.is_empty()
    }
}

#[cfg(test)]
mod tests;
