//! `agent`: hands a gateway's events to a program or to a local address.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use gateway_events::agent::exec::Program;
use gateway_events::agent::forward::{self, Forwarder};
use gateway_events::agent::{Agent, OnGap, RetryingPosition, Target, metrics};
use gateway_events::client::api::Api;
use gateway_events::client::reliable::{
    Client, ClientError, Confirm, Envelope, FilePosition, Options, parse_instance,
};
use gateway_events::client::{CancellationToken, Endpoint, Url};
use gateway_events::event::{EventType, NodeId};
use gateway_events::lifecycle::{Outcome, Signals};
use gateway_events::telemetry::{self, Log, LogFormat, Otlp};
use gateway_events::token::Kind;

use super::access::{ClientOptions, secret};
use super::listen::gateway::{KEY_VARIABLE, refused};
use super::output::described;
use super::time::parse_duration;
use super::transport::TransportKind;

/// The exit code if events can't be delivered, by `--on-gap exit`.
const EXIT_GAP: u8 = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    product: Product,
    #[command(flatten)]
    gateway: Gateway,
    #[command(flatten)]
    observed: Observed,
    #[command(flatten)]
    client: ClientOptions,
}

/// Where events go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Product")]
struct Product {
    /// Run this program for each event, with the event as JSON on standard input. Everything after it
    /// is an argument of the program, so this option comes last
    #[arg(
        long,
        value_name = "PROGRAM",
        num_args = 1..,
        allow_hyphen_values = true,
        required_unless_present = "forward_to",
        conflicts_with_all = ["forward_to", "allow_remote", "source"]
    )]
    exec: Vec<OsString>,
    /// Post each event to this URL, as a CloudEvent in binary mode
    #[arg(long, value_name = "URL")]
    forward_to: Option<Url>,
    /// Allow --forward-to with an address that is not a loopback one: events leave this machine
    #[arg(long, requires = "forward_to")]
    allow_remote: bool,
    /// The CloudEvents attribute `source` of events that were published without it; by default the
    /// service's address
    #[arg(long, value_name = "URI", value_parser = forward::source, requires = "forward_to")]
    source: Option<String>,
    /// How long the product may take for an event; after that a program is terminated, and the event is
    /// retried
    #[arg(long, value_name = "DURATION", value_parser = positive, default_value = "30s")]
    timeout: Duration,
    /// How long a program may take to exit after SIGTERM, before it gets SIGKILL
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    grace: Duration,
    /// The first pause before a retry; it doubles up to a minute
    #[arg(long, value_name = "DURATION", value_parser = positive, default_value = "1s")]
    retry_delay: Duration,
    /// What to do if events can't be delivered, for example because retention has removed them
    #[arg(long, value_enum, value_name = "ACTION", default_value_t)]
    on_gap: Gap,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Gap {
    /// Log an error and exit with code 4, without confirming anything
    #[default]
    Exit,
    /// Hand the gap to the product, like an event of the type delivery.gap, until it succeeds
    Handle,
    /// Confirm it: the product has been brought up to date by other means
    Accept,
}

/// Which gateway this is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Gateway")]
struct Gateway {
    /// File with the gateway's key, `-` for standard input; otherwise GATEWAY_EVENTS_KEY is used
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token_file", "json", "output"])]
    key_file: Option<PathBuf>,
    /// File that stores the position from which to resume; each agent needs one of its own
    #[arg(long, value_name = "FILE")]
    position: PathBuf,
    /// The name of this replica of the gateway; the service stores a position for it
    #[arg(long, value_name = "NAME", value_parser = parse_instance)]
    instance: Option<String>,
    /// Receive only events of this type; may be repeated, and is not available over long polling
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<EventType>,
    /// How to connect
    #[arg(long, value_name = "TRANSPORT", value_enum, default_value_t)]
    transport: TransportKind,
}

/// What the agent reports about itself.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Logs and metrics")]
struct Observed {
    /// The format of log lines: auto (text on a terminal, otherwise JSON), text or json
    #[arg(long, value_name = "FORMAT", value_parser = log_format, default_value = "auto")]
    log_format: LogFormat,
    /// Which lines are logged, in the syntax of RUST_LOG; `debug` includes the output of programs
    #[arg(long, value_name = "FILTER", value_parser = log_filter, default_value = "info")]
    log_filter: String,
    /// Serve metrics for Prometheus at http://ADDRESS/metrics, without authentication
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

fn positive(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration.is_zero() { Err("must be more than zero".to_owned()) } else { Ok(duration) }
}

fn log_format(text: &str) -> Result<LogFormat, &'static str> {
    LogFormat::try_from(text.to_owned())
}

