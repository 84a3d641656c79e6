//! All gateways come back at the same moment, with events waiting for each: how
//! long until all are live again, and until all have caught up.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::check::Numbers;
use super::super::fleet::{Connect, Fleet};
use super::super::floor::{Floors, Wanted};
use super::super::ground::Ground;
use super::super::machine::Meter;
use super::super::options::Common;
use super::super::publish::{Load, Spread, Until, publish};
use super::super::recorded::all_confirmed;
use super::super::report::{self, Better, Figure, Outcome, float};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(in super::super) common: Common,
    /// Gateways
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
    /// Events that wait for each of them
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    events: u16,
}

pub(in super::super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let gateways = usize::from(args.gateways);
    let floors =
        Floors::measure(ground, args.gateways.into(), Wanted::FLOW.and_many(gateways)).await?;
    let target = ground.target(gateways).await?;
    let fleet = Fleet::register(ground, &target, gateways).await?;
    let origin = Instant::now();
    // They have been there before: that is what a reconnect is.
    let before = fleet.connect(ground, &target, Connect::calmly(gateways, origin)).await?;
    before.leave(&vec![Numbers::default(); gateways]).await?;
    ground.progress.expect("publishing what they miss", args.events.into());
    let load = Load {
        gateways: fleet.ids.clone(),
        spread: Spread::All,
        publishers: 1,
        batch: 1,
        payload: args.common.payload,
        rate: None,
        until: Until::Sent(args.events.into()),
        origin,
    };
    let published = publish(ground, &target, load).await?;
    let deliveries = published.events * u64::from(args.gateways);

    let meter = Meter::start(target.pid);
    let started = Instant::now();
    let at_once = Connect { at_once: gateways, ..Connect::calmly(gateways, origin) };
    let receivers = fleet.connect(ground, &target, at_once).await?;
    receivers.received(ground, deliveries).await?;
    all_confirmed(&target, &fleet.ids, &published.numbers).await?;
    let recorded = started.elapsed();
    let used = meter.stop();
    let seen = &receivers.seen;
    let (live, caught_up) = (seen.connected_at() - started, seen.last_at() - started);
    let (count, retries) = (seen.latencies().total().len(), seen.retries());
    receivers.leave(&published.numbers).await?;

    let rate = floors.many().map(|many| many.handshakes);
    let shaken = rate.map(|rate| float(args.gateways.into()) / rate * 1e3);
    let frames = floors.answered().map(|rate| float(deliveries) / rate * 1e3);
    let all = shaken.zip(frames).map(|(shaken, frames)| shaken + frames);
    let time = |name: &str, time: Duration| {
        Figure::new(name, time.as_secs_f64() * 1e3, "ms", Better::Lower)
    };
    let handshakes = float(args.gateways.into()) / live.as_secs_f64();
    let mut figures = vec![
        time("allLive", live).with_floor(shaken),
        time("allCaughtUp", caught_up).with_floor(all),
        time("allRecorded", recorded).with_floor(all),
        Figure::new("connectsPerSecond", handshakes, "1/s", Better::Higher).with_floor(rate),
    ];
    figures.extend(used.figures(deliveries));
    figures.extend(floors.figures());
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
