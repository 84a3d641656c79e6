//! What is measured: a running service, or one of its own with everything that
//! it leaves behind. Cleared away whatever happens.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gateway_events::client::Endpoint;
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::event::GatewayId;
use gateway_events::store::floor::{Bare, Temporary};
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;

use super::super::access::ClientOptions;
use super::super::output::remark;
use super::super::service::Service;
use super::options::Common;
use super::progress::Progress;
use super::publish;
use super::registrations::{self, Registrations};

/// Gateways whose logs are filled before anything is measured.
const OTHERS: u32 = 100;

/// Where a run takes place.
pub(super) struct Ground<'a> {
    pub(super) common: &'a Common,
    pub(super) progress: Progress,
    client: &'a ClientOptions,
    directory: TempDir,
    /// One for the service and one for the bare driver, on a shared server.
    databases: Option<[Temporary; 2]>,
    /// The service that was started.
    service: Mutex<Option<Service>>,
    /// The running service, if `--url` names one.
    running: Option<Running>,
}

/// A service that is not ours, and what it was given.
struct Running {
    api: Api,
    token: SecretString,
    made: Registrations,
}

/// The service.
pub(super) struct Target {
    pub(super) api: Api,
    pub(super) token: SecretString,
    /// Its process, if that is known.
    pub(super) pid: Option<u32>,
    endpoint: Endpoint,
}

impl<'a> Ground<'a> {
    pub(super) async fn prepare(
        common: &'a Common,
        client: &'a ClientOptions,
    ) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("gateway-events-bench-");
        let directory = match &common.directory {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let directory = directory.context("no temporary directory can be made")?;
        let running = match &client.url {
            Some(url) => {
                let token = client.token()?;
                let api = Api::new(url, Some(token.clone()), &client.trust())?;
                Some(Running { made: Registrations::new(api.clone()), api, token })
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
            client,
            directory,
            databases,
            service: Mutex::default(),
            running,
        })
    }

    /// Which database the service has, and how it is reached.
    pub(super) fn database(&self) -> &'static str {
        match (&self.running, &self.databases) {
            (Some(_), _) => "of the running service",
            (None, Some([database, _])) if database.is_encrypted() => "postgres over TLS",
            (None, Some(_)) => "postgres",
            (None, None) => "sqlite",
        }
    }

    /// The temporary directory.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The bare driver's database, if it is on a server.
    pub(super) fn bare_database(&self) -> Option<&SecretString> {
        self.databases.as_ref().map(|[_, bare]| bare.url())
    }

    /// The running service, or one that is started for so many gateways.
    pub(super) async fn target(&self, gateways: usize) -> anyhow::Result<Target> {
        if let Some(Running { api, token, .. }) = &self.running {
            remark(format_args!("measuring the running service at {}", api.base()));
            let tls = self.client.trust().client_config()?;
            return Ok(Target {
                endpoint: Endpoint { base: api.base().clone(), tls, source: None },
                api: api.clone(),
                token: token.clone(),
                pid: self.common.server_pid,
            });
        }
        self.progress.say("starting a service");
        let mut settings = vec![
            ("DELIVERY__MAX_CONNECTIONS", (gateways + 100).max(1000).to_string()),
            ("SERVER__MAX_HTTP_CONNECTIONS", (gateways + 2000).to_string()),
            ("SERVER__MAX_PENDING_HANDSHAKES", (gateways + 1000).to_string()),
            ("LIMITS__ATTEMPTS_PER_MINUTE", "1000".to_owned()),
        ];
        if let Some([database, _]) = &self.databases {
            settings.push(("DATABASE__URL", database.url().expose_secret().to_owned()));
        }
        let data = self.data();
        std::fs::create_dir_all(&data).context("no data directory can be made")?;
        let service = Service::start(&data, 0, &settings).await?;
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

    /// Writes events straight into the log of the service that is started next,
    /// for gateways that nobody else writes to.
    pub(super) async fn fill_log(&self, events: u32) -> anyhow::Result<()> {
        if events > 0 {
            self.progress.say("filling the log");
            let mut bare = self.bare(OTHERS).await?;
            bare.fill_log(events, &publish::payload_text(self.common.payload)).await?;
            bare.close().await?;
        }
        Ok(())
    }

    /// Writes a ledger straight into the database of the service that is started
    /// next: failed attempts, spread evenly over the time before `now`. Answers
    /// the gateways' ids.
    pub(super) async fn fill_ledger(
        &self,
        rows: u32,
        gateways: u32,
        now: Timestamp,
        span: Duration,
    ) -> anyhow::Result<Vec<String>> {
        let mut bare = self.bare(gateways).await?;
        let payload = publish::payload_text(self.common.payload);
        let ids = bare.fill_ledger(rows, &payload, now, span).await?;
        bare.close().await?;
        Ok(ids)
    }

    /// The bare driver, on the database of the service that is started next.
    async fn bare(&self, gateways: u32) -> anyhow::Result<Bare> {
        anyhow::ensure!(
            self.running.is_none(),
            "a database is filled for a service of its own only: leave --url out"
        );
        Ok(match &self.databases {
            Some([database, _]) => Bare::shared(database.url(), gateways).await?,
            None => Bare::embedded(&self.data().join("gateway-events.db"), gateways).await?,
        })
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Registers a gateway and makes a key for it. A running service's are
    /// removed when the run ends.
    pub(super) async fn register(
        &self,
        api: &Api,
        name: String,
    ) -> anyhow::Result<(String, SecretString)> {
        match &self.running {
            Some(running) => running.made.register(name).await,
            None => registrations::register(api, &GatewayId::default(), &name).await,
        }
    }

    /// Removes everything that was made. One failure does not keep the rest.
    pub(super) async fn clear(self) -> anyhow::Result<()> {
        // Its files go when it can't write any more.
        let service = self.service.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = match service {
            Some(mut service) => service.kill().await,
            None => Ok(()),
        };
        let removed = match self.running {
            Some(running) => running.made.remove(&self.progress).await,
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

/// One for the service and one for the bare driver, or none.
async fn databases(url: &SecretString) -> anyhow::Result<[Temporary; 2]> {
    let first = Temporary::create(url).await?;
    match Temporary::create(url).await {
        Ok(second) => Ok([first, second]),
        Err(error) => {
            first.remove().await?;
            Err(error.into())
        }
    }
}

impl Target {
    /// How client number so-and-so connects: over loopback each comes from an
    /// address of its own, so that neither limits per address nor the number of
    /// ports is what is measured.
    pub(super) fn endpoint(&self, client: usize) -> Endpoint {
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
