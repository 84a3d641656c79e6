//! `restore`: replace the SQLite database with a backup.

use std::path::PathBuf;
use std::process::ExitCode;

use gateway_events::app;
use serde_json::json;

use super::access::JsonOption;
use super::output::{self, clean, say, say_prose};
use super::serve::Settings;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file that `backup` has created; it is only read
    file: PathBuf,
    /// Rename an existing database to gateway-events.db.replaced-… instead of failing
    #[arg(long)]
    replace: bool,
    /// Restore the backup even if `verify` would find problems in it
    #[arg(long)]
    accept_problems: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    output: JsonOption,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { file, replace, accept_problems, settings, output: format } = args;
    let config = settings.load()?;
    let restored = app::restore(&config, file.clone(), replace, accept_problems).await?;
    let aside = restored.aside.as_ref().map(|path| path.display().to_string());
    if format.json {
        output::json(&json!({
            "logs": restored.logs,
            "aside": aside,
            "problems": restored.problems,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for problem in &restored.problems {
        say(clean(problem))?;
    }
    say_prose(format_args!(
        "restored {} with a new epoch for {} logs",
        file.display(),
        restored.logs
    ))?;
    if let Some(aside) = aside {
        say_prose(format_args!("the database that it replaces is now {aside}"))?;
    }
    say_prose(
        "keys and tokens that were revoked after the backup are valid again: revoke them again",
    )?;
    say_prose(
        "agents with `--on-gap exit`, the default, will end with exit code 4: bring their products up to date from the state of the platform, then start each agent once with `--on-gap accept`",
    )?;
    Ok(ExitCode::SUCCESS)
}
