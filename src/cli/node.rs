//! `node`: which processes share the database, and how much each can take.

use std::process::ExitCode;

use clap::Subcommand;

use super::access::ClientOptions;
use super::output::{answer, cell, elements, time};
use super::table::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the living nodes, then those that ended in the last days
    List {
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let Command::List { limit } = command;
    let page = client.api()?.get_with("/nodes", &[("limit", limit.to_string())]).await?;
    answer(client.json, &page, |page| {
        let rows = elements(&page["list"]).iter().map(|node| {
            [
                cell(&node["id"]),
                cell(&node["status"]),
                cell(&node["host"]),
                cell(&node["address"]),
                cell(&node["connections"]),
                cell(&node["maxConnections"]),
                time(&node["startedAt"]),
                time(&node["lastHeartbeat"]),
                cell(&node["version"]),
            ]
        });
        let header = [
            "id",
            "status",
            "host",
            "address",
            "connections",
            "limit",
            "started",
            "last sign",
            "version",
        ];
        table(header, rows, "no nodes")
    })
}
