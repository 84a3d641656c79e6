//! The servers that a URL lists. Connections are made to a server that accepts writes: standbys and
//! servers that an operator made read-only are skipped.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, Row as _};
use tokio::time::{sleep_until, timeout};

use super::hosts::{self, Target};
use super::sockets;
use crate::store::{Result, StoreError};

/// Timeout of connecting, and of waiting for a free connection.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// After this time without an answer, the next server is tried in parallel.
const STAGGER: Duration = Duration::from_millis(300);
/// Timeout of the check whether a server accepts writes.
pub(super) const CHECK: Duration = Duration::from_secs(2);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Any server, unless `target_session_attrs` requires one that accepts writes.
    Read,
    /// A server that accepts writes.
    Write,
}

/// Why connecting to one server failed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The error of sqlx.
    Driver(sqlx::Error),
    /// The server is read-only.
    ReadOnly,
    /// The server did not answer in time.
    NoAnswer,
}

/// Why connecting failed, for each server.
#[derive(Debug)]
pub(super) struct Refusals(pub(super) Vec<(String, Refusal)>);

/// One or several servers, one of which accepts writes.
#[derive(Debug)]
pub(super) struct Servers {
    hosts: Vec<PgConnectOptions>,
    is_read_write: bool,
    /// Index of the server that was connected to last.
    preferred: AtomicUsize,
    /// Connections opened before this must not be used any more.
    invalidated_at: Mutex<Option<Instant>>,
}

impl Servers {
    pub(super) fn new(target: Target) -> Self {
        Self {
            hosts: target.hosts,
            is_read_write: target.is_read_write,
            preferred: AtomicUsize::new(0),
            invalidated_at: Mutex::default(),
        }
    }

    /// The same servers with changed connection settings.
    pub(super) fn map(&self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self::new(Target {
            hosts: self.hosts.iter().cloned().map(change).collect(),
            is_read_write: self.is_read_write,
        })
    }

    /// Connects to the first server that permits the access. Fails after a timeout.
    pub(super) async fn connect(
        &self,
        access: Access,
    ) -> Result<(PgConnection, &PgConnectOptions), Refusals> {
        let mut refusals: Vec<_> = self.hosts.iter().map(|_| None).collect();
        let connected = timeout(CONNECT, self.race(access, &mut refusals)).await;
        if let Ok(Some((number, conn))) = connected {
            if self.preferred.swap(number, Ordering::Relaxed) != number {
                self.invalidate_connections();
                let server = hosts::name(&self.hosts[number]);
                tracing::info!(server, "connected to another database server");
            }
            return Ok((conn, &self.hosts[number]));
        }
        let refusals = self.hosts.iter().zip(refusals);
        Err(Refusals(
            refusals
                .map(|(host, refusal)| (hosts::name(host), refusal.unwrap_or(Refusal::NoAnswer)))
                .collect(),
        ))
    }

    /// Tries the preferred server first, and the next one when a server fails or does not answer
    /// soon. The first connection wins.
    async fn race(
        &self,
        access: Access,
        refusals: &mut [Option<Refusal>],
    ) -> Option<(usize, PgConnection)> {
        let (first, count) = (self.preferred.load(Ordering::Relaxed), self.hosts.len());
        let mut left = (0..count).map(|nth| (first + nth) % count).peekable();
        let mut attempts = FuturesUnordered::new();
        let mut next_at = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next_at), if left.peek().is_some() => {
                    attempts.extend(left.next().map(|number| async move {
                        (number, self.attempt(&self.hosts[number], access).await)
                    }));
                    next_at += STAGGER;
                }
                Some((number, attempted)) = attempts.next() => match attempted {
                    Ok(conn) => return Some((number, conn)),
                    Err(refusal) => {
                        refusals[number] = Some(refusal);
                        next_at = tokio::time::Instant::now();
                    }
                },
                else => return None,
            }
        }
    }

    async fn attempt(
        &self,
        host: &PgConnectOptions,
        access: Access,
    ) -> Result<PgConnection, Refusal> {
        let mut conn = host.connect().await.map_err(Refusal::Driver)?;
        sockets::prepare(host).await;
        let must_write = self.is_read_write || access == Access::Write;
        if must_write && !takes_writes(&mut conn).await.map_err(Refusal::Driver)? {
            return Err(Refusal::ReadOnly);
        }
        Ok(conn)
    }

    /// Marks all existing connections as unusable: a server failed or became read-only, which its
    /// other connections may not have noticed.
    pub(super) fn invalidate_connections(&self) {
        *self.invalidated_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection opened at this time may be used.
    pub(super) fn is_valid(&self, made_at: Instant) -> bool {
        let invalidated_at = *self.invalidated_at.lock().unwrap_or_else(PoisonError::into_inner);
        invalidated_at.is_none_or(|at| made_at > at)
    }
}

/// Whether the server accepts writes in this session: it is not a standby, and
/// `default_transaction_read_only` is off.
pub(super) async fn takes_writes(conn: &mut PgConnection) -> sqlx::Result<bool> {
    // Not prepared, because a pooler may be in between.
    let row = sqlx::raw_sql("show transaction_read_only").fetch_one(conn).await?;
    Ok(row.try_get::<String, _>(0)? == "off")
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Driver(error) => error.fmt(f),
            Self::ReadOnly => f.write_str(
                "the server is read-only: it is a standby, or default_transaction_read_only is on",
            ),
            Self::NoAnswer => f.write_str("the server did not answer in time"),
        }
    }
}

impl From<Refusals> for StoreError {
    fn from(Refusals(refusals): Refusals) -> Self {
        let said = refusals.iter().map(|(server, refusal)| format!("{server}: {refusal}"));
        Self::ConnectionLost(said.collect::<Vec<_>>().join("; "))
    }
}
