//! All gateways reconnect at the same time with a backlog for each: how long until all are
//! connected, and until all have caught up.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::baseline::{Baselines, Wanted};
use crate::check::Numbers;
use crate::confirmations::all_confirmed;
use crate::figures::{Better, Figure, float};
use crate::gateways::{Connect, Gateways};
use crate::machine::Meter;
use crate::options::Common;
use crate::publish::{Load, Spread, Until, publish};
use crate::report::{self, Outcome};
use crate::testbed::Testbed;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Gateways
    #[arg(long, default_value_t = 100, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Events in the backlog of each
    #[arg(long, default_value_t = 100, value_parser = whole(1_u16..))]
    events: u16,
}

pub(crate) async fn run(args: &Args, testbed: &Testbed<'_>) -> anyhow::Result<Outcome> {
    let gateways = usize::from(args.gateways);
    let baselines =
        Baselines::measure(testbed, args.gateways.into(), Wanted::FLOW.and_fanout(gateways))
            .await?;
    let target = testbed.target(gateways).await?;
    let registered = Gateways::register(testbed, &target, gateways).await?;
    let origin = Instant::now();
    // They connect once beforehand, so that the measured connect is a reconnect.
    let before = registered.connect(testbed, &target, Connect::gradually(gateways, origin)).await?;
    before.disconnect(&vec![Numbers::default(); gateways]).await?;
    testbed.progress.bounded_step("publishing the backlog", args.events.into());
    let load = Load {
        gateways: registered.ids.clone(),
        spread: Spread::All,
        publishers: 1,
        batch: 1,
        payload: args.common.payload,
        rate: None,
        until: Until::Sent(args.events.into()),
        origin,
    };
    let published = publish(testbed, &target, load).await?;
    let deliveries = published.events * u64::from(args.gateways);

    let meter = Meter::start(target.pid);
    let started = Instant::now();
    let at_once = Connect { concurrency: gateways, ..Connect::gradually(gateways, origin) };
    let receivers = registered.connect(testbed, &target, at_once).await?;
    receivers.received(testbed, deliveries).await?;
    all_confirmed(&target, &registered.ids, &published.numbers).await?;
    let recorded = started.elapsed();
    let used = meter.stop();
    let seen = &receivers.seen;
    let (live, caught_up) = (seen.connected_at() - started, seen.last_at() - started);
    let (count, retries) = (seen.latencies().total().len(), seen.retries());
    receivers.disconnect(&published.numbers).await?;

    let rate = baselines.fanout().map(|fanout| fanout.handshakes);
    let shaken = rate.map(|rate| float(args.gateways.into()) / rate * 1e3);
    let frames = baselines.acknowledged().map(|rate| float(deliveries) / rate * 1e3);
    let all = shaken.zip(frames).map(|(shaken, frames)| shaken + frames);
    let time = |name: &str, time: Duration| {
        Figure::new(name, time.as_secs_f64() * 1e3, "ms", Better::Lower)
    };
    let handshakes = float(args.gateways.into()) / live.as_secs_f64();
    let mut figures = vec![
        time("allLive", live).with_baseline(shaken),
        time("allCaughtUp", caught_up).with_baseline(all),
        time("allRecorded", recorded).with_baseline(all),
        Figure::new("connectsPerSecond", handshakes, "1/s", Better::Higher).with_baseline(rate),
    ];
    figures.extend(used.figures(deliveries));
    figures.extend(baselines.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": count,
            "refused": published.refused,
            "connectsTriedAgain": retries,
        })),
        parameters: report::object(json!({
            "gateways": args.gateways,
            "events": args.events,
            "payload": args.common.payload,
        })),
    })
}
