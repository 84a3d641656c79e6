//! The baseline of the database: the service's schema, written and read by the
//! SQL driver alone. Each event is a row in `events` and a row in `outbox`; each
//! transaction also updates the head of every gateway it touches. There is one
//! statement per table and no validation, idempotency or response. Uses only
//! databases that were created for the measurement.

use std::path::Path;
use std::time::{Duration, Instant};

use gateway_events::clock::Timestamp;
use secrecy::SecretString;
use uuid::Uuid;

use crate::figures::float;

mod postgres;
mod sqlite;

use postgres::Postgres;
use sqlite::Sqlite;

/// Events per transaction when a database is filled and nothing is measured.
const FILL_BATCH: usize = 4096;

/// Rows per page in the read measurement.
const PAGE: i64 = 200;

/// What the append measurement writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    /// Events per transaction.
    pub(crate) batch: usize,
    /// The payload of every event.
    pub(crate) payload: &'a str,
    /// The minimum duration of the measurement.
    pub(crate) time: Duration,
}

/// The rows of one transaction.
#[derive(Debug)]
struct Rows {
    /// The key of the first event; the others follow without a gap.
    first: i64,
    /// The events' public ids.
    ids: Vec<String>,
    /// Gateway and new head.
    heads: Vec<(i64, i64)>,
    /// Gateway, sequence and event, in the order of the primary key.
    outbox: Vec<(i64, i64, i64)>,
    /// When the first event was appended, and how much later the next one, in microseconds.
    appended: (Timestamp, i64),
}

/// When the events of a ledger were appended and failed.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// The instant of the first event.
    from: Timestamp,
    /// The time between two events, in microseconds.
    step: i64,
    /// The last event.
    last: i64,
}

impl Span {
    /// The instant of an event.
    fn at(self, event: i64) -> Timestamp {
        Timestamp::from_micros(self.from.micros() + (event - 1) * self.step)
    }
}

enum Database {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// A database with the service's schema and some gateways.
pub(crate) struct Driver {
    database: Database,
    gateways: i64,
    /// Events written so far.
    written: i64,
    /// The instants of the events, unless they are appended now.
    span: Option<Span>,
}

impl Driver {
    /// Creates a SQLite file with this many gateways.
    pub(crate) async fn sqlite(path: &Path, gateways: u32) -> anyhow::Result<Self> {
        let gateways = gateways.max(1);
        let database = Database::Sqlite(Sqlite::create(path, gateways).await?);
        Ok(Self { database, gateways: gateways.into(), written: 0, span: None })
    }

    /// Migrates an empty Postgres database and creates this many gateways in it.
    pub(crate) async fn postgres(url: &SecretString, gateways: u32) -> anyhow::Result<Self> {
        let gateways = gateways.max(1);
        let database = Database::Postgres(Postgres::create(url, gateways).await?);
        Ok(Self { database, gateways: gateways.into(), written: 0, span: None })
    }

    /// Commits transactions one after the other; returns events per second.
    pub(crate) async fn append(&mut self, load: Load<'_>) -> anyhow::Result<f64> {
        let (started, before) = (Instant::now(), self.written);
        loop {
            self.transaction(load.batch, load.payload).await?;
            let elapsed = started.elapsed();
            if elapsed >= load.time {
                let events = u64::try_from(self.written - before)?;
                return Ok(float(events) / elapsed.as_secs_f64());
            }
        }
    }

    /// Executes empty statements one after the other; returns the median round trip
    /// in microseconds.
    pub(crate) async fn statement(&mut self, time: Duration) -> anyhow::Result<f64> {
        let (started, mut taken) = (Instant::now(), Vec::new());
        while taken.is_empty() || started.elapsed() < time {
            let before = Instant::now();
            match &mut self.database {
                Database::Sqlite(database) => database.empty_statement().await?,
                Database::Postgres(database) => database.empty_statement().await?,
            }
            taken.push(before.elapsed());
        }
        let middle = taken.len() / 2;
        let (_, median, _) = taken.select_nth_unstable(middle);
        Ok(median.as_secs_f64() * 1e6)
    }

