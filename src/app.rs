//! The one place that wires: it opens the rooms in order, and closes them in
//! the opposite one.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::event::NodeId;
use crate::http::listener::Listener;
use crate::http::tls::{self, Certificates, TlsError};
use crate::http::{self, App};
use crate::intake::{self, Rules};
use crate::lifecycle::{Outcome, Signals};
use crate::retention;
use crate::store::{AboutNode, NewToken, Open, OpenError, Options, Scope, Store, StoreError};
use crate::telemetry;
use crate::token::{self, Kind};
use crate::wake::Wake;

mod alive;
mod check;

use alive::Alive;
pub use check::check;

const UPKEEP: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_mins(1);
const LOOK_AT_CERTIFICATES: Duration = Duration::from_secs(30);

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
    /// Standard output is gone.
    #[error("nothing can be said on standard output: {0}")]
    Output(io::Error),
}

/// Runs the service until a signal ends it. What the operator must see (the
/// first token, the address) goes to `out`.
pub async fn serve(
    config: Config,
    signals: Signals,
    out: &mut (dyn Write + Send),
) -> Result<Outcome, ServeError> {
    let config = Arc::new(config);
    prepare(&config.data_dir)?;
    let metrics = telemetry::start_metrics()?;

    let wake = Wake::default();
    let database = database(&config);
    let Open { store, failure } = database.open(NodeId::new(), wake.clone()).await?;
    tracing::info!(node = %store.node(), shared = database.is_shared(), "the database is open");
    alive::begin(store.as_ref(), database.is_shared()).await?;
    first_token(store.as_ref(), out).await?;

    let certificates = certificates(&config)?.map(Arc::new);
    let tls = certificates.as_deref().map(Certificates::server_config).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listen_error = |error| ServeError::Listen { address: config.server.listen, error };
    let unacknowledged = config.delivery.unacknowledged();
    let listener =
        Listener::bind(&config.server, tls, unacknowledged).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;

    store.introduce_node(about(&config, address)).await?;

    let dispatcher = Dispatcher::new(Arc::clone(&store), wake.clone(), config.delivery.clone());
    let event_bytes = usize::try_from(config.limits.event_bytes.as_u64()).unwrap_or(usize::MAX);
    let rules = Rules::new(event_bytes);
    let render = metrics.clone();
    let app = App::new(
        Arc::clone(&store),
        Arc::clone(&dispatcher),
        Arc::clone(&config),
        Arc::clone(&rules),
        Box::new(move || render.render()),
    );

    let stop_accepting = CancellationToken::new();
    let wind_down = CancellationToken::new();
    let stop_jobs = CancellationToken::new();
    let connections = TaskTracker::new();
    let jobs = TaskTracker::new();
    connections.spawn(listener.run(
        http::router(Arc::clone(&app)),
        stop_accepting.clone(),
        wind_down.clone(),
        connections.clone(),
    ));
    let sweeping = Arc::clone(&dispatcher);
    let stop = stop_jobs.clone();
    jobs.spawn(async move { sweeping.run_sweep(stop).await });
    if database.is_shared() {
        let (shutting_out, stop) = (Arc::clone(&dispatcher), stop_jobs.clone());
        jobs.spawn(async move { shutting_out.run_shut_out(stop).await });
    }
    jobs.spawn(intake::inbox::run(Arc::clone(&store), rules, stop_jobs.clone()));
    jobs.spawn(retention::run(
        Arc::clone(&store),
        wake,
        config.retention.limits(),
        config.retention.interval,
        stop_jobs.clone(),
    ));
    jobs.spawn(every(MINUTE, stop_jobs.clone(), move || {
        app.tidy_up();
    }));
    jobs.spawn(every(UPKEEP, stop_jobs.clone(), move || {
        metrics.run_upkeep();
    }));
    if let Some(certificates) = certificates {
        jobs.spawn(watch_certificates(certificates, signals.clone(), stop_jobs.clone()));
    }
    let failed = CancellationToken::new();
    let alive = Alive::new(Arc::clone(&store), Arc::clone(&dispatcher), database.is_shared());
    jobs.spawn(alive.run(failed.clone(), stop_jobs.clone()));

    writeln!(out, "listening on {scheme}://{address}")
        .and_then(|()| out.flush())
        .map_err(ServeError::Output)?;
    tracing::info!(%address, scheme, "listening");

    let mut outcome = tokio::select! {
        () = signals.graceful.cancelled() => Outcome::Graceful,
        () = failed.cancelled() => Outcome::StoreFailed,
        () = failure => Outcome::StoreFailed,
    };
    tracing::info!(?outcome, "shutting down");
    // The listener stays open while the sockets drain, so that readiness can
    // say no and gateways get a 503 instead of a refused connection.
    let wind = async {
        dispatcher.drain(config.shutdown.drain).await;
        stop_accepting.cancel();
        wind_down.cancel();
        connections.close();
        if tokio::time::timeout(config.shutdown.grace, connections.wait()).await.is_err() {
            tracing::warn!("some requests were still under way and are cut off");
        }
        stop_jobs.cancel();
        jobs.close();
        jobs.wait().await;
        // A transaction that does not end must not keep the process: whatever
        // was answered is on disk, and the rest is undone at the next start.
        if tokio::time::timeout(config.shutdown.grace, store.close()).await.is_err() {
            tracing::warn!("the database did not close in time and is left as it is");
        }
    };
    tokio::select! {
        () = wind => {}
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

/// At the very first start: a token with which everything else can be made. It
/// is shown before it is stored: if this process dies in between, the next
/// start shows another one, while a stored one that nobody saw would lock
/// everybody out.
async fn first_token(store: &dyn Store, out: &mut (dyn Write + Send)) -> Result<(), ServeError> {
    if store.has_access_tokens().await? {
        return Ok(());
    }
    let organisation = store.organisation("default").await?;
    let issued = token::issue(Kind::Access)?;
    writeln!(out, "admin access token: {} (it is shown only now)", issued.key.expose_secret())
        .and_then(|()| out.flush())
        .map_err(ServeError::Output)?;
    let scopes = [Scope::Publish, Scope::Read, Scope::Admin];
    let new = NewToken { id: issued.id.clone(), digest: issued.digest, expires_at: None };
    store.create_access_token(organisation, "first", &scopes, new).await?;
    Ok(())
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

async fn every(period: Duration, stop: CancellationToken, job: impl Fn() + Send) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => job(),
        }
    }
}

async fn watch_certificates(
    certificates: Arc<Certificates>,
    signals: Signals,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = signals.reload.notified() => certificates.reload(),
            () = tokio::time::sleep(LOOK_AT_CERTIFICATES) => certificates.reload_if_changed(),
        }
    }
}
