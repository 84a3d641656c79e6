//! `gateway-events-bench`: measures how much this machine can do, as ratios to what
//! its disk, TLS and the database driver alone achieve. It is a client of the HTTP API
//! and of all transports, of a service that it starts in a temporary directory or of a running
//! one. Each scenario also verifies that every accepted event arrives once and in
//! order.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use gateway_events::command::access::URL_VARIABLE;
use gateway_events::command::interrupt::Interrupt;
use gateway_events::command::output::note;

mod baseline;
mod check;
mod compare;
mod confirmations;
mod figures;
mod gateway_connection;
mod gateways;
mod http_connection;
mod latency;
mod machine;
mod options;
mod payload;
mod progress;
mod publish;
mod registrations;
mod report;
mod scenarios;
mod schedule;
mod temporary_database;
mod testbed;
mod transport;

use options::Common;
use report::{Outcome, Report};
use scenarios::{append, catch_up, deliver, fanout, idle, query, replay, replay_job, storm};
use testbed::Testbed;
use transport::Transport;

/// The same allocator as the service's, so that memory is comparable.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The name in error messages.
const PROGRAM: &str = "gateway-events-bench";

/// Measure this machine with a service of its own, or a running service.
#[derive(Debug, Parser)]
#[command(name = "gateway-events-bench", version, propagate_version = true)]
struct CommandLine {
    /// Print the report as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Measure(Measure),
    /// Compare two reports (--json); fails if one of the second's figures is worse
    #[command(long_flag = "compare")]
    Compare(compare::Args),
    /// Hold TLS connections for the baseline of `idle`, until standard input ends
    #[command(hide = true)]
    Hold,
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// Publish: how many events a second are accepted, each one synced to disk
    Append(append::Args),
    /// Publish and receive: how soon at a fixed rate, or how many a second at most
    Deliver(deliver::Args),
    /// One event for many gateways: how long until the last one has it
    Fanout(fanout::Args),
    /// A backlog: how many events a second reach gateways that were disconnected
    Replay(replay::Args),
    /// A gateway with a long backlog connects: how soon other gateways' events arrive before it and
    /// meanwhile, and how much memory it takes
    CatchUp(catch_up::Args),
    /// A replay of a long log as a job: how soon other events arrive before it and meanwhile
    ReplayJob(replay_job::Args),
    /// Idle connections: memory and processor time of each
    Idle(idle::Args),
    /// All gateways reconnect at once: how long until all have caught up
    Storm(storm::Args),
    /// Query a large database: the first page of each list, and diagnoses
    Query(query::Args),
    /// Only the baselines: what disk, TLS and the database driver achieve by themselves
    Baseline(baseline::Args),
}

fn main() -> ExitCode {
    let CommandLine { json, command } = CommandLine::parse();
    gateway_events::command::block_on(PROGRAM, run(command, json))
}

