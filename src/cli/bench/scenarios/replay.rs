//! A backlog: gateways that were away come back, and read what they missed.

use std::time::Instant;

use serde_json::json;

use super::super::fleet::{Connect, Fleet};
use super::super::floor::{Floors, Wanted};
use super::super::ground::Ground;
use super::super::machine::Meter;
use super::super::options::Common;
use super::super::publish::{Load, Spread, Until, publish};
use super::super::recorded::all_confirmed;
use super::super::report::{self, Better, Figure, Outcome, float};

/// Publishers of the backlog, and events per request.
const PUBLISHERS: usize = 4;
const BATCH: u64 = 500;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(in super::super) common: Common,
    /// Gateways that were away
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
    /// Events that wait for each of them, at least
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
}

pub(in super::super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let gateways = usize::from(args.gateways);
    let floors = Floors::measure(ground, args.gateways.into(), Wanted::FLOW).await?;
    let target = ground.target(gateways).await?;
    let fleet = Fleet::register(ground, &target, gateways).await?;
    let origin = Instant::now();
    let wanted = u64::from(args.events) * u64::from(args.gateways);
    let batch = wanted.min(BATCH);
    ground.progress.expect("publishing the backlog", wanted);
    let load = Load {
        gateways: fleet.ids.clone(),
        spread: Spread::Each,
        publishers: PUBLISHERS,
        batch: usize::try_from(batch)?,
        payload: args.common.payload,
        rate: None,
        until: Until::Sent(wanted),
        origin,
    };
    let published = publish(ground, &target, load).await?;

    let meter = Meter::start(target.pid);
    let started = Instant::now();
    let receivers = fleet.connect(ground, &target, Connect::calmly(gateways, origin)).await?;
    receivers.received(ground, published.events).await?;
    all_confirmed(&target, &fleet.ids, &published.numbers).await?;
    let recorded = started.elapsed();
    let used = meter.stop();
    let received = receivers.seen.last_at() - started;
    let count = receivers.seen.latencies().total().len();
    receivers.leave(&published.numbers).await?;

    let mut figures: Vec<Figure> = [("received", received), ("recorded", recorded)]
        .into_iter()
        .map(|(name, time)| {
            let rate = float(published.events) / time.as_secs_f64();
            Figure::new(&format!("{name}PerSecond"), rate, "1/s", Better::Higher)
                .with_floor(floors.answered())
        })
        .collect();
    figures.extend(used.figures(published.events));
    figures.extend(floors.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": count,
            "refused": published.refused,
        })),
        parameters: report::object(json!({
            "gateways": args.gateways,
            "events": args.events,
            "payload": args.common.payload,
        })),
    })
}
