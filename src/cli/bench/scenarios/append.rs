//! How many events a second are accepted, each one synced to disk. Nobody is
//! connected, so that nothing is measured but the way in.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::super::time::parse_duration;
use super::super::fleet::Fleet;
use super::super::floor::{Floors, Wanted};
use super::super::ground::Ground;
use super::super::machine::Meter;
use super::super::options::{Common, Past};
use super::super::publish::{Load, Spread, Until, publish};
use super::super::report::{Better, Figure, Outcome, float};
use super::super::{latency, report};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(in super::super) common: Common,
    #[command(flatten)]
    past: Past,
    /// Publishers, each with a connection of its own
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    publishers: u16,
    /// Events per request
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Gateways that the events are for, in turn
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
    /// For so many seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

/// Reads `10`, `0.5` or a duration with its unit.
pub(in super::super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => parse_duration(text),
    }
}

pub(in super::super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let floors = Floors::measure(ground, args.gateways.into(), Wanted::APPEND).await?;
    ground.fill_log(args.past.stored).await?;
    let target = ground.target(args.gateways.into()).await?;
    let fleet = Fleet::register(ground, &target, args.gateways.into()).await?;
    let meter = Meter::start(target.pid);
    ground.progress.say("publishing");
    let published = publish(
        ground,
        &target,
        Load {
            gateways: fleet.ids.clone(),
            spread: Spread::Each,
            publishers: args.publishers.into(),
            batch: args.batch.into(),
            payload: args.common.payload,
            rate: None,
            until: Until::Elapsed(args.seconds),
            origin: Instant::now(),
        },
    )
    .await?;
    let used = meter.stop();
    fleet.stored(&target, &published.numbers).await?;
    let rate = float(published.events) / published.elapsed.as_secs_f64();
    let mut figures = vec![
        Figure::new("eventsPerSecond", rate, "1/s", Better::Higher).with_floor(floors.append()),
    ];
    figures.extend(latency::figures("request", &published.requests.total(), Some(floors.answer())));
    figures.extend(used.figures(published.events));
    figures.extend(floors.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "refused": published.refused,
        })),
        parameters: report::object(json!({
            "publishers": args.publishers,
            "batch": args.batch,
            "gateways": args.gateways,
            "stored": args.past.stored,
            "seconds": args.seconds.as_secs_f64(),
            "payload": args.common.payload,
        })),
    })
}
