//! `bench`: how much this machine can do, as multiples of what its disk, its
//! TLS and the bare database allow. A client of the HTTP API and of wss like
//! everything else here: of a running service, or of one that it starts in a
//! temporary directory. Every scenario also checks what it measures: whatever
//! was accepted arrived, once and in order.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use super::access::{ClientOptions, URL_VARIABLE};
use super::interrupt::Interrupt;
use super::output::remark;

mod check;
mod compare;
mod fleet;
mod floor;
mod ground;
mod latency;
mod machine;
mod options;
mod pace;
mod progress;
mod publish;
mod recorded;
mod registrations;
mod report;
mod scenarios;

use ground::Ground;
use options::Common;
use report::{Outcome, Report};
use scenarios::{append, deliver, fanout, idle, query, replay, storm};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Measure(Measure),
    /// Compare two reports (--json); fails if one of the second's figures is worse
    #[command(long_flag = "compare")]
    Compare(compare::Args),
    /// Hold TLS connections for the floor of `idle`, until standard input ends
    #[command(hide = true)]
    Hold,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Measure {
    /// Publish: how many events a second are accepted, each one synced to disk
    Append(append::Args),
    /// Publish and receive: how soon at a fixed rate, or how many a second at most
    Deliver(deliver::Args),
    /// One event for many gateways: how long until the last one has it
    Fanout(fanout::Args),
    /// A backlog: how many events a second reach gateways that were away
    Replay(replay::Args),
    /// Connections on which nothing happens: memory and processor time of each
    Idle(idle::Args),
    /// All gateways come back at once: how long until all have caught up
    Storm(storm::Args),
    /// Failed deliveries of a time window, asked of a large ledger
    Query(query::Args),
    /// What disk, TLS and the bare database allow here: what the others are compared with
    Floor(floor::Args),
}

pub(crate) async fn run(command: Command, client: &ClientOptions) -> anyhow::Result<ExitCode> {
    let command = match command {
        Command::Compare(args) => return compare::run(&args, client.json),
        Command::Hold => {
            machine::allow_many_files();
            floor::hold().await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Measure(command) => command,
    };
    command.confirm(client)?;
    machine::allow_many_files();
    let common = command.common();
    let mut runs = Vec::new();
    let mut database = String::new();
    // Before anything is made: from here on a signal only ends the measurement.
    let mut interrupt = Interrupt::listen()?;
    for _ in 0..common.runs {
        let ground = Ground::prepare(common, client).await?;
        ground.database().clone_into(&mut database);
        let measured = tokio::select! {
            measured = command.measure(&ground) => measured,
            () = interrupt.received() => Err(anyhow::anyhow!("interrupted")),
        };
        // Whatever happened, nothing is left behind.
        let left = tokio::select! {
            left = ground.clear() => left,
            () = interrupt.received() => Err(anyhow::anyhow!("interrupted again")),
        };
        if let Err(error) = left.context("what was made for the measurement could not be removed") {
            // Both are worth knowing.
            measured.inspect_err(|error| remark(format_args!("gateway-events: {error:#}"))).ok();
            return Err(error);
        }
        runs.push(measured?);
    }
    let report = Report::of(command.name(), &database, runs);
    report.print(client.json)?;
    Ok(ExitCode::SUCCESS)
}

impl Measure {
    fn name(&self) -> &'static str {
        match self {
            Self::Append(_) => "append",
            Self::Deliver(_) => "deliver",
            Self::Fanout(_) => "fanout",
            Self::Replay(_) => "replay",
            Self::Idle(_) => "idle",
            Self::Storm(_) => "storm",
            Self::Query(_) => "query",
            Self::Floor(_) => "floor",
        }
    }

    fn common(&self) -> &Common {
        match self {
            Self::Append(args) => &args.common,
            Self::Deliver(args) => &args.common,
            Self::Fanout(args) => &args.common,
            Self::Replay(args) => &args.common,
            Self::Idle(args) => &args.common,
            Self::Storm(args) => &args.common,
            Self::Query(args) => &args.common,
            Self::Floor(args) => &args.common,
        }
    }

    /// Only an explicit `--url` puts load on a running service, and only after
    /// confirmation: an address that is exported for other commands does not.
    fn confirm(&self, client: &ClientOptions) -> anyhow::Result<()> {
        if matches!(self, Self::Floor(_)) {
            return Ok(());
        }
        let Some(url) = &client.url else {
            if std::env::var_os(URL_VARIABLE).is_some_and(|url| !url.is_empty()) {
                remark(format_args!(
                    "{URL_VARIABLE} is ignored: only --url measures a running service"
                ));
            }
            return Ok(());
        };
        let name = self.name();
        self.common().confirmation.require(
            format_args!(
                "`bench {name}` puts as much load as it can on a running\n\
                 service:\n  {url}\n\
                 It registers gateways of its own and deletes them at the end. The events that it\n\
                 publishes for them stay in the database until retention removes them."
            ),
            "Measure this service?",
        )
    }

    async fn measure(&self, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
        match self {
            Self::Append(args) => append::run(args, ground).await,
            Self::Deliver(args) => deliver::run(args, ground).await,
            Self::Fanout(args) => fanout::run(args, ground).await,
            Self::Replay(args) => replay::run(args, ground).await,
            Self::Idle(args) => idle::run(args, ground).await,
            Self::Storm(args) => storm::run(args, ground).await,
            Self::Query(args) => query::run(args, ground).await,
            Self::Floor(args) => floor::run(args, ground).await,
        }
    }
}
