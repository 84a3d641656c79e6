//! A gateway's whole log is replayed by a job while others receive live events at a fixed rate: how
//! soon their events arrive before the replay and during it.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_events::api::{JobState, NewGatewayToken, ReplayRequest};
use gateway_events::client::CancellationToken;
use gateway_events::event::{GatewayId, Sequence};
use secrecy::SecretString;
use serde_json::json;

use super::append::seconds;
use super::deliver::rate;
use crate::baseline::{Baselines, Wanted};
use crate::confirmations::all_confirmed;
use crate::figures::{Better, Figure};
use crate::gateway_connection::GatewayConnection;
use crate::gateways::{Connect, Gateways, Receivers};
use crate::latency;
use crate::machine::Meter;
use crate::options::Common;
use crate::publish::{Load, Spread, Until, publish};
use crate::report::{self, Outcome};
use crate::testbed::{Target, Testbed};
use crate::transport::Transport;

const POLL_INTERVAL: Duration = Duration::from_millis(200);
const PUBLISHERS: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Deliveries to replay, all to one gateway
    #[arg(long, default_value_t = 100_000, value_parser = whole(501_u32..))]
    rows: u32,
    /// The replayed gateway is connected and receives its events again meanwhile
    #[arg(long)]
    connected: bool,
    /// Live events per second, each for one of the other gateways
    #[arg(long, value_name = "EVENTS", default_value = "100", value_parser = rate)]
    rate: f64,
    /// Connected gateways besides the replayed one
    #[arg(long, default_value_t = 16, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Duration of the load before the replay
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

pub(crate) async fn run(args: &Args, testbed: &Testbed<'_>) -> anyhow::Result<Outcome> {
    let baselines = Baselines::measure(testbed, args.gateways.into(), Wanted::RESPONSE).await?;
    let replayed: GatewayId = testbed.fill_delivered_log(args.rows).await?.parse()?;
    // Retention would remove events that are still to be replayed.
    let kept = u64::from(u32::MAX).to_string();
    let keep = ["RETENTION__MAX_EVENTS", "RETENTION__HARD_MAX_EVENTS"].map(|it| (it, kept.clone()));
    let target = testbed.target_with(args.gateways.into(), &keep).await?;
    let registered = Gateways::register(testbed, &target, args.gateways.into()).await?;
    let origin = Instant::now();
    let connect = Connect::gradually(args.gateways.into(), origin);
    let receivers = registered.connect(testbed, &target, connect).await?;
    let rebuilt = if args.connected {
        Some(tokio::spawn(receive(connect_as(&target, replayed).await?)))
    } else {
        None
    };
    let stop = CancellationToken::new();
    let load = Load {
        gateways: registered.ids.clone(),
        spread: Spread::Each,
        publishers: PUBLISHERS,
        batch: 1,
        payload: args.common.payload,
        rate: Some(args.rate),
        until: Until::Stopped(stop.clone()),
        origin,
    };
    let meter = Meter::start(target.pid);
    testbed.progress.step("publishing and replaying");
    let replaying = async {
        let _stops = stop.drop_guard();
        tokio::time::sleep(args.seconds).await;
        replay(args, &target, replayed, &receivers).await
    };
    let (published, took) = tokio::try_join!(publish(testbed, &target, load), replaying)?;
    receivers.received(testbed, published.events).await?;
    all_confirmed(&target, &registered.ids, &published.numbers).await?;
    let used = meter.stop();
    let (before, during) = (receivers.seen.latencies().total(), receivers.seen.later().total());
    receivers.disconnect(&published.numbers).await?;
    if let Some(rebuilt) = rebuilt {
        rebuilt.abort();
    }

    let response = Some(baselines.response());
    let mut figures = latency::figures("before", &before, response);
    figures.extend(latency::figures("during", &during, response));
    figures.extend(latency::figures("lateness", &published.lateness.total(), None));
    let speed = f64::from(args.rows) / took.as_secs_f64();
    figures.push(Figure::new("replayedPerSecond", speed, "1/s", Better::Higher));
    figures.extend(used.figures(published.events + u64::from(args.rows)));
    figures.extend(baselines.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({
            "accepted": published.events,
            "received": before.len() + during.len(),
            "replayed": args.rows,
        })),
        parameters: report::object(json!({
            "rows": args.rows,
            "connected": args.connected,
            "rate": args.rate,
            "gateways": args.gateways,
            "seconds": args.seconds.as_secs_f64(),
            "payload": args.common.payload,
        })),
    })
}

/// Replays the whole log and waits for the job's end; returns how long it took.
async fn replay(
    args: &Args,
    target: &Target,
    gateway: GatewayId,
    receivers: &Receivers,
) -> anyhow::Result<Duration> {
    receivers.seen.split();
    let started = Instant::now();
    let everything = ReplayRequest { from_sequence: Some(Sequence(1)), ..ReplayRequest::default() };
    let job = target.api.replay(gateway, &everything).await?.job.context("no job was started")?;
    loop {
        let job = target.api.job(job.id).await?;
        match job.state {
            JobState::Running => tokio::time::sleep(POLL_INTERVAL).await,
            JobState::Done => {
                anyhow::ensure!(
                    job.appended == i64::from(args.rows),
                    "{} of {} deliveries were replayed",
                    job.appended,
                    args.rows
                );
                return Ok(started.elapsed());
            }
            state => anyhow::bail!("the job ended as {state:?}: {:?}", job.failure),
        }
    }
}

/// Connects in the place of a gateway.
async fn connect_as(target: &Target, gateway: GatewayId) -> anyhow::Result<GatewayConnection> {
    let made = target.api.create_gateway_token(gateway, &NewGatewayToken::default()).await?;
    let key = SecretString::from(made.token);
    let endpoint = target.endpoint(usize::from(u16::MAX));
    Ok(GatewayConnection::connect(Transport::WebSocket, &endpoint, &key, None).await?)
}

/// Receives and confirms until the connection ends.
async fn receive(mut connection: GatewayConnection) {
    while connection.next().await.is_ok() {}
}
