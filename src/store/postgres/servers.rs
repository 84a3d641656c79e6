//! The servers that a URL names. A connection is one to a server that takes
//! writes: a standby, or one that an operator made read-only, is passed over, and
//! the next one is tried.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, Row as _};
use tokio::time::{sleep_until, timeout};

use super::connect::CONNECT;
use super::hosts::{self, Target};
use super::sockets;
use crate::store::{Result, StoreError};

/// A server that has not answered after this time is not waited for alone.
const STAGGER: Duration = Duration::from_millis(300);
/// How long a server has to say whether it takes writes.
pub(super) const CHECK: Duration = Duration::from_secs(2);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Any server will do, unless `target_session_attrs` says otherwise.
    Read,
    /// The server must take writes.
    Write,
}

/// Why one server was not connected to.
#[derive(Debug)]
pub(super) enum Refusal {
    /// What the driver says.
    Driver(sqlx::Error),
    /// It takes no writes.
    ReadOnly,
    /// There was no answer in time.
    NoAnswer,
}

/// Why there is no connection: what each server answered.
#[derive(Debug)]
pub(super) struct Refusals(pub(super) Vec<(String, Refusal)>);

/// One or several servers of which one takes writes.
#[derive(Debug)]
pub(super) struct Servers {
    hosts: Vec<PgConnectOptions>,
    is_read_write: bool,
    /// The one that was connected to last.
    preferred: AtomicUsize,
    /// Connections made before this are not to be used any more.
    distrusted_at: Mutex<Option<Instant>>,
}

impl Servers {
    pub(super) fn new(target: Target) -> Self {
        Self {
            hosts: target.hosts,
            is_read_write: target.is_read_write,
            preferred: AtomicUsize::new(0),
            distrusted_at: Mutex::default(),
        }
    }

    /// The same servers with changed settings.
    pub(super) fn map(&self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        Self::new(Target {
            hosts: self.hosts.iter().cloned().map(change).collect(),
            is_read_write: self.is_read_write,
        })
    }

    /// Connects to the first server that is fit for that, in bounded time.
    pub(super) async fn connect(
        &self,
        access: Access,
    ) -> Result<(PgConnection, &PgConnectOptions), Refusals> {
        let mut refusals: Vec<_> = self.hosts.iter().map(|_| None).collect();
        let connected = timeout(CONNECT, self.race(access, &mut refusals)).await;
        if let Ok(Some((number, conn))) = connected {
            if self.preferred.swap(number, Ordering::Relaxed) != number {
                self.distrust();
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

    /// Begins with the preferred server. The next one is tried when one refuses,
    /// or does not answer soon; the first that succeeds counts.
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

    /// Every connection made so far is suspect: a server went away, or became
    /// read-only, which others of its connections may not have noticed.
    pub(super) fn distrust(&self) {
        *self.distrusted_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that was made then may be used.
    pub(super) fn trusts(&self, made_at: Instant) -> bool {
        let distrusted_at = *self.distrusted_at.lock().unwrap_or_else(PoisonError::into_inner);
        distrusted_at.is_none_or(|at| made_at > at)
    }
}

/// Whether the server takes writes in this session: it is neither a standby nor
/// read-only by `default_transaction_read_only`.
pub(super) async fn takes_writes(conn: &mut PgConnection) -> sqlx::Result<bool> {
    // Not prepared: a pooler may stand between.
    let row = sqlx::raw_sql("show transaction_read_only").fetch_one(conn).await?;
    Ok(row.try_get::<String, _>(0)? == "off")
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Driver(error) => error.fmt(f),
            Self::ReadOnly => f.write_str("it is read-only: a standby, or made so"),
            Self::NoAnswer => f.write_str("there was no answer in time"),
        }
    }
}

impl From<Refusals> for StoreError {
    fn from(Refusals(refusals): Refusals) -> Self {
        let said = refusals.iter().map(|(server, refusal)| format!("{server}: {refusal}"));
        Self::ConnectionLost(said.collect::<Vec<_>>().join("; "))
    }
}
