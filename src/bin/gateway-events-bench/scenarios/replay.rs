//! A backlog: gateways connect and receive the events published while they were
//! disconnected.

use gateway_events::command::number::whole;
use std::time::Instant;

use serde_json::json;

use crate::baseline::{Baselines, Wanted};
use crate::confirmations::all_confirmed;
use crate::figures::{Better, Figure, float};
use crate::gateways::{Connect, Gateways};
use crate::machine::Meter;
use crate::options::Common;
use crate::publish::{Load, Spread, Until, publish};
use crate::report::{self, Outcome};
use crate::testbed::Testbed;
use crate::transport::{Transport, Transports};

/// Publishers of the backlog, and events per request.
const PUBLISHERS: usize = 4;
const BATCH: u64 = 500;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) transports: Transports,
    /// Gateways with a backlog
    #[arg(long, default_value_t = 1, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Minimum number of events in the backlog of each
    #[arg(long, default_value_t = 20_000, value_parser = whole(1_u32..))]
    events: u32,
}

pub(crate) async fn run(
    args: &Args,
    testbed: &Testbed<'_>,
    transport: Transport,
) -> anyhow::Result<Outcome> {
    let gateways = usize::from(args.gateways);
    let baselines = Baselines::measure(testbed, args.gateways.into(), Wanted::FLOW).await?;
    let target = testbed.target(gateways).await?;
    let registered = Gateways::register(testbed, &target, gateways).await?;
    let origin = Instant::now();
    let wanted = u64::from(args.events) * u64::from(args.gateways);
    let batch = wanted.min(BATCH);
    testbed.progress.bounded_step("publishing the backlog", wanted);
    let load = Load {
        gateways: registered.ids.clone(),
        spread: Spread::Each,
        publishers: PUBLISHERS,
        batch: usize::try_from(batch)?,
        payload: args.common.payload,
        rate: None,
        until: Until::Sent(wanted),
        origin,
    };
    let published = publish(testbed, &target, load).await?;

    let meter = Meter::start(target.pid);
    let started = Instant::now();
    let connect = Connect::gradually(gateways, origin).over(transport);
    let receivers = registered.connect(testbed, &target, connect).await?;
    receivers.received(testbed, published.events).await?;
    all_confirmed(&target, &registered.ids, &published.numbers).await?;
    let recorded = started.elapsed();
    let used = meter.stop();
    let received = receivers.seen.last_at() - started;
    let count = receivers.seen.latencies().total().len();
    receivers.disconnect(&published.numbers).await?;

    let mut figures: Vec<Figure> = [("received", received), ("recorded", recorded)]
        .into_iter()
        .map(|(name, time)| {
            let rate = float(published.events) / time.as_secs_f64();
            Figure::new(&format!("{name}PerSecond"), rate, "1/s", Better::Higher)
                .with_baseline(baselines.acknowledged())
        })
        .collect();
    figures.extend(used.figures(published.events));
    figures.extend(baselines.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": count,
            "refused": published.refused,
        })),
        parameters: report::object(json!({
            "transport": transport.name(),
            "gateways": args.gateways,
            "events": args.events,
            "payload": args.common.payload,
        })),
    })
}