    /// Reads the first gateway's log page by page, again from the start at its end;
    /// returns rows per second.
    pub(crate) async fn read(&mut self, time: Duration) -> anyhow::Result<f64> {
        let (started, mut after, mut read) = (Instant::now(), 0, 0);
        loop {
            let rows = match &mut self.database {
                Database::Sqlite(database) => database.read(1, after, PAGE).await?,
                Database::Postgres(database) => database.read(1, after, PAGE).await?,
            };
            read += rows as u64;
            after = if rows == 0 { 0 } else { after + PAGE };
            let elapsed = started.elapsed();
            if elapsed >= time && read > 0 {
                return Ok(float(read) / elapsed.as_secs_f64());
            }
        }
    }

    /// Writes this many events, each with a failed attempt, spread evenly over `span` before
    /// `now`. Most are delivered since, a tenth is pending, and one in a thousand is a dead letter.
    /// Writes connections, jobs, and audit records, too. Returns the ids of the gateways.
    pub(crate) async fn fill_ledger(
        &mut self,
        rows: u32,
        payload: &str,
        now: Timestamp,
        span: Duration,
    ) -> anyhow::Result<Vec<String>> {
        let step = i64::try_from(span.as_micros() / u128::from(rows.max(1))).unwrap_or(i64::MAX);
        let span = Span { from: now.minus(span), step: step.max(1), last: rows.into() };
        self.span = Some(span);
        self.fill(rows, payload).await?;
        match &mut self.database {
            Database::Sqlite(database) => database.fill_ledger(span).await,
            Database::Postgres(database) => database.fill_ledger(span).await,
        }
    }

    /// Writes this many events and marks them as seen by the `not_connected` sweep.
    pub(crate) async fn fill_log(&mut self, events: u32, payload: &str) -> anyhow::Result<()> {
        self.fill(events, payload).await?;
        match &mut self.database {
            Database::Sqlite(database) => database.mark_swept().await,
            Database::Postgres(database) => database.mark_swept().await,
        }
    }

    /// Writes this many events, which their gateways have received. Returns the first gateway's id.
    pub(crate) async fn fill_delivered_log(
        &mut self,
        events: u32,
        payload: &str,
    ) -> anyhow::Result<String> {
        self.fill_log(events, payload).await?;
        match &mut self.database {
            Database::Sqlite(database) => database.mark_delivered().await,
            Database::Postgres(database) => database.mark_delivered().await,
        }
    }

    async fn fill(&mut self, events: u32, payload: &str) -> anyhow::Result<()> {
        let mut left = usize::try_from(events)?;
        while left > 0 {
            let batch = left.min(FILL_BATCH);
            self.transaction(batch, payload).await?;
            left -= batch;
        }
        Ok(())
    }

    async fn transaction(&mut self, batch: usize, payload: &str) -> anyhow::Result<()> {
        let rows = self.rows(batch);
        match &mut self.database {
            Database::Sqlite(database) => database.append(&rows, payload).await,
            Database::Postgres(database) => database.append(&rows, payload).await,
        }
    }

    /// The next events, assigned to the gateways in turn.
    fn rows(&mut self, batch: usize) -> Rows {
        let first = self.written + 1;
        let appended = match self.span {
            Some(span) => (span.at(first), span.step),
            None => (Timestamp::now(), 0),
        };
        let mut rows =
            Rows { first, ids: Vec::new(), heads: Vec::new(), outbox: Vec::new(), appended };
        for _ in 0..batch.max(1) {
            let (turn, gateway) = (self.written / self.gateways, self.written % self.gateways);
            self.written += 1;
            rows.ids.push(Uuid::now_v7().to_string());
            rows.outbox.push((gateway + 1, turn + 1, self.written));
        }
        rows.outbox.sort_unstable();
        for chunk in rows.outbox.chunk_by(|one, other| one.0 == other.0) {
            let newest = chunk.last().map(|row| (row.0, row.1));
            rows.heads.extend(newest);
        }
        rows
    }

    /// Closes the connection.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self.database {
            Database::Sqlite(database) => database.close().await,
            Database::Postgres(database) => database.close().await,
        }
    }
}
