//! `migrate`: apply pending migrations without starting the service.

use std::process::ExitCode;

use gateway_events::app;
use gateway_events::config::Config;
use gateway_events::store::Options;

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
    let config = args.settings.load()?;
    let database = database(&config);
    let name = name(&database);
    if !args.check {
        app::refuse_missing_database(&config)?;
        database.migrate().await?;
        say(format_args!("{name} is up to date"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let pending = database.pending_migrations().await?;
    if pending.is_empty() {
        say(format_args!("{name} is up to date"))?;
        return Ok(ExitCode::SUCCESS);
    }
    for migration in &pending {
        say(format_args!("pending: {migration}"))?;
    }
    Ok(ExitCode::FAILURE)
}

/// The database that the settings select.
pub(super) fn database(config: &Config) -> Options {
    let path = config.data_dir.join("gateway-events.db");
    Options { path, ..config.database.clone() }
}

/// The name of the database in messages.
pub(super) fn name(database: &Options) -> String {
    if database.is_shared() {
        "the database of database.url".to_owned()
    } else {
        database.path.display().to_string()
    }
}
