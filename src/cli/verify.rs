//! `verify`: whether a database keeps what the service promises.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use gateway_events::store::sqlite;
use serde_json::json;

use super::access::ClientOptions;
use super::output::{self, clean, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The database file; it is only read, and the service may be running
    database: PathBuf,
}

pub(crate) async fn run(args: Args, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let report = sqlite::verify::verify(&args.database)
        .await
        .with_context(|| format!("{} can't be verified", args.database.display()))?;
    if client.json {
        output::json(&json!(report))?;
    } else {
        say(format_args!(
            "{}: {} gateways, {} events, {} deliveries, {} attempts, {} dead letters, {} rows in the inbox, {} rejected",
            args.database.display(),
            report.gateways,
            report.events,
            report.deliveries,
            report.attempts,
            report.dead_letters,
            report.inbox,
            report.rejected
        ))?;
        if report.problems.is_empty() {
            say("sound: no problem was found")?;
        }
        for problem in &report.problems {
            say(clean(problem))?;
        }
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