async fn run(command: Command, as_json: bool) -> anyhow::Result<ExitCode> {
    match command {
        Command::Compare(args) => compare::run(&args, as_json),
        Command::Hold => {
            machine::raise_file_limit();
            baseline::hold().await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Measure(measure) => {
            measure.confirm()?;
            machine::raise_file_limit();
            Box::pin(measure_runs(&measure, as_json)).await
        }
    }
}

/// Measures as often as requested and prints the report.
async fn measure_runs(measure: &Measure, as_json: bool) -> anyhow::Result<ExitCode> {
    let common = measure.common();
    let mut runs = Vec::new();
    let mut database = String::new();
    // Installed before anything is created: a signal then ends the measurement, and
    // the cleanup still runs.
    let mut interrupt = Interrupt::listen()?;
    for _ in 0..common.runs {
        let mut run = Vec::new();
        for transport in measure.transports() {
            let testbed = Testbed::prepare(common).await?;
            testbed.database().clone_into(&mut database);
            let outcome = measure_once(measure, testbed, transport, &mut interrupt).await?;
            run.push((transport, outcome));
        }
        runs.push(Outcome::merged(run));
    }
    let report = Report::of(measure.name(), &database, runs);
    report.print(as_json)?;
    Ok(ExitCode::SUCCESS)
}

/// Measures one transport, and removes everything that was created for it.
async fn measure_once(
    measure: &Measure,
    testbed: Testbed<'_>,
    transport: Transport,
    interrupt: &mut Interrupt,
) -> anyhow::Result<Outcome> {
    let measured = tokio::select! {
        measured = measure.run(&testbed, transport) => {
            measured.with_context(|| format!("over {}", transport.name()))
        }
        () = interrupt.received() => Err(anyhow::anyhow!("interrupted")),
    };
    let removed = tokio::select! {
        removed = testbed.remove() => removed,
        () = interrupt.received() => Err(anyhow::anyhow!("interrupted again")),
    };
    if let Err(error) = removed.context("what was created for the measurement is not removed") {
        // The error of the measurement is worth reporting too.
        measured.inspect_err(|error| note(format_args!("{PROGRAM}: {error:#}"))).ok();
        return Err(error);
    }
    measured
}

impl Measure {
    fn name(&self) -> &'static str {
        match self {
            Self::Append(_) => "append",
            Self::Deliver(_) => "deliver",
            Self::Fanout(_) => "fanout",
            Self::Replay(_) => "replay",
            Self::CatchUp(_) => "catch-up",
            Self::ReplayJob(_) => "replay-job",
            Self::Idle(_) => "idle",
            Self::Storm(_) => "storm",
            Self::Query(_) => "query",
            Self::Baseline(_) => "baseline",
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Append(args) => &args.common,
            Self::Deliver(args) => &args.common,
            Self::Fanout(args) => &args.common,
            Self::Replay(args) => &args.common,
            Self::CatchUp(args) => &args.common,
            Self::ReplayJob(args) => &args.common,
            Self::Idle(args) => &args.common,
            Self::Storm(args) => &args.common,
            Self::Query(args) => &args.common,
            Self::Baseline(args) => &args.common,
        }
    }

    /// The transports to measure, one after the other. Other scenarios connect in plain mode.
    fn transports(&self) -> Vec<Transport> {
        match self {
            Self::Deliver(args) => args.transports.selected(),
            Self::Fanout(args) => args.transports.selected(),
            Self::Replay(args) => args.transports.selected(),
            Self::CatchUp(args) => args.transports.selected(),
            Self::Idle(args) => args.transports.selected(),
            _ => vec![Transport::WebSocket],
        }
    }

    /// Asks before a running service is measured. Only an explicit `--url` selects one:
    /// an address exported for other commands is ignored.
    fn confirm(&self) -> anyhow::Result<()> {
        if matches!(self, Self::Baseline(_)) {
            return Ok(());
        }
        let Some(url) = &self.common().url else {
            if std::env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty()) {
                note(format_args!(
                    "{URL_VARIABLE} is ignored: only --url measures a running service"
                ));
            }
            return Ok(());
        };
        let name = self.name();
        self.common().confirmation.require(
            format_args!(
                "`{PROGRAM} {name}` puts as much load as it can on a running\n\
                 service:\n  {url}\n\
                 It registers gateways of its own and deletes them at the end. The events that it\n\
                 publishes for them stay in the database until retention removes them."
            ),
            "Measure this service?",
        )
    }

    async fn run(&self, testbed: &Testbed<'_>, transport: Transport) -> anyhow::Result<Outcome> {
        match self {
            Self::Append(args) => append::run(args, testbed).await,
            Self::Deliver(args) => deliver::run(args, testbed, transport).await,
            Self::Fanout(args) => fanout::run(args, testbed, transport).await,
            Self::Replay(args) => replay::run(args, testbed, transport).await,
            Self::CatchUp(args) => Box::pin(catch_up::run(args, testbed, transport)).await,
            Self::ReplayJob(args) => replay_job::run(args, testbed).await,
            Self::Idle(args) => idle::run(args, testbed, transport).await,
            Self::Storm(args) => storm::run(args, testbed).await,
            Self::Query(args) => Box::pin(query::run(args, testbed)).await,
            Self::Baseline(args) => baseline::run(args, testbed).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
