//! `verify`: whether a database keeps what the service promises.

use std::path::PathBuf;
use std::process::ExitCode;

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
    let report = sqlite::verify::verify(&args.database).await?;
    if client.json {
        output::json(&json!(report))?;
    } else if report.problems.is_empty() {
        say(format_args!("{} is sound", args.database.display()))?;
    } else {
        for problem in &report.problems {
            say(clean(problem))?;
        }
    }
    Ok(if report.problems.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
