//! What this machine allows without us: the same rows by the bare driver, one
//! synced write, the same frames over TLS. Measured in the same run as what is
//! compared with it, because machines and their neighbours change by the hour.

use serde_json::json;

use gateway_events::store::floor::{Bare, Load};

use super::ground::Ground;
use super::options::Common;
use super::publish;
use super::report::{self, Better, Figure, Outcome};

mod disk;
mod held;
mod many;
mod tls;

pub(super) use held::{Held, hold};
use many::Many;

/// Events per transaction.
const BATCHES: [usize; 4] = [1, 64, 1024, 4096];
/// A transaction of more than this is none that anybody would make.
const LARGEST_TRANSACTION: usize = 64 * 1024 * 1024;
/// Events of a log that is read.
const LOG: u32 = 20_000;
/// What a frame has besides the payload.
const ENVELOPE: usize = 330;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Gateways: logs that the bare driver writes, and connections
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
}

/// Which limits a scenario is compared with, besides one synced write and one
/// TLS round trip.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    append: bool,
    read: bool,
    flow: bool,
    /// So many connections.
    many: usize,
}

impl Wanted {
    /// Nothing else.
    pub(super) const ANSWER: Self = Self { append: false, read: false, flow: false, many: 0 };
    /// The bare driver.
    pub(super) const APPEND: Self = Self { append: true, ..Self::ANSWER };
    /// The bare driver as it reads, and frames over one connection.
    pub(super) const FLOW: Self = Self { read: true, flow: true, ..Self::ANSWER };

    /// And frames over many.
    pub(super) const fn and_many(self, connections: usize) -> Self {
        Self { many: connections, ..self }
    }
}

/// The limits.
#[derive(Debug, Default)]
pub(super) struct Floors {
    /// Events per second by the bare driver, by the size of its transactions.
    append: Vec<(usize, f64)>,
    /// Microseconds of a statement that does nothing.
    statement: Option<f64>,
    /// Rows of a log that the bare driver reads per second.
    read: Option<f64>,
    /// Milliseconds for 4 KiB to be on disk.
    sync: f64,
    /// Milliseconds for a frame to go to and fro over TLS on loopback.
    round_trip: f64,
    /// Frames a second, one way, and answered as gateways do.
    flow: Option<(f64, f64)>,
    many: Option<Many>,
}

impl Floors {
    /// Measures them, with nothing of ours running.
    pub(super) async fn measure(
        ground: &Ground<'_>,
        gateways: u32,
        wanted: Wanted,
    ) -> anyhow::Result<Self> {
        let common = ground.common;
        let (time, frame) = (common.floor_time, common.payload + ENVELOPE);
        let mut floors = Self::default();
        ground.progress.say("measuring the disk");
        floors.sync = disk::sync(ground.directory(), time).await?;
        ground.progress.say("measuring TLS");
        let identity = tls::Identity::new()?;
        let open = || tls::Loopback::open(&identity);
        floors.round_trip = open().await?.round_trip(frame, time).await?;
        if wanted.flow {
            let flow = open().await?.flow(frame, time).await?;
            floors.flow = Some((flow, open().await?.answered(frame, time).await?));
        }
        if wanted.many > 0 {
            ground.progress.say("measuring many TLS connections");
            floors.many = Some(Many::measure(wanted.many, frame, time).await?);
        }
        if wanted.append || wanted.read {
            floors.database(ground, gateways, wanted).await?;
        }
        Ok(floors)
    }

    async fn database(
        &mut self,
        ground: &Ground<'_>,
        gateways: u32,
        wanted: Wanted,
    ) -> anyhow::Result<()> {
        ground.progress.say("measuring the bare database");
        let time = ground.common.floor_time;
        // One log is read, and it is to be a long one.
        let gateways = if wanted.append { gateways } else { 1 };
        let file = ground.directory().join("floor").join("bare.db");
        let mut bare = match ground.bare_database() {
            Some(url) => Bare::shared(url, gateways).await?,
            None => Bare::embedded(&file, gateways).await?,
        };
        self.statement = Some(bare.statement(time).await?);
        let payload = publish::payload_text(ground.common.payload);
        let batches = BATCHES.into_iter().filter(|it| it * payload.len() <= LARGEST_TRANSACTION);
        for batch in batches.filter(|_| wanted.append) {
            ground
                .progress
                .say(format!("measuring the bare database, {batch} events a transaction"));
            let load = Load { batch, payload: &payload, time };
            self.append.push((batch, bare.append(load).await?));
        }
        if wanted.read {
            bare.fill_log(LOG, &payload).await?;
            self.read = Some(bare.read(time).await?);
        }
        Ok(bare.close().await?)
    }

    /// Events per second by the bare driver in the best batches.
    pub(super) fn append(&self) -> Option<f64> {
        self.append.iter().map(|(_, rate)| *rate).reduce(f64::max)
    }

    /// Frames a second over one TLS connection, answered as gateways do.
    pub(super) fn answered(&self) -> Option<f64> {
        self.flow.map(|(_, answered)| answered)
    }

    /// Over many connections.
    pub(super) fn many(&self) -> Option<&Many> {
        self.many.as_ref()
    }

    /// Milliseconds of a TLS round trip.
    pub(super) fn round_trip(&self) -> f64 {
        self.round_trip
    }

    /// Milliseconds that an answer takes at least: one synced write and one
    /// round trip.
    pub(super) fn answer(&self) -> f64 {
        self.sync + self.round_trip
    }

    /// All of them, for the report.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let figure = |name: &str, value, unit| Figure::new(name, value, unit, Better::Neither);
        let mut figures = vec![
            figure("floorSync", self.sync, "ms"),
            figure("floorRoundTrip", self.round_trip, "ms"),
        ];
        figures.extend(self.statement.map(|micros| figure("floorStatement", micros, "µs")));
        figures.extend(self.read.map(|rate| figure("floorRead", rate, "1/s")));
        if let Some((flow, answered)) = self.flow {
            figures.push(figure("floorFlow", flow, "1/s"));
            figures.push(figure("floorAnswered", answered, "1/s"));
        }
        if let Some(many) = &self.many {
            figures.push(figure("floorHandshakes", many.handshakes, "1/s"));
            figures.push(figure("floorSpread", many.spread, "1/s"));
            figures.push(figure("floorLast", many.last, "ms"));
        }
        figures.extend(
            self.append
                .iter()
                .map(|(batch, rate)| figure(&format!("floorAppend{batch}"), *rate, "1/s")),
        );
        figures
    }
}

pub(super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let all = Wanted { append: true, read: true, flow: true, many: args.gateways.into() };
    let floors = Floors::measure(ground, args.gateways.into(), all).await?;
    Ok(Outcome {
        figures: floors.figures(),
        parameters: report::object(
            json!({ "gateways": args.gateways, "payload": args.common.payload }),
        ),
        ..Outcome::default()
    })
}
