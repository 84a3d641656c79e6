//! `node`: list the nodes that use the database.

use gateway_events::command::number::whole;
use std::process::ExitCode;

use clap::Subcommand;
use gateway_events::api::NodesQuery;

use super::access::ClientOptions;
use super::output::{age, answer, cell, optional};
use super::table::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List live nodes, then those that stopped in the last days
    List {
        /// Maximum number of nodes to list
        #[arg(long, default_value_t = 100, value_parser = whole(1_u32..=1000))]
        limit: u32,
    },
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let Command::List { limit } = command;
    let query = NodesQuery { limit: usize::try_from(limit).ok() };
    let page = client.api()?.nodes(&query).await?;
    answer(client.json, &page, |page| {
        let rows = page.list.iter().map(|node| {
            [
                cell(node.id),
                cell(node.status.as_str()),
                optional(node.host.as_ref()),
                optional(node.address.as_ref()),
                cell(node.connections),
                optional(node.max_connections),
                age(node.started_at),
                age(node.last_heartbeat),
                optional(node.version.as_ref()),
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
