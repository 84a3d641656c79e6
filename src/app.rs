//! Assembles the service: opens its parts in order and closes them in reverse.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alerts::{Alerting, AlertsError, Measure};
use crate::bulk;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::event::NodeId;
use crate::feed::Feed;
use crate::files;
use crate::http::listener::{Listener, PeerTimeouts};
use crate::http::tls::{self, Certificates, TlsError};
use crate::http::{self, AppState, Components};
use crate::ingest::{self, Rules};
use crate::jobs::{Call, Job, Next, Supervisor};
use crate::lifecycle::{Outcome, Signals};
use crate::retention;
use crate::store::{
    AboutNode, Alerts, NewToken, NodeHealth, Open, OpenError, Options, Restore, Restored, Store,
    StoreError,
};
use crate::telemetry;
use crate::token::{self, Kind};
use crate::wake::Wake;

mod check;
mod event_counts;
mod first_token;
mod high_water;
mod local;
mod membership;
mod metrics;

use event_counts::CountEvents;
use high_water::{HighWaterError, HighWaterFile, WatchHighWater};
use membership::Membership;
use metrics::Lag;

pub use check::check;
pub use high_water::{MissingDatabase, RolledBack, refuse_missing_database};

const METRICS_UPKEEP: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_mins(1);
const CERTIFICATE_CHECK: Duration = Duration::from_secs(30);
/// The time limit of a shutdown after the store has failed. Only a restart shows what its
/// disk has kept, so it should happen soon.
const FAILED_SHUTDOWN: Duration = Duration::from_secs(1);

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory can't be created or made private.
    #[error("the data directory {path} can't be used: {error}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The database can't be opened.
    #[error("failed to open the database")]
    Open(#[from] OpenError),
    /// The database was opened, but an operation failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database lacks sequences that were handed out before.
    #[error(transparent)]
    RolledBack(#[from] RolledBack),
    /// The SQLite database is missing, and the data directory had one.
    #[error(transparent)]
    MissingDatabase(#[from] MissingDatabase),
    /// The certificate or its key can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address can't be bound.
    #[error("failed to listen on {address} (server.listen): {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        error: io::Error,
    },
    /// Logging or metrics can't be started.
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    /// Alerts can't be evaluated, or notifications about them can't be sent.
    #[error(transparent)]
    Alerts(#[from] AlertsError),
    /// A key can't be generated.
    #[error(transparent)]
    Token(#[from] token::NoEntropy),
    /// The file of the first access token can't be read or written.
    #[error("the admin access token's file {path} can't be used: {why}")]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// Standard output can't be written.
    #[error("failed to write to standard output: {0}")]
    Output(io::Error),
}

/// Runs the service until a signal ends it. What the operator must see (the first token or
/// its file, the address) is written to `out`; the token itself only if `print_token`.
pub async fn serve(
    config: Config,
    node: NodeId,
    print_token: bool,
    signals: Signals,
    out: &mut (dyn Write + Send),
) -> Result<Outcome, ServeError> {
    let config = Arc::new(config);
    prepare_data_dir(&config)?;
    let recorder = telemetry::start_metrics(crate::metric::CATALOGUE)?;
    metrics::create();
    let certificates = certificates(&config)?.map(Arc::new);
    let tls = certificates.as_deref().map(Certificates::server_config).transpose()?;
    let alerting = Alerting::open(&config.alerts)?;
    let scheme = if tls.is_some() { "https" } else { "http" };

    let wake = Wake::default();
    let database = database(&config);
    let Open { store, failure, jobs: store_jobs } = database.open(node, wake.clone()).await?;
    tracing::info!(node = %store.node(), shared = database.is_shared(), "the database is open");
    if !database.is_shared() {
        files::warn_if_writable(&database.path, "the database file");
    }
    let joined = join(store.as_ref(), &config, tls, database.is_shared(), print_token, out).await;
    let (listener, address) = match joined {
        Ok(joined) => joined,
        Err(error) => {
            // Otherwise the other nodes, and the next start, would report this node as lost.
            store.close().await;
            return Err(error);
        }
    };

    let jobs = Supervisor::default();
    let dispatcher =
        Dispatcher::new(Arc::clone(&store), wake.clone(), config.delivery_options(), &jobs);
    let rules = rules(&config);
    let render = recorder.clone();
    let lag = Lag::default();
    let measure = metrics::Measure::new(
        Arc::<dyn Store>::clone(&store),
        lag.clone(),
        config.metrics.furthest_behind,
    );
    let state = AppState::new(Components {
        store: Arc::<dyn Store>::clone(&store),
        dispatcher: Arc::clone(&dispatcher),
        config: Arc::clone(&config),
        rules: Arc::clone(&rules),
        feed: Feed::start(Arc::<dyn Store>::clone(&store), wake.clone(), &jobs),
        alerting: Arc::clone(&alerting),
        render_metrics: Arc::new(move || lag.render_after(|| render.render())),
        supervisors: vec![jobs.clone(), store_jobs],
    });
    let service = Service {
        config,
        store,
        dispatcher,
        jobs,
        alerting,
        stop_accepting: CancellationToken::new(),
        close_connections: CancellationToken::new(),
        connections: TaskTracker::new(),
    };
    let accepting = service.connections.spawn(listener.run(
        http::router(state.clone()),
        service.stop_accepting.clone(),
        service.close_connections.clone(),
        service.connections.clone(),
    ));
    let failed = service.start_jobs(database.is_shared(), rules, wake);
    service.start_alerts(certificates.clone());
    service.jobs.start_housekeeping("tidy_up", MINUTE, Call(move || state.tidy_up()));
    service.jobs.start_housekeeping("fleet_metrics", metrics::INTERVAL, measure);
    let upkeep = Call(move || recorder.run_upkeep());
    service.jobs.start_housekeeping("metrics_upkeep", METRICS_UPKEEP, upkeep);
    service.watch_certificates(certificates, &signals);

    writeln!(out, "listening on {scheme}://{address}")
        .and_then(|()| out.flush())
        .map_err(ServeError::Output)?;
    tracing::info!(%address, scheme, "listening");

    let outcome = tokio::select! {
        () = signals.graceful.cancelled() => Outcome::Graceful,
        () = failed.cancelled() => Outcome::StoreFailed,
        () = failure => Outcome::StoreFailed,
        // The listener only returns if it fails.
        _ = accepting => Outcome::ListenerFailed,
    };
    Ok(service.shut_down(outcome, &signals).await)
}

fn rules(config: &Config) -> Arc<Rules> {
    Rules::new(usize::try_from(config.limits.event_bytes.as_u64()).unwrap_or(usize::MAX))
}

/// Binds the address and joins the nodes of the database. The address comes first: a first token
/// is shown only once, and not by a service that can't start.
async fn join(
    store: &dyn Store,
    config: &Config,
    tls: Option<rustls::ServerConfig>,
    is_shared: bool,
    print_token: bool,
    out: &mut (dyn Write + Send),
) -> Result<(Listener, SocketAddr), ServeError> {
    let listen_error = |error| ServeError::Listen { address: config.server.listen, error };
    let timeouts = PeerTimeouts {
        ping_interval: config.delivery.heartbeat_interval,
        unacknowledged: config.delivery.unacknowledged(),
        write: config.delivery.write_timeout,
    };
    let listener = Listener::bind(&config.server, tls, timeouts).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    check_high_water(store, config).await?;
    membership::begin(store, is_shared).await?;
    first_token::ensure(store, config, print_token, out).await?;
    store.introduce_node(about(config, address)).await?;
    Ok((listener, address))
}

/// Refuses a database that was rolled back.
async fn check_high_water(store: &dyn Store, config: &Config) -> Result<(), ServeError> {
    match HighWaterFile::of(&config.data_dir).update(store).await {
        Ok(_) => {}
        Err(HighWaterError::RolledBack(rolled_back)) => return Err(rolled_back.into()),
        // A full disk must not keep the service from starting: receipts can be stored.
        Err(error) => {
            tracing::warn!(%error, "failed to check whether the database was rolled back");
        }
    }
    Ok(())
}

/// What runs, and what ends it.
struct Service {
    config: Arc<Config>,
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    jobs: Supervisor,
    alerting: Arc<Alerting>,
    stop_accepting: CancellationToken,
    close_connections: CancellationToken,
    connections: TaskTracker,
}

impl Service {
    /// Starts the jobs that work on the store. The token is cancelled when the store has
    /// failed permanently.
    fn start_jobs(&self, is_shared: bool, rules: Arc<Rules>, wake: Wake) -> CancellationToken {
        let jobs = &self.jobs;
        self.dispatcher.start_sweep(jobs);
        if is_shared {
            self.dispatcher.start_revocation(jobs);
        }
        ingest::inbox::start(&self.store, rules, jobs);
        let (retention, store) = (&self.config.retention, Arc::clone(&self.store));
        let limits = retention.limits(self.config.reliable.instance_ttl);
        retention::start(store, wake.clone(), limits, retention.interval, jobs);
        let store = Arc::clone(&self.store);
        bulk::start(store, wake, is_shared, jobs);
        let failed = CancellationToken::new();
        let (store, dispatcher) = (Arc::clone(&self.store), Arc::clone(&self.dispatcher));
        let membership = Membership::new(store, dispatcher, is_shared, failed.clone());
        jobs.start("heartbeat", membership::HEARTBEAT, membership);
        let (file, store) = (HighWaterFile::of(&self.config.data_dir), Arc::clone(&self.store));
        let watch = WatchHighWater::new(file, store, failed.clone());
        jobs.start_housekeeping("high_water", high_water::INTERVAL, watch);
        let (feed, log) = (Arc::clone(&self.store), Arc::clone(&self.store));
        let counting = CountEvents::new(feed, log);
        jobs.start_housekeeping("event_counts", MINUTE, counting);
        failed
    }

    /// Starts the jobs that evaluate the rules of alerts and send notifications.
    fn start_alerts(&self, certificates: Option<Arc<Certificates>>) {
        let data_dir = self.config.data_dir.clone();
        let measure: Measure = Box::new(move || node_health(&data_dir, certificates.as_deref()));
        let store: Arc<dyn Alerts> = Arc::clone(&self.store) as _;
        self.alerting.start(&store, measure, &self.jobs);
    }

    /// Starts the job that reloads the certificate.
    fn watch_certificates(&self, certificates: Option<Arc<Certificates>>, signals: &Signals) {
        let Some(certificates) = certificates else { return };
        let watch =
            WatchCertificates { certificates, signals: signals.clone(), was_requested: false };
        self.jobs.start_housekeeping("certificates", CERTIFICATE_CHECK, watch);
    }

    /// Closes connections, jobs and the store, in this order. A signal to end immediately
    /// cuts it off.
    async fn shut_down(&self, mut outcome: Outcome, signals: &Signals) -> Outcome {
        tracing::info!(reason = %outcome, "shutting down");
        let has_failed = outcome == Outcome::StoreFailed;
        let time_limit = async {
            if has_failed {
                tokio::time::sleep(FAILED_SHUTDOWN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.close(has_failed) => {}
            () = time_limit => tracing::warn!("the store has failed; requests in flight are cut off"),
            () = signals.immediate.cancelled() => outcome = Outcome::Interrupted,
        }
        tracing::info!(reason = %outcome, "the service has stopped");
        outcome
    }

    async fn close(&self, has_failed: bool) {
        let shutdown = &self.config.shutdown;
        // The listener stays open while the sockets drain, so that readiness can report it
        // and gateways get a 503 instead of a refused connection.
        self.dispatcher.drain(if has_failed { Duration::ZERO } else { shutdown.drain }).await;
        self.stop_accepting.cancel();
        self.close_connections.cancel();
        self.connections.close();
        if tokio::time::timeout(shutdown.grace, self.connections.wait()).await.is_err() {
            tracing::warn!("requests are still in flight and are cut off");
        }
        self.jobs.stop().await;
        // Notifications that are being sent are recorded, so that they are not sent again.
        self.alerting.finish(if has_failed { Duration::ZERO } else { shutdown.grace }).await;
        if !has_failed {
            self.note_high_water().await;
        }
        // A transaction that does not end must not keep the process alive: what was
        // acknowledged is on disk, and the rest is rolled back at the next start.
        if tokio::time::timeout(shutdown.grace, self.store.close()).await.is_err() {
            tracing::warn!("the database did not close in time");
        }
    }

    /// Stores the heads of the logs, for the next start.
    async fn note_high_water(&self) {
        let file = HighWaterFile::of(&self.config.data_dir);
        let updating = file.update(self.store.as_ref());
        match tokio::time::timeout(self.config.shutdown.grace, updating).await {
            Ok(Ok(_)) => {}
            Ok(Err(HighWaterError::RolledBack(rolled_back))) => tracing::error!("{rolled_back}"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to store the heads of the logs");
            }
            Err(_) => {
                tracing::warn!("timed out reading the heads of the logs");
            }
        }
    }
}

/// What only this node can measure.
fn node_health(data_dir: &Path, certificates: Option<&Certificates>) -> NodeHealth {
    let (disk_free, disk_total) = disk_space(data_dir).unzip();
    let certificate_expires_at = certificates.and_then(Certificates::expires_at);
    NodeHealth { disk_free, disk_total, certificate_expires_at }
}

/// Free space on a disk and its size, in bytes.
#[cfg(unix)]
fn disk_space(path: &Path) -> Option<(i64, i64)> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(disk.f_frsize)).ok();
    // What only the administrator may use does not count.
    bytes(disk.f_bavail).zip(bytes(disk.f_blocks))
}

#[cfg(not(unix))]
fn disk_space(_: &Path) -> Option<(i64, i64)> {
    None
}

/// The properties of this node that `node list` shows.
fn about(config: &Config, address: SocketAddr) -> AboutNode {
    AboutNode {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: tls::hostname(),
        address: address.to_string(),
        max_connections: i64::try_from(config.delivery.max_connections).unwrap_or(i64::MAX),
    }
}

/// Creates the data directory with access for its owner only. The permissions of an
/// existing one are not changed; the files in it are private in any case.
/// Creates the data directory, or checks the one that exists.
fn prepare_data_dir(config: &Config) -> Result<(), ServeError> {
    let data_dir = &config.data_dir;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(data_dir)
        .map_err(|error| ServeError::DataDir { path: data_dir.clone(), error })?;
    refuse_missing_database(config)?;
    files::warn_if_writable(data_dir, "the data directory");
    Ok(())
}

fn certificates(config: &Config) -> Result<Option<Certificates>, TlsError> {
    let server = &config.server;
    if server.plaintext {
        tracing::warn!("TLS is disabled (server.plaintext): keys and events are sent unencrypted");
        return Ok(None);
    }
    let (certificate, private_key) = match (&server.certificate, &server.private_key) {
        (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
        _ => tls::self_signed(&config.data_dir)?,
    };
    Certificates::open(certificate, private_key).map(Some)
}

/// Replaces the SQLite database with a backup, with new epochs. The service must not be
/// running.
pub async fn restore(
    config: &Config,
    from: PathBuf,
    replace: bool,
    accept_problems: bool,
) -> Result<Restored, OpenError> {
    let principal = local::principal();
    database(config).restore(Restore { from, replace, accept_problems, principal }).await
}

/// Fails if [`renew_epochs`] would fail because of the database's state. Changes nothing.
pub async fn check_renewal(config: &Config) -> Result<(), OpenError> {
    database(config).check_renewal().await
}

/// Gives every log a new epoch. Returns the number of logs. The service must not be running.
pub async fn renew_epochs(config: &Config) -> Result<u64, OpenError> {
    database(config).renew_epochs(local::principal()).await
}

/// Generates an access token for `admin_token_file`. It is not stored.
pub fn generate_token() -> Result<SecretString, ServeError> {
    Ok(token::issue(Kind::Access)?.key)
}

/// Creates an admin access token directly in the database, for an operator without one. The
/// service may be running.
pub async fn recover_access(config: &Config, name: &str) -> Result<SecretString, ServeError> {
    let issued = token::issue(Kind::Access)?;
    let new = NewToken { id: issued.id, digest: issued.digest, expires_at: None };
    database(config).add_admin_token(local::principal(), name, new).await?;
    Ok(issued.key)
}

fn database(config: &Config) -> Options {
    let path = config.data_dir.join("gateway-events.db");
    Options { path, ..config.database.clone() }
}

struct WatchCertificates {
    certificates: Arc<Certificates>,
    signals: Signals,
    /// Set by SIGHUP: the files are read even if they look unchanged.
    was_requested: bool,
}

impl Job for WatchCertificates {
    type Error = std::convert::Infallible;

    async fn wait(&mut self) {
        self.signals.reload.notified().await;
        self.was_requested = true;
    }

    async fn run_once(&mut self) -> Result<Next, Self::Error> {
        if std::mem::take(&mut self.was_requested) {
            self.certificates.reload();
        } else {
            self.certificates.reload_if_changed();
        }
        Ok(Next::Wait)
    }
}
