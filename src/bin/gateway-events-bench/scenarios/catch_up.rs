//! A gateway was disconnected while many events were published for it, and connects, while others
//! receive live events at a fixed rate: how soon their events arrive before it connects and while it
//! catches up, and how much memory that takes on both sides.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use gateway_events::client::CancellationToken;
use serde_json::json;

use super::append::seconds;
use super::deliver::rate;
use crate::baseline::{Baselines, Wanted};
use crate::confirmations::all_confirmed;
use crate::figures::{Better, Figure, float};
use crate::gateways::{Connect, Gateways};
use crate::latency;
use crate::machine::{Meter, PeakMemory};
use crate::options::Common;
use crate::publish::{Load, Published, Spread, Until, publish};
use crate::report::{self, Outcome};
use crate::testbed::{Target, Testbed};
use crate::transport::{Transport, Transports};

/// Publishers of the backlog, and events per request.
const BACKLOG_PUBLISHERS: usize = 4;
const BATCH: u64 = 500;
/// Publishers of live events.
const PUBLISHERS: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) transports: Transports,
    /// Minimum number of events in the backlog
    #[arg(long, default_value_t = 200_000, value_parser = whole(1_u32..))]
    events: u32,
    /// Live events per second, each for one of the other gateways
    #[arg(long, value_name = "EVENTS", default_value = "100", value_parser = rate)]
    rate: f64,
    /// Connected gateways besides the one with the backlog, in plain mode
    #[arg(long, default_value_t = 16, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Duration of the load before the gateway connects
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

pub(crate) async fn run(
    args: &Args,
    testbed: &Testbed<'_>,
    transport: Transport,
) -> anyhow::Result<Outcome> {
    let gateways = usize::from(args.gateways);
    let wanted = Wanted::FLOW.and_fanout(gateways);
    let baselines = Baselines::measure(testbed, args.gateways.into(), wanted).await?;
    let target = testbed.target(gateways + 1).await?;
    let behind = Gateways::register(testbed, &target, 1).await?;
    let others = Gateways::register(testbed, &target, gateways).await?;
    let origin = Instant::now();
    let backlog = publish_backlog(args, testbed, &target, &behind, origin).await?;
    let live = others.connect(testbed, &target, Connect::gradually(gateways, origin)).await?;

    let stop = CancellationToken::new();
    let load = Load {
        gateways: others.ids.clone(),
        spread: Spread::Each,
        publishers: PUBLISHERS,
        batch: 1,
        payload: args.common.payload,
        rate: Some(args.rate),
        until: Until::Stopped(stop.clone()),
        origin,
    };
    testbed.progress.step("publishing and catching up");
    let catching_up = async {
        let _stops = stop.drop_guard();
        tokio::time::sleep(args.seconds).await;
        let server = target.pid.and_then(PeakMemory::of);
        let client = PeakMemory::of(std::process::id());
        let meter = Meter::start(target.pid);
        live.seen.split();
        let started = Instant::now();
        let connect = Connect::gradually(1, origin).over(transport);
        let receivers = behind.connect(testbed, &target, connect).await?;
        receivers.received(testbed, backlog.events).await?;
        let received = receivers.seen.last_at() - started;
        all_confirmed(&target, &behind.ids, &backlog.numbers).await?;
        let recorded = started.elapsed();
        let used = meter.stop();
        let memory = [("memory", server), ("clientMemory", client)].into_iter();
        let memory: Vec<Figure> =
            memory.filter_map(|(name, peak)| Some(peak?.figures(name))).flatten().collect();
        receivers.disconnect(&backlog.numbers).await?;
        anyhow::Ok((received, recorded, used, memory))
    };
    let (published, (received, recorded, used, memory)) =
        tokio::try_join!(publish(testbed, &target, load), catching_up)?;
    live.received(testbed, published.events).await?;
    all_confirmed(&target, &others.ids, &published.numbers).await?;
    let (before, during) = (live.seen.latencies().total(), live.seen.later().total());
    live.disconnect(&published.numbers).await?;

    let mut figures = latency::figures("before", &before, Some(baselines.response()));
    figures.extend(latency::figures("during", &during, Some(baselines.response())));
    figures.extend(latency::figures("lateness", &published.lateness.total(), None));
    figures.extend([("received", received), ("recorded", recorded)].map(|(name, time)| {
        let speed = float(backlog.events) / time.as_secs_f64();
        Figure::new(&format!("{name}PerSecond"), speed, "1/s", Better::Higher)
            .with_baseline(baselines.acknowledged())
    }));
    figures.extend(memory);
    figures.extend(used.figures(backlog.events));
    figures.extend(baselines.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": before.len() + during.len(),
            "backlog": backlog.events,
        })),
        parameters: report::object(json!({
            "transport": transport.name(),
            "events": args.events,
            "rate": args.rate,
            "gateways": args.gateways,
            "seconds": args.seconds.as_secs_f64(),
            "payload": args.common.payload,
        })),
    })
}

async fn publish_backlog(
    args: &Args,
    testbed: &Testbed<'_>,
    target: &Target,
    behind: &Gateways,
    origin: Instant,
) -> anyhow::Result<Published> {
    let wanted = u64::from(args.events);
    testbed.progress.bounded_step("publishing the backlog", wanted);
    let load = Load {
        gateways: behind.ids.clone(),
        spread: Spread::Each,
        publishers: BACKLOG_PUBLISHERS,
        batch: usize::try_from(wanted.min(BATCH))?,
        payload: args.common.payload,
        rate: None,
        until: Until::Sent(wanted),
        origin,
    };
    publish(testbed, target, load).await
}
