//! Idle connections: the memory and processor time that each costs the server.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::append::seconds;
use crate::baseline::Idle;
use crate::check::Numbers;
use crate::figures::{Better, Figure, float};
use crate::gateways::{Connect, Gateways};
use crate::machine::{Meter, resident_bytes};
use crate::options::Common;
use crate::report::{self, Outcome};
use crate::testbed::Testbed;
use crate::transport::{Transport, Transports};

/// Connections per gateway; less than `delivery.max_connections_per_gateway`.
const PER_GATEWAY: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    pub(crate) transports: Transports,
    /// Open connections
    #[arg(long, default_value_t = 1000, value_parser = whole(1_u16..))]
    connections: u16,
    /// Duration of the measurement
    #[arg(long, default_value = "20", value_parser = seconds)]
    seconds: Duration,
}

pub(crate) async fn run(
    args: &Args,
    testbed: &Testbed<'_>,
    transport: Transport,
) -> anyhow::Result<Outcome> {
    let connections = usize::from(args.connections);
    testbed.progress.step("measuring idle TLS connections");
    let baseline = Idle::measure(connections, args.seconds).await?;
    let target = testbed.target(connections).await?;
    let pid = target.pid.context(
        "the process of the running service is not known: name it with --server-pid, or omit --url",
    )?;
    let memory =
        || resident_bytes(pid).context("failed to read the server's memory usage from /proc");
    let registered =
        Gateways::register(testbed, &target, connections.div_ceil(PER_GATEWAY)).await?;
    let before = memory()?;
    let connect = Connect::gradually(connections, Instant::now()).over(transport);
    let receivers = registered.connect(testbed, &target, connect).await?;
    testbed.progress.step("observing idle connections");
    let meter = Meter::start(Some(pid));
    tokio::time::sleep(args.seconds).await;
    let used = meter.stop();
    let after = memory()?;
    receivers.disconnect(&vec![Numbers::default(); connections]).await?;

    let each = float(after.saturating_sub(before)) / float(connections as u64) / 1024.0;
    let mut figures = vec![
        Figure::new("memoryPerConnection", each, "KiB", Better::Lower)
            .with_baseline(Some(baseline.bytes / 1024.0)),
        Figure::new("memoryBefore", float(before) / 1_048_576.0, "MiB", Better::Lower),
        Figure::new("memoryAfter", float(after) / 1_048_576.0, "MiB", Better::Lower),
    ];
    figures.extend(used.server_time().map(|time| {
        let each = time.as_secs_f64() * 1e6 / args.seconds.as_secs_f64();
        let each = each / float(connections as u64);
        Figure::new("cpuPerConnectionSecond", each, "µs", Better::Lower)
            .with_baseline(baseline.micros)
    }));
    Ok(Outcome {
        figures,
        counts: report::object(json!({ "connections": args.connections })),
        parameters: report::object(json!({
            "transport": transport.name(),
            "connections": args.connections,
            "seconds": args.seconds.as_secs_f64(),
        })),
    })
}
