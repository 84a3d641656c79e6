//! `verify`: check a database's consistency.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use gateway_events::store::{AuditHead, Options};
use secrecy::SecretString;
use serde_json::json;

use super::access::JsonOption;
use super::migrate;
use super::output::{self, clean, say, say_prose};
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A position of the audit log that an earlier run printed: fails if any record up to it was
    /// replaced or removed since
    #[arg(long, value_name = "SEQUENCE:HASH")]
    audit_head: Option<AuditHead>,
    /// SQLite file to verify instead of the configured database; it is only read, and the service may be
    /// running
    #[arg(conflicts_with_all = ["config", "data_dir"])]
    database: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    output: JsonOption,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut database = migrate::database(&args.settings.load()?);
    if let Some(path) = args.database {
        database = Options { path, url: SecretString::default(), ..database };
    }
    let name = migrate::name(&database);
    let refused = || format!("failed to verify {name}");
    if !database.is_shared() {
        // SQLite's own errors for these are not helpful.
        let found = std::fs::metadata(&database.path).with_context(refused)?;
        anyhow::ensure!(found.is_file(), "{name} is not a regular file");
        std::fs::File::open(&database.path).with_context(refused)?;
    }
    let report = database.verify(args.audit_head).await.with_context(refused)?;
    if args.output.json {
        output::json(&json!({
            "gateways": report.gateways,
            "events": report.events,
            "deliveries": report.deliveries,
            "attempts": report.attempts,
            "deadLetters": report.dead_letters,
            "inbox": report.inbox,
            "rejected": report.rejected,
            "auditRecords": report.audit_records,
            "auditHead": report.audit_head.to_string(),
            "auditRemoved": report.audit_removed,
            "problems": report.problems,
        }))?;
    } else {
        say_prose(format_args!(
            "{name}: {} gateways, {} events, {} deliveries, {} attempts, {} dead letters, {} audit records, {} rows in the inbox, {} rejected",
            report.gateways,
            report.events,
            report.deliveries,
            report.attempts,
            report.dead_letters,
            report.audit_records,
            report.inbox,
            report.rejected
        ))?;
        if report.audit_removed > 0 {
            say_prose(format_args!(
                "audit log: the records up to number {} are not kept any more (retention.audit)",
                report.audit_removed
            ))?;
        }
        // On a line of its own, because it can't be wrapped.
        say(format_args!("audit head:\n    {}", report.audit_head))?;
        if report.problems.is_empty() {
            say("sound: no problem was found")?;
        }
        for problem in &report.problems {
            say(clean(problem))?;
        }
        if !report.problems.is_empty() {
            say_prose(
                "problems were found: restore a backup that `verify` finds sound, and keep a copy of this database to find the cause",
            )?;
        }
    }
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
