//! The table of commands.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod cli;

/// jemalloc is faster than glibc's allocator and, unlike it, returns memory to the system after
/// many connections were closed.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use cli::{
    access::ClientOptions, agent, alert, alias, audit, backup, complete, config, context, delivery,
    demo, doctor, epoch, event, event_type, formats::Format, gateway, health, inbox, job, listen,
    man, migrate, node, openapi, restore, rollout, serve, stats, tail, token, verify, watch, why,
};

/// A persistent event log with durable delivery tracking for API gateways.
#[derive(Debug, Parser)]
#[command(name = "gateway-events", version, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// The commands of one kind of object, all of which are clients of the service.
#[derive(Debug, Args)]
struct Client<C: Subcommand> {
    #[command(subcommand)]
    command: C,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until it is stopped by a signal
    Serve(serve::Args),
    /// Apply pending migrations, or check for them
    ///
    /// On SQLite, fails while a service has the file open. On Postgres, nodes may be running. Older
    /// nodes continue unless the new schema is incompatible with them; once stopped, they can't be
    /// started again.
    Migrate(migrate::Args),
    /// Check a database's consistency: gapless logs, a consistent ledger, an unbroken audit log
    Verify(verify::Args),
    /// Copy the SQLite database to a new file while the service runs
    ///
    /// The copy is complete and consistent. The partial copy is removed if the disk is full. A Postgres
    /// database is backed up with its own tools.
    Backup(backup::Args),
    /// Replace the SQLite database with a backup, and start a new epoch
    ///
    /// The service must be stopped. The backup is checked first. The new epoch tells
    /// gateways that the sequences after those of the backup are used again.
    Restore(restore::Args),
    /// Start a new epoch after a database was restored by other means
    #[command(subcommand)]
    Epoch(epoch::Command),
    /// Check or show the settings in effect
    #[command(subcommand)]
    Config(config::Command),
    /// Register, list, update, disable and delete gateways, and show their logs and connections
    Gateway(Client<gateway::Command>),
    /// Create, list and revoke keys of gateways and access tokens, and recover access
    #[command(subcommand)]
    Token(token::Command),
    /// Publish, list and show events
    Event(Client<event::Command>),
    /// Show which gateways have received or applied events, and wait for them
    Rollout(rollout::Rollout),
    /// Explain why a gateway or an event has missing deliveries, and what to do next
    Why(why::Why),
    /// List, show, put and delete event types
    EventType(Client<event_type::Command>),
    /// List deliveries by state or failure, count failures over time, and redrive failed deliveries
    Delivery(Client<delivery::Command>),
    /// List, show and abort redrives and replays of many deliveries
    Job(Client<job::Command>),
    /// List, retry and delete rows that other programs inserted and that could not be published
    Inbox(Client<inbox::Command>),
    /// List alerts; manage their rules and destinations
    Alert(Client<alert::Command>),
    /// List who changed what, when and from where
    Audit(Client<audit::Command>),
    /// List nodes
    Node(Client<node::Command>),
    /// Show totals of connections, nodes and deliveries
    Stats(stats::Args),
    /// Manage contexts: named services with their address, CA file and token file
    #[command(subcommand)]
    Context(context::Command),
    /// Check the connection to the service step by step; exits with 1 if a check fails
    Doctor(doctor::Args),
    /// Check whether the service on this machine is ready, for container health checks
    Health(health::Args),
    /// Follow what happens on all nodes: events, delivery attempts, connections
    Tail(tail::Args),
    /// Show a gateway's events as they arrive: watch its log, or connect in its place
    Listen(listen::Args),
    /// Run a gateway without writing code: run a program for each event, or post it to an address
    ///
    /// Connects in reliable mode with the gateway's key, hands over one event at a time, in order, and
    /// confirms it when the product has applied it: exit status 0, or a response with status 2xx. Exit
    /// status 75, or a response with 429 or 503, requests a retry. Anything else rejects the event.
    Agent(agent::Args),
    /// Demonstrate delivery with a service, three gateways and a crash, in a temporary directory
    Demo(demo::Args),
    /// Print the OpenAPI document of the HTTP API
    Openapi,
    /// Print the AsyncAPI document of the streams of gateways and of the feed
    Asyncapi,
    /// Print the main manual page, or write the pages of all commands to a directory
    ///
    /// To read the page: gateway-events man | man -l -
    Man(man::Args),
    /// Print a completion script for a shell
    ///
    /// It completes commands, options and fixed values. In bash, zsh and fish it also completes what the
    /// service knows: the names of gateways, event types, contexts, labels and reasons, and the ids of
    /// jobs. It asks the service that the options, the environment or the context name.
    Completions {
        /// The shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print candidates for a word; completion scripts call it
    #[command(hide = true)]
    CompleteWord(complete::Args),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let matches = command_line().try_get_matches_from(&arguments);
    let matches = matches.unwrap_or_else(|error| alias::as_typed(error, &arguments).exit());
    let of_command = innermost(&matches);
    let format = of_command.try_get_one::<Format>("output").ok().flatten();
    format.copied().unwrap_or(Format::Table).choose();
    let parsed = || CommandLine::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let command = async {
        match watch::of(of_command) {
            Some(every) => watch::repeat(every, async || run(parsed()).await).await,
            None => run(parsed()).await,
        }
    };
    gateway_events::command::block_on("gateway-events", command)
}

/// The command line, with the options that several commands share.
fn command_line() -> clap::Command {
    watch::with_option(CommandLine::command())
}

/// The arguments of the command itself.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, of_command)| innermost(of_command))
}

async fn run(CommandLine { command }: CommandLine) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Backup(args) => backup::run(args).await,
        Command::Restore(args) => restore::run(args).await,
        Command::Epoch(command) => epoch::run(command).await,
        Command::Config(command) => config::run(command),
        Command::Gateway(Client { command, client }) => gateway::run(command, &client).await,
        Command::Token(command) => token::run(command).await,
        Command::Event(Client { command, client }) => event::run(command, &client).await,
        Command::Rollout(rollout) => rollout::run(rollout).await,
        Command::Why(why) => why::run(why).await,
        Command::EventType(Client { command, client }) => event_type::run(command, &client).await,
        Command::Delivery(Client { command, client }) => delivery::run(command, &client).await,
        Command::Job(Client { command, client }) => job::run(command, &client).await,
        Command::Inbox(Client { command, client }) => inbox::run(command, &client).await,
        Command::Alert(Client { command, client }) => alert::run(command, &client).await,
        Command::Audit(Client { command, client }) => audit::run(command, &client).await,
        Command::Node(Client { command, client }) => node::run(command, &client).await,
        Command::Stats(args) => stats::run(args).await,
        Command::Context(command) => context::run(command),
        Command::Doctor(args) => doctor::run(args).await,
        Command::Health(args) => health::run(args).await,
        Command::Tail(args) => tail::run(args).await,
        Command::Listen(args) => listen::run(args).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Openapi => openapi::run(),
        Command::Asyncapi => openapi::run_asyncapi(),
        Command::Man(args) => man::run(args, command_line()),
        Command::Completions { shell } => completions(shell),
        Command::CompleteWord(args) => complete::run(args, command_line()).await,
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    let mut command = command_line();
    clap_complete::generate(shell, &mut command, "gateway-events", &mut script);
    let script = String::from_utf8_lossy(&script);
    cli::output::say(format_args!("{script}{}", complete::script(shell).trim_end()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_commands_is_consistent() {
        command_line().debug_assert();
    }
}
