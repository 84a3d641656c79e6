//! The one place that wires: it opens the rooms in order, and closes them in
//! the opposite one.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::event::NodeId;
use crate::http::listener::Listener;
use crate::http::tls::{self, Certificates, TlsError};
use crate::http::{self, App};
use crate::intake::{self, Rules};
use crate::jobs::{Call, Job, Next, Supervisor};
use crate::lifecycle::{Outcome, Signals};
use crate::retention;
use crate::store::{AboutNode, NewToken, Open, OpenError, Options, StoreError};
use crate::telemetry;
use crate::token::{self, Kind};
use crate::wake::Wake;

mod alive;
mod check;
mod first_token;

use alive::Alive;
pub use check::check;

const UPKEEP: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_mins(1);
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(30);
/// How long the end may take when the store has failed: what its disk has kept
/// is known only after a restart, and the sooner that happens the better.
const FAILED_END: Duration = Duration::from_secs(1);

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory can't be made or kept to ourselves.
    #[error("the data directory {path} can't be used: {error}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The database can't be opened.
    #[error("the database can't be opened")]
    Open(#[from] OpenError),
    /// The database was opened, but refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address can't be listened on.
    #[error("{address} can't be listened on: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// No logs or metrics.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// No key could be made.
    #[error(transparent)]
    Token(#[from] token::NoEntropy),
    /// The first access token can't be taken from its file, or written to it.
    #[error("the admin access token's file {path} can't be used: {why}")]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Standard output is gone.
    #[error("nothing can be said on standard output: {0}")]
    Output(io::Error),
}

/// Runs the service until a signal ends it. What the operator must see (the
/// first token or its file, the address) goes to `out`; the token itself only if
/// `print_token`.
pub async fn serve(
    config: Config,
    node: NodeId,
    print_token: bool,
    signals: Signals,
    out: &mut (dyn Write + Send),
) -> Result<Outcome, ServeError> {
    let config = Arc::new(config);
    prepare(&config.data_dir)?;
    let metrics = telemetry::start_metrics()?;

    let wake = Wake::default();
    let database = database(&config);
    let Open { store, failure, jobs: store_jobs } = database.open(node, wake.clone()).await?;
    tracing::info!(node = %store.node(), shared = database.is_shared(), "the database is open");
    alive::begin(store.as_ref(), database.is_shared()).await?;
    first_token::ensure(store.as_ref(), &config, print_token, out).await?;

    let certificates = certificates(&config)?.map(Arc::new);
    let tls = certificates.as_deref().map(Certificates::server_config).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listen_error = |error| ServeError::Listen { address: config.server.listen, error };
    let unacknowledged = config.delivery.unacknowledged();
    let listener = Listener::bind(&config.server, tls, unacknowledged).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;

    store.introduce_node(about(&config, address)).await?;

    let jobs = Supervisor::default();
    let dispatcher =
        Dispatcher::new(Arc::clone(&store), wake.clone(), config.delivery.clone(), &jobs);
    let event_bytes = usize::try_from(config.limits.event_bytes.as_u64()).unwrap_or(usize::MAX);
    let rules = Rules::new(event_bytes);
    let render = metrics.clone();
    let app = App::new(
        Arc::clone(&store),
        Arc::clone(&dispatcher),
        Arc::clone(&config),
        Arc::clone(&rules),
        Box::new(move || render.render()),
        vec![jobs.clone(), store_jobs],
    );

    let stop_accepting = CancellationToken::new();
    let wind_down = CancellationToken::new();
    let connections = TaskTracker::new();
    let accepting = connections.spawn(listener.run(
        http::router(Arc::clone(&app)),
        stop_accepting.clone(),
        wind_down.clone(),
        connections.clone(),
    ));
    dispatcher.start_sweep(&jobs);
    if database.is_shared() {
        dispatcher.start_revocation(&jobs);
    }
    intake::inbox::start(&store, rules, &jobs);
    let retention = &config.retention;
    retention::start(Arc::clone(&store), wake, retention.limits(), retention.interval, &jobs);
    jobs.start("tidy_up", MINUTE, Call(move || app.tidy_up()));
    jobs.start("metrics_upkeep", UPKEEP, Call(move || metrics.run_upkeep()));
    if let Some(certificates) = certificates {
        let watch = WatchCertificates { certificates, signals: signals.clone(), is_told: false };
        jobs.start("certificates", LOOK_AT_CERTIFICATES, watch);
    }
    let failed = CancellationToken::new();
    let (store_again, dispatcher_again) = (Arc::clone(&store), Arc::clone(&dispatcher));
    let alive = Alive::new(store_again, dispatcher_again, database.is_shared(), failed.clone());
    jobs.start("heartbeat", alive::HEARTBEAT, alive);

    writeln!(out, "listening on {scheme}://{address}")
        .and_then(|()| out.flush())
        .map_err(ServeError::Output)?;
    tracing::info!(%address, scheme, "listening");

    let mut outcome = tokio::select! {
        () = signals.graceful.cancelled() => Outcome::Graceful,
        () = failed.cancelled() => Outcome::StoreFailed,
        () = failure => Outcome::StoreFailed,
        // It goes on until it is told to stop.
        _ = accepting => Outcome::ListenerFailed,
    };
    tracing::info!(?outcome, "shutting down");
    // The listener stays open while the sockets drain, so that readiness can
    // say no and gateways get a 503 instead of a refused connection.
    let has_failed = outcome == Outcome::StoreFailed;
    let wind = async {
        dispatcher.drain(if has_failed { Duration::ZERO } else { config.shutdown.drain }).await;
        stop_accepting.cancel();
        wind_down.cancel();
        connections.close();
        if tokio::time::timeout(config.shutdown.grace, connections.wait()).await.is_err() {
            tracing::warn!("some requests were still under way and are cut off");
        }
        jobs.stop().await;
        // A transaction that does not end must not keep the process: whatever
        // was answered is on disk, and the rest is undone at the next start.
        if tokio::time::timeout(config.shutdown.grace, store.close()).await.is_err() {
            tracing::warn!("the database did not close in time and is left as it is");
        }
    };
    let abandoned = async {
        if has_failed {
            tokio::time::sleep(FAILED_END).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = wind => {}
        () = abandoned => tracing::warn!("the store has failed; what is still under way is cut off"),
        () = signals.immediate.cancelled() => outcome = Outcome::Interrupted,
    }
    tracing::info!(?outcome, "done");
    Ok(outcome)
}

/// What this node says of itself.
fn about(config: &Config, address: SocketAddr) -> AboutNode {
    AboutNode {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: tls::hostname(),
        address: address.to_string(),
        max_connections: i64::try_from(config.delivery.max_connections).unwrap_or(i64::MAX),
    }
}

/// Makes the data directory, for its owner only. One that is there belongs to
/// somebody and is left as it is; the files in it are private in any case.
fn prepare(data_dir: &Path) -> Result<(), ServeError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(data_dir)
        .map_err(|error| ServeError::DataDir { path: data_dir.to_owned(), error })
}

fn certificates(config: &Config) -> Result<Option<Certificates>, TlsError> {
    let server = &config.server;
    if server.plaintext {
        tracing::warn!("TLS IS OFF: keys and events travel in the clear on this machine");
        return Ok(None);
    }
    let (certificate, private_key) = match (&server.certificate, &server.private_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ => tls::self_signed(&config.data_dir)?,
    };
    Certificates::open(certificate, private_key).map(Some)
}

/// Makes up an access token that no database knows yet, to be supplied in
/// `admin_token_file`.
pub fn generate_token() -> Result<SecretString, ServeError> {
    Ok(token::issue(Kind::Access)?.key)
}

/// Makes an admin access token straight in the database, for an operator who
/// has none (any more). The service may be running.
pub async fn recover_access(config: &Config, name: &str) -> Result<SecretString, ServeError> {
    let issued = token::issue(Kind::Access)?;
    let new = NewToken { id: issued.id, digest: issued.digest, expires_at: None };
    database(config).add_admin_token(name, new).await?;
    Ok(issued.key)
}

fn database(config: &Config) -> Options {
    let path = config.data_dir.join("gateway-events.db");
    Options { path, ..config.database.clone() }
}

struct WatchCertificates {
    certificates: Arc<Certificates>,
    signals: Signals,
    /// SIGHUP: they are read whether or not the files look the same.
    is_told: bool,
}

impl Job for WatchCertificates {
    type Error = std::convert::Infallible;

    async fn wait(&mut self) {
        self.signals.reload.notified().await;
        self.is_told = true;
    }

    async fn run_once(&mut self) -> Result<Next, Self::Error> {
        if std::mem::take(&mut self.is_told) {
            self.certificates.reload();
        } else {
            self.certificates.reload_if_changed();
        }
        Ok(Next::Wait)
    }
}
