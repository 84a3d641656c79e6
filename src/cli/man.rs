//! `man`: prints the main manual page, or writes the pages of all commands to a directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the pages of all commands to this directory, which is created if it does not exist
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args, command: clap::Command) -> anyhow::Result<ExitCode> {
    let mut command = command.disable_help_subcommand(true);
    let Some(dir) = args.dir else {
        command.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        say(String::from_utf8_lossy(&page).trim_end())?;
        return Ok(ExitCode::SUCCESS);
    };
    let directory = dir.display();
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {directory}"))?;
    clap_mangen::generate_to(command, &dir)
        .with_context(|| format!("failed to write the pages to {directory}"))?;
    say(format_args!("the pages are in {directory}; read one: man {directory}/gateway-events.1"))?;
    Ok(ExitCode::SUCCESS)
}
