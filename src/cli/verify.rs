//! `verify`: whether a database keeps what the service promises.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use gateway_events::store::sqlite;
use serde_json::json;

use super::access::ClientOptions;
use super::output::{self, clean, say};
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The database file, if it is not that of the settings; it is only read, and the service may be running
    #[arg(conflicts_with_all = ["config", "data_dir"])]
    database: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) async fn run(args: Args, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let database = match args.database {
        Some(database) => database,
        None => args.settings.load(None, false)?.data_dir.join("gateway-events.db"),
    };
    let refused = || format!("{} can't be verified", database.display());
    // SQLite's own words for a file that is not there say nothing.
    std::fs::File::open(&database).with_context(refused)?;
    let report = sqlite::verify::verify(&database).await.with_context(refused)?;
    if client.json {
        output::json(&json!(report))?;
    } else {
        say(format_args!(
            "{}: {} gateways, {} events, {} deliveries, {} attempts, {} dead letters",
            database.display(),
            report.gateways,
            report.events,
            report.deliveries,
            report.attempts,
            report.dead_letters
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
