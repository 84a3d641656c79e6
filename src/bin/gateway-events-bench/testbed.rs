//! Where a measurement takes place: a temporary directory, and either a running service
//! or one started for the measurement, with databases of its own. Everything is removed
//! afterwards.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gateway_events::client::Endpoint;
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::command::output::note;
use gateway_events::command::service::Service;
use gateway_events::event::GatewayId;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;

use crate::baseline::driver::Driver;
use crate::options::Common;
use crate::payload;
use crate::progress::Progress;
use crate::registrations::{self, Registrations};
use crate::temporary_database::TemporaryDatabase;

/// The file name of the service.
const SERVICE: &str = "gateway-events";

/// Gateways whose logs are filled before the measurement.
const PRELOADED_GATEWAYS: u32 = 100;

/// The environment of one run.
pub(crate) struct Testbed<'a> {
    pub(crate) common: &'a Common,
    pub(crate) progress: Progress,
    directory: TempDir,
    /// On Postgres, one for the service and one for the baseline.
    databases: Option<[TemporaryDatabase; 2]>,
    /// The service, if one was started.
    service: Mutex<Option<Service>>,
    /// The running service, if `--url` names one.
    running: Option<Running>,
}

/// A service that was already running, and the gateways registered with it.
struct Running {
    api: Api,
    token: SecretString,
    registrations: Registrations,
}

/// The measured service.
pub(crate) struct Target {
    pub(crate) api: Api,
    pub(crate) token: SecretString,
    /// Its process id, if known.
    pub(crate) pid: Option<u32>,
    endpoint: Endpoint,
}

impl<'a> Testbed<'a> {
    pub(crate) async fn prepare(common: &'a Common) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("gateway-events-bench-");
        let directory = match &common.directory {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let directory = directory.context("failed to create a temporary directory")?;
        let running = match &common.url {
            Some(url) => {
                let token = common.credentials.token()?;
                let api = Api::new(url, Some(token.clone()), &common.credentials.trust())?;
                Some(Running { registrations: Registrations::new(api.clone()), api, token })
            }
            None => None,
        };
        let databases = match &common.database_url {
            Some(url) => Some(databases(url).await?),
            None => None,
        };
        Ok(Self {
            common,
            progress: Progress::new(),
            directory,
            databases,
            service: Mutex::default(),
            running,
        })
    }

    /// The database of the service and how it is reached, as the report states it.
    pub(crate) fn database(&self) -> &'static str {
        match (&self.running, &self.databases) {
            (Some(_), _) => "of the running service",
            (None, Some([database, _])) if database.is_encrypted() => "postgres over TLS",
            (None, Some(_)) => "postgres",
            (None, None) => "sqlite",
        }
    }

    /// The temporary directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The URL of the baseline's database, if it is on Postgres.
    pub(crate) fn baseline_database(&self) -> Option<&SecretString> {
        self.databases.as_ref().map(|[_, baseline]| baseline.url())
    }

    /// The running service, or a new one configured for this many gateways.
    pub(crate) async fn target(&self, gateways: usize) -> anyhow::Result<Target> {
        self.target_with(gateways, &[]).await
    }

