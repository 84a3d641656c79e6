//! One event for all gateways at once: how long until the last one has it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::fleet::{Connect, Fleet};
use super::super::floor::{Floors, Wanted};
use super::super::ground::Ground;
use super::super::machine::Meter;
use super::super::options::Common;
use super::super::publish::{Load, Spread, Until, publish};
use super::super::recorded::all_confirmed;
use super::super::report::Outcome;
use super::super::{latency, report};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(in super::super) common: Common,
    /// Connected gateways
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
    /// Events, one after the other
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    events: u16,
    /// Events per second
    #[arg(long, default_value_t = 2.0, value_parser = super::deliver::rate)]
    rate: f64,
}

pub(in super::super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let gateways = usize::from(args.gateways);
    let wanted = Wanted::ANSWER.and_many(args.gateways.into());
    let floors = Floors::measure(ground, args.gateways.into(), wanted).await?;
    let target = ground.target(gateways).await?;
    let fleet = Fleet::register(ground, &target, gateways).await?;
    let origin = Instant::now();
    let how = Connect { events: args.events.into(), ..Connect::calmly(gateways, origin) };
    let receivers = fleet.connect(ground, &target, how).await?;
    let meter = Meter::start(target.pid);
    ground.progress.say("publishing");
    let load = Load {
        gateways: fleet.ids.clone(),
        spread: Spread::All,
        publishers: 1,
        batch: 1,
        payload: args.common.payload,
        rate: Some(args.rate),
        // Half a step short of the one too many.
        until: Until::Elapsed(Duration::from_secs_f64((f64::from(args.events) - 0.5) / args.rate)),
        origin,
    };
    let published = publish(ground, &target, load).await?;
    let deliveries = published.events * u64::from(args.gateways);
    receivers.received(ground, deliveries).await?;
    all_confirmed(&target, &fleet.ids, &published.numbers).await?;
    let used = meter.stop();
    let seen = &receivers.seen;
    let (slowest, each) = (seen.slowest().total(), seen.latencies().total());
    receivers.leave(&published.numbers).await?;

    // One synced write, and a frame for each gateway through the same processors.
    let floor = floors.many().map(|many| floors.answer() + many.last);
    let mut figures = latency::figures("lastGateway", &slowest, floor);
    figures.extend(latency::figures("gateway", &each, floor));
    figures.extend(latency::figures("request", &published.requests.total(), Some(floors.answer())));
    figures.extend(used.figures(deliveries));
    figures.extend(floors.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": each.len(),
            "refused": published.refused,
        })),
        parameters: report::object(json!({
            "gateways": args.gateways,
            "events": args.events,
            "rate": args.rate,
            "payload": args.common.payload,
        })),
    })
}
