//! What this machine allows without us: the same rows by the bare driver, one
//! synced write, one TLS round trip. Measured in the same run as what is
//! compared with it, because machines and their neighbours change by the hour.

use secrecy::SecretString;
use serde_json::json;

use gateway_events::store::floor::{Bare, Load};

use super::ground::Ground;
use super::options::Common;
use super::publish;
use super::report::{self, Better, Figure, Outcome};

mod disk;
mod tls;

/// Events per transaction.
const BATCHES: [usize; 4] = [1, 64, 1024, 4096];
/// A transaction of more than this is none that anybody would make.
const LARGEST_TRANSACTION: usize = 64 * 1024 * 1024;
/// What a frame has besides the payload.
const ENVELOPE: usize = 330;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Gateways whose logs the bare driver writes
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
}

/// Which limits a scenario is compared with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    append: bool,
    flow: bool,
}

impl Wanted {
    /// The bare driver, a synced write, a TLS round trip.
    pub(super) const APPEND: Self = Self { append: true, flow: false };
    /// A synced write, a TLS round trip, and TLS one way.
    pub(super) const FLOW: Self = Self { append: false, flow: true };
    /// A synced write and a TLS round trip.
    pub(super) const ANSWER: Self = Self { append: false, flow: false };
    /// All of them.
    const ALL: Self = Self { append: true, flow: true };
}

/// The limits.
#[derive(Debug, Default)]
pub(super) struct Floors {
    /// Events per second by the bare driver, by the size of its transactions.
    append: Vec<(usize, f64)>,
    /// Milliseconds for 4 KiB to be on disk.
    sync: f64,
    /// Milliseconds for a frame to go to and fro over TLS on loopback.
    round_trip: f64,
    /// Frames a second one way.
    flow: Option<f64>,
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
        let mut echo = tls::Loopback::open().await?;
        floors.round_trip = echo.round_trip(frame, time).await?;
        if wanted.flow {
            floors.flow = Some(echo.flow(frame, time).await?);
        }
        if wanted.append {
            floors.append = append(ground, gateways, ground.bare_database()).await?;
        }
        Ok(floors)
    }

    /// Events per second by the bare driver in the best batches.
    pub(super) fn append(&self) -> Option<f64> {
        self.append.iter().map(|(_, rate)| *rate).reduce(f64::max)
    }

    /// Frames a second through TLS, one way.
    pub(super) fn flow(&self) -> Option<f64> {
        self.flow
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
        let mut figures = vec![
            Figure::new("floorSync", self.sync, "ms", Better::Neither),
            Figure::new("floorRoundTrip", self.round_trip, "ms", Better::Neither),
        ];
        let flow = self.flow.map(|rate| Figure::new("floorFlow", rate, "1/s", Better::Neither));
        figures.extend(flow);
        figures.extend(self.append.iter().map(|(batch, rate)| {
            Figure::new(&format!("floorAppend{batch}"), *rate, "1/s", Better::Neither)
        }));
        figures
    }
}

async fn append(
    ground: &Ground<'_>,
    gateways: u32,
    database: Option<&SecretString>,
) -> anyhow::Result<Vec<(usize, f64)>> {
    ground.progress.say("measuring the bare database");
    let mut bare = match database {
        Some(url) => Bare::shared(url, gateways).await?,
        None => Bare::embedded(&ground.directory().join("floor").join("bare.db"), gateways).await?,
    };
    let payload = publish::payload_text(ground.common.payload);
    let mut rates = Vec::new();
    for batch in BATCHES.into_iter().filter(|it| it * payload.len() <= LARGEST_TRANSACTION) {
        ground.progress.say(format!("measuring the bare database, {batch} events a transaction"));
        let load = Load { batch, payload: &payload, time: ground.common.floor_time };
        rates.push((batch, bare.append(load).await?));
    }
    bare.close().await?;
    Ok(rates)
}

pub(super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let floors = Floors::measure(ground, args.gateways.into(), Wanted::ALL).await?;
    Ok(Outcome {
        figures: floors.figures(),
        parameters: report::object(
            json!({ "gateways": args.gateways, "payload": args.common.payload }),
        ),
        ..Outcome::default()
    })
}
