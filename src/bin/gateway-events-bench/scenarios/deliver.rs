//! Publish and receive. At a fixed rate: how soon an event arrives. Without one: how many
//! events per second are delivered and recorded as confirmed.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use serde_json::json;

use super::append::seconds;
use crate::baseline::{Baselines, Wanted};
use crate::confirmations::all_confirmed;
use crate::figures::{Better, Figure, float};
use crate::gateways::{Connect, Gateways};
use crate::machine::Meter;
use crate::options::{Common, Preload};
use crate::publish::{Load, Published, Spread, Until, publish};
use crate::report::Outcome;
use crate::testbed::Testbed;
use crate::transport::{Transport, Transports};
use crate::{latency, report};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) transports: Transports,
    #[command(flatten)]
    preload: Preload,
    /// Events per second, sent when they are due; by default as many as are accepted
    #[arg(long, value_name = "EVENTS", value_parser = rate)]
    rate: Option<f64>,
    /// Publishers, each with a connection of its own
    #[arg(long, default_value_t = 16, value_parser = whole(1_u16..))]
    publishers: u16,
    /// Events per request
    #[arg(long, default_value_t = 1, value_parser = whole(1_u16..=1000))]
    batch: u16,
    /// Connected gateways; each event is for one of them, in turn
    #[arg(long, default_value_t = 16, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Duration of the load
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

/// Parses a number of events per second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=1e6).contains(&rate) { Ok(rate) } else { Err("0.01 to 1000000".to_owned()) }
}

pub(crate) async fn run(
    args: &Args,
    testbed: &Testbed<'_>,
    transport: Transport,
) -> anyhow::Result<Outcome> {
    let wanted = Wanted::APPEND.and_fanout(args.gateways.into());
    let baselines = Baselines::measure(testbed, args.gateways.into(), wanted).await?;
    testbed.fill_log(args.preload.stored).await?;
    let target = testbed.target(args.gateways.into()).await?;
    let registered = Gateways::register(testbed, &target, args.gateways.into()).await?;
    let origin = Instant::now();
    let connect = Connect::gradually(args.gateways.into(), origin).over(transport);
    let receivers = registered.connect(testbed, &target, connect).await?;
    let meter = Meter::start(target.pid);
    testbed.progress.step("publishing");
    let started = Instant::now();
    let published = publish(
        testbed,
        &target,
        Load {
            gateways: registered.ids.clone(),
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
    receivers.received(testbed, published.events).await?;
    all_confirmed(&target, &registered.ids, &published.numbers).await?;
    let recorded = started.elapsed();
    let used = meter.stop();
    let received = receivers.seen.last_at() - started;
    let latencies = receivers.seen.latencies().total();
    receivers.disconnect(&published.numbers).await?;

    let mut figures = match args.rate {
        Some(_) => latency::figures("latency", &latencies, Some(baselines.response())),
        None => throughput(&published, &baselines, received, recorded),
    };
    if args.rate.is_some() {
        figures.extend(latency::figures("lateness", &published.lateness.total(), None));
    }
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
            "received": latencies.len(),
            "refused": published.refused,
        })),
        parameters: report::object(json!({
            "rate": args.rate,
            "publishers": args.publishers,
            "batch": args.batch,
            "gateways": args.gateways,
            "transport": transport.name(),
            "stored": args.preload.stored,
            "seconds": args.seconds.as_secs_f64(),
            "payload": args.common.payload,
        })),
    })
}

fn throughput(
    published: &Published,
    baselines: &Baselines,
    received: Duration,
    recorded: Duration,
) -> Vec<Figure> {
    [("accepted", published.elapsed), ("received", received), ("recorded", recorded)]
        .map(|(name, time)| {
            let rate = float(published.events) / time.as_secs_f64();
            Figure::new(&format!("{name}PerSecond"), rate, "1/s", Better::Higher)
                .with_baseline(baselines.append())
        })
        .into()
}
