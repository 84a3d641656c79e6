//! `migrate`: brings the database up to date without starting the service.

use std::process::ExitCode;

use gateway_events::store::sqlite;

use super::output::say;
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Change nothing; exit with status 1 if migrations are pending
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.settings.load(None, false)?;
    let path = config.data_dir.join("gateway-events.db");
    if !args.check {
        sqlite::migrate(&path).await?;
        say(format_args!("{} is up to date", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let pending = sqlite::pending_migrations(&path).await?;
    if pending.is_empty() {
        say(format_args!("{} is up to date", path.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    for migration in &pending {
        say(format_args!("pending: {migration}"))?;
    }
    Ok(ExitCode::FAILURE)
}
