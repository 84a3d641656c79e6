//! `epoch`: new epochs for a database that was restored by other means than `restore`.

use std::process::ExitCode;

use gateway_events::app;
use serde_json::json;

use super::access::JsonOption;
use super::confirm::Confirmation;
use super::migrate;
use super::output::answer;
use super::serve::Settings;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Give every gateway's log a new epoch, after the database was restored or lost its last commits
    ///
    /// For both databases. The service must be stopped, on all nodes. Gateways in reliable mode that
    /// resume from a position of the old epoch read a snapshot; `restore` does this itself.
    Renew(Renew),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Renew {
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    output: JsonOption,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let Command::Renew(Renew { confirmation, settings, output }) = command;
    let config = settings.load()?;
    app::check_renewal(&config).await?;
    let name = migrate::name(&migrate::database(&config));
    confirmation.require(
        format_args!(
            "Every log in {name} gets a new epoch. Gateways in reliable mode that resume from a position of the old one read a snapshot, and agents with `--on-gap exit`, the default, end with exit code 4."
        ),
        "Renew the epochs?",
    )?;
    let logs = app::renew_epochs(&config).await?;
    answer(output.json, &json!({ "logs": logs }), |_| {
        format!("{name}: {logs} logs have a new epoch")
    })
}
