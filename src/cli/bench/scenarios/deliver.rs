//! Publish and receive: at a fixed rate, how soon an event is there; without
//! one, how many a second are delivered and on record as received.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::fleet::{Connect, Fleet};
use super::super::floor::{Floors, Wanted};
use super::super::ground::Ground;
use super::super::machine::Meter;
use super::super::options::{Common, Past};
use super::super::publish::{Load, Published, Spread, Until, publish};
use super::super::recorded::all_confirmed;
use super::super::report::{Better, Figure, Outcome, float};
use super::super::{latency, report};
use super::append::seconds;

/// How gateways connect.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mode {
    /// Like unmodified gateways in the field: a pong is the receipt.
    Plain,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(in super::super) common: Common,
    #[command(flatten)]
    past: Past,
    /// Events per second, sent when they are due; as many as are accepted if there is none
    #[arg(long, value_name = "EVENTS", value_parser = rate)]
    rate: Option<f64>,
    /// Publishers, each with a connection of its own
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    publishers: u16,
    /// Events per request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Connected gateways; each event is for one of them, in turn
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
    /// How they connect
    #[arg(long, value_enum, default_value = "plain")]
    mode: Mode,
    /// For so many seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

/// Reads events per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=1e6).contains(&rate) { Ok(rate) } else { Err("0.01 to 1000000".to_owned()) }
}

pub(in super::super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let wanted = Wanted::APPEND.and_many(args.gateways.into());
    let floors = Floors::measure(ground, args.gateways.into(), wanted).await?;
    ground.fill_log(args.past.stored).await?;
    let target = ground.target(args.gateways.into()).await?;
    let fleet = Fleet::register(ground, &target, args.gateways.into()).await?;
    let origin = Instant::now();
    let calmly = Connect::calmly(args.gateways.into(), origin);
    let receivers = fleet.connect(ground, &target, calmly).await?;
    let meter = Meter::start(target.pid);
    ground.progress.say("publishing");
    let started = Instant::now();
    let published = publish(
        ground,
        &target,
        Load {
            gateways: fleet.ids.clone(),
            spread: Spread::Each,
            publishers: args.publishers.into(),
            batch: args.batch.into(),
            payload: args.common.payload,
            rate: args.rate,
            until: Until::Elapsed(args.seconds),
            origin,
        },
    )
    .await?;
    receivers.received(ground, published.events).await?;
    all_confirmed(&target, &fleet.ids, &published.numbers).await?;
    let recorded = started.elapsed();
    let used = meter.stop();
    let received = receivers.seen.last_at() - started;
    let latencies = receivers.seen.latencies().total();
    receivers.leave(&published.numbers).await?;

    let mut figures = match args.rate {
        Some(_) => latency::figures("latency", &latencies, Some(floors.answer())),
        None => throughput(&published, &floors, received, recorded),
    };
    if args.rate.is_some() {
        figures.extend(latency::figures("lateness", &published.lateness.total(), None));
    }
    figures.extend(latency::figures("request", &published.requests.total(), Some(floors.answer())));
    figures.extend(used.figures(published.events));
    figures.extend(floors.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": latencies.len(),
            "refused": published.refused,
        })),
        parameters: report::object(json!({
            "rate": args.rate,
            "publishers": args.publishers,
            "batch": args.batch,
            "gateways": args.gateways,
            "mode": "plain",
            "stored": args.past.stored,
            "seconds": args.seconds.as_secs_f64(),
            "payload": args.common.payload,
        })),
    })
}

fn throughput(
    published: &Published,
    floors: &Floors,
    received: Duration,
    recorded: Duration,
) -> Vec<Figure> {
    [("accepted", published.elapsed), ("received", received), ("recorded", recorded)]
        .map(|(name, time)| {
            let rate = float(published.events) / time.as_secs_f64();
            Figure::new(&format!("{name}PerSecond"), rate, "1/s", Better::Higher)
                .with_floor(floors.append())
        })
        .into()
}
