//! One event for all gateways at once: how long until the last one has it.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::baseline::{Baselines, Wanted};
use crate::confirmations::all_confirmed;
use crate::gateways::{Connect, Gateways};
use crate::machine::Meter;
use crate::options::Common;
use crate::publish::{Load, Spread, Until, publish};
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
    /// Connected gateways
    #[arg(long, default_value_t = 100, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Number of events
    #[arg(long, default_value_t = 20, value_parser = whole(1_u16..))]
    events: u16,
    /// Events per second
    #[arg(long, default_value_t = 2.0, value_parser = super::deliver::rate)]
    rate: f64,
}

pub(crate) async fn run(
    args: &Args,
    testbed: &Testbed<'_>,
    transport: Transport,
) -> anyhow::Result<Outcome> {
    let gateways = usize::from(args.gateways);
    let wanted = Wanted::RESPONSE.and_fanout(args.gateways.into());
    let baselines = Baselines::measure(testbed, args.gateways.into(), wanted).await?;
    let target = testbed.target(gateways).await?;
    let registered = Gateways::register(testbed, &target, gateways).await?;
    let origin = Instant::now();
    let how = Connect { events: args.events.into(), ..Connect::gradually(gateways, origin) };
    let receivers = registered.connect(testbed, &target, how.over(transport)).await?;
    let meter = Meter::start(target.pid);
    testbed.progress.step("publishing");
    let load = Load {
        gateways: registered.ids.clone(),
        spread: Spread::All,
        publishers: 1,
        batch: 1,
        payload: args.common.payload,
        rate: Some(args.rate),
        // Half an interval after the last event is due.
        until: Until::Elapsed(Duration::from_secs_f64((f64::from(args.events) - 0.5) / args.rate)),
        origin,
    };
    let published = publish(testbed, &target, load).await?;
    let deliveries = published.events * u64::from(args.gateways);
    receivers.received(testbed, deliveries).await?;
    all_confirmed(&target, &registered.ids, &published.numbers).await?;
    let used = meter.stop();
    let seen = &receivers.seen;
    let (slowest, each) = (seen.slowest().total(), seen.latencies().total());
    receivers.disconnect(&published.numbers).await?;

    // The baseline: one synced write, then a frame for each gateway.
    let baseline = baselines.fanout().map(|fanout| baselines.response() + fanout.last);
    let mut figures = latency::figures("lastGateway", &slowest, baseline);
    figures.extend(latency::figures("gateway", &each, baseline));
    figures.extend(latency::figures(
        "request",
        &published.requests.total(),
        Some(baselines.response()),
    ));
    figures.extend(used.figures(deliveries));
    figures.extend(baselines.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": each.len(),
            "refused": published.refused,
        })),
        parameters: report::object(json!({
            "transport": transport.name(),
            "gateways": args.gateways,
            "events": args.events,
            "rate": args.rate,
            "payload": args.common.payload,
        })),
    })
}
