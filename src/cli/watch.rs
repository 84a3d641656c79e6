//! `--watch`: repeats a command that lists or shows something until it is interrupted. On a terminal the
//! new output replaces the previous one; otherwise a blank line separates them.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use gateway_events::clock::Timestamp;

use super::interrupt::Interrupt;
use super::output::{note, say, time};
use super::time::parse_duration;

/// The commands that have the option. Each only reads.
const WATCHED: &[&[&str]] = &[
    &["gateway", "list"],
    &["gateway", "show"],
    &["gateway", "connections"],
    &["gateway", "log"],
    &["gateway", "instances"],
    &["token", "list"],
    &["event", "list"],
    &["event", "show"],
    &["event-type", "list"],
    &["event-type", "show"],
    &["delivery", "failed"],
    &["delivery", "list"],
    &["delivery", "summary"],
    &["inbox", "rejected"],
    &["inbox", "show"],
    &["audit", "list"],
    &["job", "list"],
    &["job", "show"],
    &["node", "list"],
    &["rollout"],
    &["stats"],
    &["why"],
];

const OPTION: &str = "watch";
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Adds the option to the commands that have it.
pub(crate) fn with_option(command: Command) -> Command {
    WATCHED.iter().fold(command, |command, path| at(command, path))
}

fn at(command: Command, path: &[&'static str]) -> Command {
    match path {
        [] => command.arg(
            Arg::new(OPTION)
                .long(OPTION)
                .value_name("INTERVAL")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("2s")
                .value_parser(interval)
                .help(
                    "Repeat the command every 2 s, or at the given interval, such as --watch=10s",
                ),
        ),
        [first, rest @ ..] => command.mut_subcommand(first, |command| at(command, rest)),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < MIN_INTERVAL {
        return Err("the shortest interval is 1s".to_owned());
    }
    Ok(interval)
}

/// The interval, if the command has the option and it is given.
pub(crate) fn of(matches: &ArgMatches) -> Option<Duration> {
    matches.try_get_one::<Duration>(OPTION).ok().flatten().copied()
}

/// Repeats a command until it is interrupted. An error ends it only if it is the first result.
pub(crate) async fn repeat(
    every: Duration,
    command: impl AsyncFn() -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let is_terminal = io::stdout().is_terminal();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_first = true;
    loop {
        tokio::select! {
            () = interrupt.received() => return Ok(ExitCode::SUCCESS),
            _ = ticks.tick() => {}
        }
        if is_terminal {
            // Home, and clear what is below: the scrollback stays.
            let seconds = every.as_secs();
            let now = time(Timestamp::now());
            say(format_args!("\u{1b}[H\u{1b}[2Jevery {seconds} s, at {now}; Ctrl-C ends it\n"))?;
        } else if !is_first {
            say("")?;
        }
        let answered = tokio::select! {
            () = interrupt.received() => return Ok(ExitCode::SUCCESS),
            answered = command() => answered,
        };
        match answered {
            Ok(_) => {}
            Err(error) if is_first || error.is::<io::Error>() => return Err(error),
            Err(error) => note(format_args!("gateway-events: {error}")),
        }
        is_first = false;
    }
}
