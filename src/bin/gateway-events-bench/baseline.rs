//! Baselines: what this machine achieves without the service. The same rows written by
//! the database driver alone, one synced write, the same frames over TLS. They are
//! measured in the same run as the figures that are compared with them, because the load
//! on shared machines changes by the hour.

use gateway_events::command::number::whole;
use serde_json::json;

use crate::figures::{Better, Figure};
use crate::options::Common;
use crate::payload;
use crate::report::{self, Outcome};
use crate::testbed::Testbed;

mod disk;
pub(crate) mod driver;
mod fanout;
mod idle;
mod tls;

use driver::Load;
use fanout::Fanout;

use driver::Driver;
pub(crate) use idle::{Idle, hold};

/// Events per transaction.
const BATCHES: [usize; 4] = [1, 64, 1024, 4096];
/// Bytes of payload per transaction; larger batches are skipped.
const MAX_TRANSACTION: usize = 64 * 1024 * 1024;
/// Events in the log of the read measurement.
const LOG: u32 = 20_000;
/// Bytes of a frame without its payload.
const ENVELOPE: usize = 330;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Gateways: logs that the database driver writes, and connections
    #[arg(long, default_value_t = 16, value_parser = whole(1_u16..))]
    gateways: u16,
}

/// Which baselines a scenario needs besides one synced write and one TLS round trip.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    append: bool,
    read: bool,
    flow: bool,
    /// The number of connections of the fan-out baseline.
    connections: usize,
}

impl Wanted {
    /// No others.
    pub(crate) const RESPONSE: Self =
        Self { append: false, read: false, flow: false, connections: 0 };
    /// Appending by the database driver.
    pub(crate) const APPEND: Self = Self { append: true, ..Self::RESPONSE };
    /// Reading by the database driver, and frames over one connection.
    pub(crate) const FLOW: Self = Self { read: true, flow: true, ..Self::RESPONSE };

    /// Adds frames over many connections.
    pub(crate) const fn and_fanout(self, connections: usize) -> Self {
        Self { connections, ..self }
    }
}

/// The measured baselines.
#[derive(Debug, Default)]
pub(crate) struct Baselines {
    /// Batch size, and events per second by the database driver.
    append: Vec<(usize, f64)>,
    /// Microseconds of an empty statement.
    statement: Option<f64>,
    /// Rows of a log that the database driver reads per second.
    read: Option<f64>,
    /// Milliseconds of a synced write of 4 KiB.
    sync: f64,
    /// Milliseconds of a frame's round trip over TLS on loopback.
    round_trip: f64,
    /// Frames per second in one direction, without and with acknowledgements.
    flow: Option<(f64, f64)>,
    fanout: Option<Fanout>,
}

impl Baselines {
    /// Measures them. No service may be running.
    pub(crate) async fn measure(
        testbed: &Testbed<'_>,
        gateways: u32,
        wanted: Wanted,
    ) -> anyhow::Result<Self> {
        let common = testbed.common;
        let (time, frame) = (common.baseline_time, common.payload + ENVELOPE);
        let mut baselines = Self::default();
        testbed.progress.step("measuring the disk");
        baselines.sync = disk::sync(testbed.directory(), time).await?;
        testbed.progress.step("measuring TLS");
        let identity = tls::Identity::new()?;
        let open = || tls::Loopback::open(&identity);
        baselines.round_trip = open().await?.round_trip(frame, time).await?;
        if wanted.flow {
            let flow = open().await?.flow(frame, time).await?;
            baselines.flow = Some((flow, open().await?.acknowledged(frame, time).await?));
        }
        if wanted.connections > 0 {
            testbed.progress.step("measuring many TLS connections");
            baselines.fanout = Some(Fanout::measure(wanted.connections, frame, time).await?);
        }
        if wanted.append || wanted.read {
            baselines.database(testbed, gateways, wanted).await?;
        }
        Ok(baselines)
    }

    async fn database(
        &mut self,
        testbed: &Testbed<'_>,
        gateways: u32,
        wanted: Wanted,
    ) -> anyhow::Result<()> {
        testbed.progress.step("measuring the database driver");
        let time = testbed.common.baseline_time;
        // The read measurement needs one long log.
        let gateways = if wanted.append { gateways } else { 1 };
        let file = testbed.directory().join("baseline").join("baseline.db");
        let mut driver = match testbed.baseline_database() {
            Some(url) => Driver::postgres(url, gateways).await?,
            None => Driver::sqlite(&file, gateways).await?,
        };
        self.statement = Some(driver.statement(time).await?);
        let payload = payload::sample(testbed.common.payload);
        let batches = BATCHES.into_iter().filter(|it| it * payload.len() <= MAX_TRANSACTION);
        for batch in batches.filter(|_| wanted.append) {
            testbed
                .progress
                .step(format!("measuring the database driver, {batch} events a transaction"));
            let load = Load { batch, payload: &payload, time };
            self.append.push((batch, driver.append(load).await?));
        }
        if wanted.read {
            driver.fill_log(LOG, &payload).await?;
            self.read = Some(driver.read(time).await?);
        }
        driver.close().await
    }

    /// Events per second by the database driver with the best batch size.
    pub(crate) fn append(&self) -> Option<f64> {
        self.append.iter().map(|(_, rate)| *rate).reduce(f64::max)
    }

    /// Frames per second over one TLS connection, acknowledged as gateways do.
    pub(crate) fn acknowledged(&self) -> Option<f64> {
        self.flow.map(|(_, acknowledged)| acknowledged)
    }

    /// The figures of many connections.
    pub(crate) fn fanout(&self) -> Option<&Fanout> {
        self.fanout.as_ref()
    }

    /// Milliseconds of a TLS round trip.
    pub(crate) fn round_trip(&self) -> f64 {
        self.round_trip
    }

    /// Milliseconds of the fastest possible response: one synced write and one round trip.
    pub(crate) fn response(&self) -> f64 {
        self.sync + self.round_trip
    }

    /// All baselines as figures of the report.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let figure = |name: &str, value, unit| Figure::new(name, value, unit, Better::Neither);
        let mut figures = vec![
            figure("baselineSync", self.sync, "ms"),
            figure("baselineRoundTrip", self.round_trip, "ms"),
        ];
        figures.extend(self.statement.map(|micros| figure("baselineStatement", micros, "µs")));
        figures.extend(self.read.map(|rate| figure("baselineRead", rate, "1/s")));
        if let Some((flow, acknowledged)) = self.flow {
            figures.push(figure("baselineFlow", flow, "1/s"));
            figures.push(figure("baselineAcknowledged", acknowledged, "1/s"));
        }
        if let Some(fanout) = &self.fanout {
            figures.push(figure("baselineHandshakes", fanout.handshakes, "1/s"));
            figures.push(figure("baselineSpread", fanout.spread, "1/s"));
            figures.push(figure("baselineLast", fanout.last, "ms"));
        }
        figures.extend(
            self.append
                .iter()
                .map(|(batch, rate)| figure(&format!("baselineAppend{batch}"), *rate, "1/s")),
        );
        figures
    }
}

pub(crate) async fn run(args: &Args, testbed: &Testbed<'_>) -> anyhow::Result<Outcome> {
    let all = Wanted { append: true, read: true, flow: true, connections: args.gateways.into() };
    let baselines = Baselines::measure(testbed, args.gateways.into(), all).await?;
    Ok(Outcome {
        figures: baselines.figures(),
        parameters: report::object(
            json!({ "gateways": args.gateways, "payload": args.common.payload }),
        ),
        ..Outcome::default()
    })
}
