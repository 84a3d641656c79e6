//! `config`: check the settings, or show them.

use std::process::ExitCode;

use clap::Subcommand;
use gateway_events::app;
use serde_json::json;

use super::access::JsonOption;
use super::output::{self, note, say};
use super::serve::Settings;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Read all settings, parse URLs, open the files that they refer to, and report problems; makes no
    /// connections
    Check(Settings),
    /// Show the settings in effect; secrets are masked
    Show {
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        output: JsonOption,
    },
}

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(settings) => {
            let config = settings.load_all()?;
            for warning in config.warnings() {
                note(format_args!("warning: {warning}"));
            }
            let problems = app::check(&config);
            anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
            say("the settings are valid")?;
        }
        Command::Show { settings, output: JsonOption { json: as_json } } => {
            let config = settings.load()?;
            if as_json {
                output::json(&json!(config.settings()))?;
            } else {
                say(config.show().trim_end())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
