//! Connections on which nothing happens: what one costs the server in memory,
//! and in processor time.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::super::check::Numbers;
use super::super::fleet::{Connect, Fleet};
use super::super::floor::Held;
use super::super::ground::Ground;
use super::super::machine::{Meter, resident_bytes};
use super::super::options::Common;
use super::super::report::{self, Better, Figure, Outcome, float};
use super::append::seconds;

/// Connections of one gateway: fewer than may be attempted in a minute.
const PER_GATEWAY: usize = 500;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(in super::super) common: Common,
    /// Open connections
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Watch them for so many seconds
    #[arg(long, default_value = "20", value_parser = seconds)]
    seconds: Duration,
}

pub(in super::super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let connections = usize::from(args.connections);
    ground.progress.say("measuring connections that nothing is done with");
    let held = Held::measure(connections, args.seconds).await?;
    let target = ground.target(connections).await?;
    let pid = target.pid.context(
        "the server's memory can't be seen: name its process by --server-pid, or leave --url out",
    )?;
    let memory = || resident_bytes(pid).context("the server's memory can't be read from /proc");
    let fleet = Fleet::register(ground, &target, connections.div_ceil(PER_GATEWAY)).await?;
    let before = memory()?;
    let calmly = Connect::calmly(connections, Instant::now());
    let receivers = fleet.connect(ground, &target, calmly).await?;
    ground.progress.say("watching idle connections");
    let meter = Meter::start(Some(pid));
    tokio::time::sleep(args.seconds).await;
    let used = meter.stop();
    let after = memory()?;
    receivers.leave(&vec![Numbers::default(); connections]).await?;

    let each = float(after.saturating_sub(before)) / float(connections as u64) / 1024.0;
    let mut figures = vec![
        Figure::new("memoryPerConnection", each, "KiB", Better::Lower)
            .with_floor(Some(held.bytes / 1024.0)),
        Figure::new("memoryBefore", float(before) / 1_048_576.0, "MiB", Better::Lower),
        Figure::new("memoryAfter", float(after) / 1_048_576.0, "MiB", Better::Lower),
    ];
    figures.extend(used.server_time().map(|time| {
        let each = time.as_secs_f64() * 1e6 / args.seconds.as_secs_f64();
        let each = each / float(connections as u64);
        Figure::new("cpuPerConnectionSecond", each, "µs", Better::Lower).with_floor(held.micros)
    }));
    Ok(Outcome {
        figures,
        counts: report::object(json!({ "connections": args.connections })),
        parameters: report::object(json!({
            "connections": args.connections,
            "seconds": args.seconds.as_secs_f64(),
        })),
    })
}
