//! `stats`: totals of connections, nodes and deliveries.

use std::process::ExitCode;

use gateway_events::api::Stats;

use super::access::ClientOptions;
use super::output::{age, answer, cell, optional};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    client: ClientOptions,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    answer(args.client.json, &args.client.api()?.stats().await?, shown)
}

fn shown(stats: &Stats) -> String {
    let deliveries = &stats.event_delivery;
    let lines = [
        ("connections", cell(stats.gateway_connections.total_active)),
        (
            "nodes",
            format!(
                "{}, with {} of at most {} connections",
                stats.nodes.live, stats.nodes.connections, stats.nodes.max_connections
            ),
        ),
        ("delivered", cell(deliveries.total_events_sent)),
        ("pending", cell(deliveries.pending)),
        ("failed attempts", cell(deliveries.failed_deliveries)),
        ("dead letters", cell(deliveries.dead_letters)),
        ("last failure", age(deliveries.last_failure_time)),
        ("last reason", optional(deliveries.last_failure_reason)),
    ];
    lines.map(|(name, value)| format!("{name:<16} {value}")).join("\n")
}