    /// As [`target`](Self::target); a new service gets additional settings.
    pub(crate) async fn target_with(
        &self,
        gateways: usize,
        additional: &[(&'static str, String)],
    ) -> anyhow::Result<Target> {
        if let Some(Running { api, token, .. }) = &self.running {
            note(format_args!("measuring the running service at {}", api.base()));
            let tls = self.common.credentials.trust().client_config()?;
            return Ok(Target {
                endpoint: Endpoint { base: api.base().clone(), tls, source: None },
                api: api.clone(),
                token: token.clone(),
                pid: self.common.server_pid,
            });
        }
        self.progress.step("starting a service");
        let mut settings = vec![
            ("DELIVERY__MAX_CONNECTIONS", (gateways + 100).max(1000).to_string()),
            ("SERVER__MAX_HTTP_CONNECTIONS", (gateways + 2000).to_string()),
            ("SERVER__MAX_PENDING_HANDSHAKES", (gateways + 1000).to_string()),
            ("LIMITS__ATTEMPTS_PER_MINUTE", "1000".to_owned()),
        ];
        settings.extend_from_slice(additional);
        if let Some([database, _]) = &self.databases {
            settings.push(("DATABASE__URL", database.url().expose_secret().to_owned()));
        }
        let data = self.data();
        std::fs::create_dir_all(&data).context("failed to create a data directory")?;
        let service = Service::start(&self.program()?, &data, 0, &settings).await?;
        let tls = service.trust().client_config()?;
        let target = Target {
            endpoint: Endpoint { base: service.url().clone(), tls, source: None },
            api: service.api()?,
            token: service.token()?,
            pid: service.pid(),
        };
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = Some(service);
        Ok(target)
    }

    /// Writes events directly into the database of the service that is started next, for
    /// gateways that are not part of the measurement.
    pub(crate) async fn fill_log(&self, events: u32) -> anyhow::Result<()> {
        if events > 0 {
            self.progress.step("filling the log");
            let mut driver = self.driver(PRELOADED_GATEWAYS).await?;
            driver.fill_log(events, &payload::sample(self.common.payload)).await?;
            driver.close().await?;
        }
        Ok(())
    }

    /// Writes the log of one gateway, which has received all of it, directly into the database of
    /// the service that is started next. Returns the gateway's id.
    pub(crate) async fn fill_delivered_log(&self, events: u32) -> anyhow::Result<String> {
        self.progress.step("filling the log");
        let mut driver = self.driver(1).await?;
        let id = driver.fill_delivered_log(events, &payload::sample(self.common.payload)).await?;
        driver.close().await?;
        Ok(id)
    }

    /// Writes a ledger directly into the database of the service that is started next:
    /// failed attempts, spread evenly over `span` before `now`. Returns the gateways' ids.
    pub(crate) async fn fill_ledger(
        &self,
        rows: u32,
        gateways: u32,
        now: Timestamp,
        span: Duration,
    ) -> anyhow::Result<Vec<String>> {
        let mut driver = self.driver(gateways).await?;
        let payload = payload::sample(self.common.payload);
        let ids = driver.fill_ledger(rows, &payload, now, span).await?;
        driver.close().await?;
        Ok(ids)
    }

    /// The driver on the database of the service that is started next.
    async fn driver(&self, gateways: u32) -> anyhow::Result<Driver> {
        anyhow::ensure!(
            self.running.is_none(),
            "the database of a running service is not written to: omit --url"
        );
        Ok(match &self.databases {
            Some([database, _]) => Driver::postgres(database.url(), gateways).await?,
            None => Driver::sqlite(&self.data().join("gateway-events.db"), gateways).await?,
        })
    }

    /// The program to start: the one given, or the one beside this program.
    fn program(&self) -> anyhow::Result<PathBuf> {
        if let Some(program) = &self.common.program {
            return Ok(program.clone());
        }
        let this = std::env::current_exe().context("failed to find this program's own path")?;
        let program = this.with_file_name(SERVICE);
        anyhow::ensure!(
            program.exists(),
            "{} does not exist; build both programs with `cargo build`, or name the service's with --program",
            program.display()
        );
        Ok(program)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Registers a gateway and creates a key for it. With a running service it is deleted
    /// at the end of the run.
    pub(crate) async fn register(
        &self,
        api: &Api,
        name: String,
    ) -> anyhow::Result<(String, SecretString)> {
        match &self.running {
            Some(running) => running.registrations.register(name).await,
            None => registrations::register(api, &GatewayId::default(), &name).await,
        }
    }

    /// Removes everything that was created. A failure does not stop the rest.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        // The files are removed after the process ended.
        let service = self.service.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = match service {
            Some(mut service) => service.kill().await,
            None => Ok(()),
        };
        let removed = match self.running {
            Some(running) => running.registrations.remove(&self.progress).await,
            None => Ok(()),
        };
        let mut dropped = Ok(());
        for database in self.databases.iter().flatten() {
            dropped = dropped.and(database.remove().await);
        }
        let deleted = self.directory.close();
        ended.and(removed)?;
        dropped?;
        Ok(deleted?)
    }
}

/// Creates both databases or none.
async fn databases(url: &SecretString) -> anyhow::Result<[TemporaryDatabase; 2]> {
    let first = TemporaryDatabase::create(url).await?;
    match TemporaryDatabase::create(url).await {
        Ok(second) => Ok([first, second]),
        Err(error) => {
            first.remove().await?;
            Err(error)
        }
    }
}

impl Target {
    /// How a client connects. Over loopback each has a source address of its own, so that
    /// neither the limits per address nor the number of ports affects the measurement.
    pub(crate) fn endpoint(&self, client: usize) -> Endpoint {
        let mut endpoint = self.endpoint.clone();
        let host = endpoint.base.host_str().unwrap_or_default();
        let is_loopback = host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|it| it.is_ipv4() && it.is_loopback());
        if is_loopback && cfg!(target_os = "linux") {
            let first = Ipv4Addr::new(127, 1, 0, 1).to_bits();
            let offset = u32::try_from(client % 60_000).unwrap_or(0);
            endpoint.source = Some(Ipv4Addr::from_bits(first + offset).into());
        }
        endpoint
    }
}
