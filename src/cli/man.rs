//! `man`: manual pages of all commands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write the pages; created if it does not exist
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    dir: PathBuf,
}

pub(crate) fn run(args: &Args, command: clap::Command) -> anyhow::Result<ExitCode> {
    let directory = args.dir.display();
    std::fs::create_dir_all(&args.dir).with_context(|| format!("failed to create {directory}"))?;
    clap_mangen::generate_to(command, &args.dir)
        .with_context(|| format!("failed to write the pages to {directory}"))?;
    say(format_args!("the pages are in {directory}; read one: man {directory}/gateway-events.1"))?;
    Ok(ExitCode::SUCCESS)
}
