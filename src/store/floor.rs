//! What the bare driver can do with this schema: the limit that a measurement
//! of the whole service is compared with. Per event two rows, and a head per
//! gateway and transaction, in as few statements as there are tables; nothing
//! is judged, numbered by the database, remembered or answered. Works on
//! databases of its own only.

use std::path::Path;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use uuid::Uuid;

use super::{OpenError, Result};
use crate::clock::Timestamp;

#[cfg(feature = "postgres")]
pub use super::postgres::Temporary;

/// Events per transaction where nothing is measured.
const FILLING: usize = 4096;

/// Rows of a page that is read.
const PAGE: i64 = 200;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// Events per transaction.
    pub batch: usize,
    /// Every event's payload.
    pub payload: &'a str,
    /// For at least so long.
    pub time: Duration,
}

/// One transaction's rows: events with their keys, heads by gateway, and the
/// outbox in its own order.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) first: i64,
    pub(super) ids: Vec<String>,
    pub(super) heads: Vec<(i64, i64)>,
    pub(super) outbox: Vec<(i64, i64, i64)>,
}

enum Database {
    #[cfg(feature = "sqlite")]
    Embedded(super::sqlite::Bare),
    #[cfg(feature = "postgres")]
    Shared(super::postgres::Bare),
}

/// A database of its own, with nothing in it but some gateways.
pub struct Bare {
    database: Database,
    gateways: i64,
    /// Events written so far.
    written: i64,
}

impl Bare {
    /// Makes the file and its gateways.
    pub async fn embedded(path: &Path, gateways: u32) -> Result<Self, OpenError> {
        #[cfg(not(feature = "sqlite"))]
        {
            let _ = (path, gateways);
            Err(OpenError::LeftOut("SQLite"))
        }
        #[cfg(feature = "sqlite")]
        {
            let database = Database::Embedded(super::sqlite::Bare::open(path, gateways).await?);
            Ok(Self { database, gateways: i64::from(gateways.max(1)), written: 0 })
        }
    }

    /// Fills an empty Postgres database.
    pub async fn shared(url: &SecretString, gateways: u32) -> Result<Self, OpenError> {
        #[cfg(not(feature = "postgres"))]
        {
            let _ = (url, gateways);
            Err(OpenError::LeftOut("Postgres"))
        }
        #[cfg(feature = "postgres")]
        {
            let database = Database::Shared(super::postgres::Bare::open(url, gateways).await?);
            Ok(Self { database, gateways: i64::from(gateways.max(1)), written: 0 })
        }
    }

    /// Writes transaction after transaction; the answer is events per second.
    pub async fn append(&mut self, load: Load<'_>) -> Result<f64, OpenError> {
        let (started, before) = (Instant::now(), self.written);
        loop {
            self.transaction(load.batch, load.payload).await?;
            let elapsed = started.elapsed();
            if elapsed >= load.time {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 events")]
                return Ok((self.written - before) as f64 / elapsed.as_secs_f64());
            }
        }
    }

    /// Microseconds that the way to the database and back takes: the median of
    /// statements that do nothing, one after the other.
    pub async fn statement(&mut self, time: Duration) -> Result<f64, OpenError> {
        let (started, mut taken) = (Instant::now(), Vec::new());
        while taken.is_empty() || started.elapsed() < time {
            let before = Instant::now();
            match &mut self.database {
                #[cfg(feature = "sqlite")]
                Database::Embedded(bare) => bare.nothing().await?,
                #[cfg(feature = "postgres")]
                Database::Shared(bare) => bare.nothing().await?,
            }
            taken.push(before.elapsed());
        }
        let middle = taken.len() / 2;
        let (_, median, _) = taken.select_nth_unstable(middle);
        Ok(median.as_secs_f64() * 1e6)
    }

    /// Rows a second of the first gateway's log, read in pages.
    pub async fn read(&mut self, time: Duration) -> Result<f64, OpenError> {
        let (started, mut after, mut read) = (Instant::now(), 0, 0);
        loop {
            let rows = match &mut self.database {
                #[cfg(feature = "sqlite")]
                Database::Embedded(bare) => bare.read(1, after, PAGE).await?,
                #[cfg(feature = "postgres")]
                Database::Shared(bare) => bare.read(1, after, PAGE).await?,
            };
            read += rows;
            // From the beginning again once it has been read.
            after = if rows == 0 { 0 } else { after + PAGE };
            let elapsed = started.elapsed();
            if elapsed >= time && read > 0 {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 rows")]
                return Ok(read as f64 / elapsed.as_secs_f64());
            }
        }
    }

    /// Makes a ledger: so many events, and for each one a failed attempt, spread
    /// evenly over the time before `now`. Answers the gateways' ids.
    pub async fn fill_ledger(
        &mut self,
        rows: u32,
        payload: &str,
        now: Timestamp,
        span: Duration,
    ) -> Result<Vec<String>, OpenError> {
        self.fill(rows, payload).await?;
        let step = i64::try_from(span.as_micros() / u128::from(rows.max(1))).unwrap_or(i64::MAX);
        let from = now.minus(span);
        match &mut self.database {
            #[cfg(feature = "sqlite")]
            Database::Embedded(bare) => Ok(bare.fail_all(from, step.max(1)).await?),
            #[cfg(feature = "postgres")]
            Database::Shared(bare) => Ok(bare.fail_all(from, step.max(1)).await?),
        }
    }

    /// Writes so many events, and notes that nobody was there to receive them.
    pub async fn fill_log(&mut self, events: u32, payload: &str) -> Result<(), OpenError> {
        self.fill(events, payload).await?;
        match &mut self.database {
            #[cfg(feature = "sqlite")]
            Database::Embedded(bare) => Ok(bare.pass_over().await?),
            #[cfg(feature = "postgres")]
            Database::Shared(bare) => Ok(bare.pass_over().await?),
        }
    }

    async fn fill(&mut self, events: u32, payload: &str) -> Result<(), OpenError> {
        let mut left = usize::try_from(events).unwrap_or(usize::MAX);
        while left > 0 {
            let batch = left.min(FILLING);
            self.transaction(batch, payload).await?;
            left -= batch;
        }
        Ok(())
    }

    async fn transaction(&mut self, batch: usize, payload: &str) -> Result<(), OpenError> {
        let rows = self.rows(batch);
        match &mut self.database {
            #[cfg(feature = "sqlite")]
            Database::Embedded(bare) => Ok(bare.append(&rows, payload).await?),
            #[cfg(feature = "postgres")]
            Database::Shared(bare) => Ok(bare.append(&rows, payload).await?),
        }
    }

    /// The next events, dealt to the gateways in turn.
    fn rows(&mut self, batch: usize) -> Rows {
        let mut rows = Rows { first: self.written + 1, ..Rows::default() };
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
    pub async fn close(self) -> Result<(), OpenError> {
        match self.database {
            #[cfg(feature = "sqlite")]
            Database::Embedded(bare) => Ok(bare.close().await?),
            #[cfg(feature = "postgres")]
            Database::Shared(bare) => Ok(bare.close().await?),
        }
    }
}