fn log_filter(text: &str) -> Result<String, &'static str> {
    let is_valid = telemetry::filter_is_valid(text);
    is_valid.then(|| text.to_owned()).ok_or("must be a filter such as info or gateway_events=debug")
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let observed = &args.observed;
    let log = Log { format: observed.log_format, filter: observed.log_filter.clone() };
    let no_spans = Otlp { endpoint: String::new(), sampling_ratio: 0.0 };
    let _telemetry = telemetry::start(&log, &no_spans, NodeId::new())?;
    match hand_over(args).await {
        // In the format of the log, unless its filter excludes even errors.
        Err(error) if tracing::enabled!(tracing::Level::ERROR) => {
            tracing::error!(error = %described(&error), "the agent has ended");
            Ok(ExitCode::FAILURE)
        }
        ended => ended,
    }
}

/// Hands events over until a signal, a gap or an error.
async fn hand_over(args: Args) -> anyhow::Result<ExitCode> {
    let Args { product, gateway, observed, client: service } = args;
    let key =
        secret(Kind::Gateway, gateway.key_file.as_deref(), KEY_VARIABLE)?.with_context(|| {
            format!("a gateway's key is required: set {KEY_VARIABLE}, or pass a file by --key-file")
        })?;
    let trust = service.trust()?;
    let base = Api::new(&service.address()?, None, &trust)?.base().clone();
    let address = base.origin().ascii_serialization();
    let (on_gap, retry_delay) = (product.on_gap.into(), product.retry_delay);
    let position = FilePosition::new(&gateway.position);
    let target = product.target(&base, &position.file()?)?;

    let _metrics = match observed.metrics_listen {
        Some(address) => Some(serve_metrics(address).await?),
        None => None,
    };
    let signals = Signals::of_process()?;
    let stop = signals.graceful.child_token();

    let endpoint = Endpoint { base, tls: trust.client_config()?, source: None };
    let transport = gateway.transport.transport(endpoint, key)?;
    tokio::select! {
        () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
        locked = lock(&position) => locked?,
    }
    if let Target::Exec(program) = &target {
        tokio::select! {
            () = stop.cancelled() => return Ok(ExitCode::SUCCESS),
            () = program.wait_for_previous() => {}
        }
    }
    let gap = CancellationToken::new();
    let agent = Agent::new(address.clone(), target, on_gap, retry_delay, stop.clone(), gap.clone());
    let position = RetryingPosition::new(position, stop.clone());
    let client = Client::new(transport, position, agent, gateway.options());
    let ended = tokio::select! {
        ended = client.run(stop) => ended,
        // Dropping the client kills the program.
        () = signals.immediate.cancelled() => return Ok(Outcome::Interrupted.into()),
    };
    match ended {
        Ok(()) if gap.is_cancelled() => Ok(ExitCode::from(EXIT_GAP)),
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(ClientError::Refused(status)) => Err(refused(&address, status)),
        Err(error) => Err(error.into()),
    }
}

/// Locks the position file, before anything else that only one agent may do.
async fn lock(position: &FilePosition) -> anyhow::Result<()> {
    use gateway_events::client::reliable::PositionStore as _;
    position.load().await?;
    Ok(())
}

impl From<Gap> for OnGap {
    fn from(gap: Gap) -> Self {
        match gap {
            Gap::Exit => Self::Exit,
            Gap::Handle => Self::Handle,
            Gap::Accept => Self::Accept,
        }
    }
}

impl Gateway {
    /// Each event is stored and confirmed by itself, so that a crash repeats as few as possible.
    fn options(self) -> Options {
        Options {
            instance: self.instance,
            types: (!self.types.is_empty()).then_some(self.types),
            confirm: Confirm::Applied,
            envelope: Some(Envelope::CloudEvents),
            batch: 1,
            ..Options::default()
        }
    }
}

impl Product {
    fn target(self, service: &Url, position: &Path) -> anyhow::Result<Target> {
        if let Some(url) = self.forward_to {
            let source = self.source.unwrap_or_else(|| service.to_string());
            let forwarder = Forwarder::new(url, self.allow_remote, source, self.timeout)?;
            return Ok(Target::Forward(Box::new(forwarder)));
        }
        let mut command = self.exec.into_iter();
        let program = command.next().context("--exec needs a program")?;
        let mut lock = position.as_os_str().to_owned();
        lock.push(".program");
        let arguments = command.collect();
        let program =
            Program::new(Path::new(&program), arguments, self.timeout, self.grace, lock.into())?;
        Ok(Target::Exec(program))
    }
}

/// Collects metrics and serves them, until the result is dropped.
async fn serve_metrics(address: SocketAddr) -> anyhow::Result<tokio::task::JoinSet<()>> {
    let recorder = telemetry::start_metrics(metrics::CATALOGUE)?;
    metrics::create();
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address} for metrics"))?;
    tracing::info!(address = %listener.local_addr()?, "serving metrics at /metrics");
    let render = recorder.clone();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(metrics::serve(listener, move || render.render(), move || recorder.run_upkeep()));
    Ok(serving)
}
