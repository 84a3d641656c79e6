//! How many events per second are accepted and synced to disk. No gateway is connected,
//! so that delivery is not part of the measurement.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use gateway_events::command::time::parse_duration;
use serde_json::json;

use crate::baseline::{Baselines, Wanted};
use crate::figures::{Better, Figure, float};
use crate::gateways::Gateways;
use crate::machine::Meter;
use crate::options::{Common, Preload};
use crate::publish::{Load, Spread, Until, publish};
use crate::report::Outcome;
use crate::testbed::Testbed;
use crate::{latency, report};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    preload: Preload,
    /// Publishers, each with a connection of its own
    #[arg(long, default_value_t = 16, value_parser = whole(1_u16..))]
    publishers: u16,
    /// Events per request
    #[arg(long, default_value_t = 1, value_parser = whole(1_u16..=1000))]
    batch: u16,
    /// Gateways that the events are for, in turn
    #[arg(long, default_value_t = 16, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Duration of the load
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

/// Parses seconds (`10`, `0.5`) or a duration with its unit.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => parse_duration(text),
    }
}

pub(crate) async fn run(args: &Args, testbed: &Testbed<'_>) -> anyhow::Result<Outcome> {
    let baselines = Baselines::measure(testbed, args.gateways.into(), Wanted::APPEND).await?;
    testbed.fill_log(args.preload.stored).await?;
    let target = testbed.target(args.gateways.into()).await?;
    let registered = Gateways::register(testbed, &target, args.gateways.into()).await?;
    let meter = Meter::start(target.pid);
    testbed.progress.step("publishing");
    let published = publish(
        testbed,
        &target,
        Load {
            gateways: registered.ids.clone(),
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
    registered.verify_stored(&target, &published.numbers).await?;
    let rate = float(published.events) / published.elapsed.as_secs_f64();
    let mut figures = vec![
        Figure::new("eventsPerSecond", rate, "1/s", Better::Higher)
            .with_baseline(baselines.append()),
    ];
    figures.extend(latency::figures(
        "request",
        &published.requests.total(),
        Some(baselines.response()),
    ));
    figures.extend(used.figures(published.events));
    figures.extend(baselines.figures());
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
            "stored": args.preload.stored,
            "seconds": args.seconds.as_secs_f64(),
            "payload": args.common.payload,
        })),
    })
}
