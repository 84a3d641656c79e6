//! Settings: the compiled-in defaults, then a file, then the environment, then flags, each
//! of which overrides the previous ones. Invalid values are refused here with their key,
//! their source and what is allowed, so that no other module has to check them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Deserializer};

use crate::dispatch;
use crate::store::{self, RetentionLimits};
use crate::telemetry;
pub use crate::telemetry::{Log, LogFormat, Otlp};

mod database_url;
mod keys;
mod network;
mod origins;
mod ranges;
mod secrets;
mod sources;
mod web_address;

pub use network::Network;
pub use sources::{Flags, Sources};

use origins::Origins;

/// All settings of the service, as `config/default.toml` lists them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the service keeps its files.
    pub data_dir: PathBuf,
    /// The file that the first admin access token is read from or written to.
    #[serde(deserialize_with = "optional_path")]
    pub admin_token_file: Option<PathBuf>,
    /// The listener.
    pub server: Server,
    /// Limits on publishers and on connection attempts.
    pub limits: Limits,
    /// Sockets and deliveries.
    pub delivery: dispatch::Options,
    /// Gateways that acknowledge events.
    pub reliable: dispatch::ReliableOptions,
    /// The database.
    pub database: store::Options,
    /// How long and how much is kept.
    pub retention: Retention,
    /// Time limits of a shutdown (`[shutdown]`).
    pub shutdown: Shutdown,
    /// Alerts (`[alerts]`).
    pub alerts: Alerts,
    /// Logs.
    pub log: Log,
    /// The export of spans.
    pub otlp: Otlp,
    /// Settings of `/metrics` (`[metrics]`).
    pub metrics: Metrics,
    /// The settings in effect, with secrets masked.
    #[serde(skip)]
    shown: toml::Table,
    /// Warnings about ignored environment variables.
    #[serde(skip)]
    warnings: Vec<String>,
}

/// The listener's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port.
    #[serde(deserialize_with = "socket_address")]
    pub listen: SocketAddr,
    /// Disables TLS; only allowed on loopback addresses.
    pub plaintext: bool,
    /// PEM file of the certificate and its chain.
    #[serde(deserialize_with = "optional_path")]
    pub certificate: Option<PathBuf>,
    /// PEM file of the private key.
    #[serde(deserialize_with = "optional_path")]
    pub private_key: Option<PathBuf>,
    /// Deadline of a TLS handshake.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Deadline of a request's headers.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Deadline of an API request.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// The maximum number of concurrent TLS handshakes.
    pub max_pending_handshakes: usize,
    /// The maximum number of open connections that are not WebSockets.
    pub max_http_connections: usize,
    /// Peers whose X-Forwarded-For header is trusted.
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<Network>,
    /// Peers whose connections must start with a PROXY protocol header; others must not.
    #[serde(deserialize_with = "list")]
    pub proxy_protocol_from: Vec<Network>,
    /// Values of the Origin header from which browsers may connect.
    #[serde(deserialize_with = "list")]
    pub allowed_origins: Vec<String>,
    /// The maximum size of the body of a request that publishes events.
    pub body_limit: ByteSize,
    /// The maximum memory of all such bodies together.
    pub body_memory: ByteSize,
}

/// Limits on publishers and on connection attempts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The maximum size of an event's frame.
    pub event_bytes: ByteSize,
    /// Connection attempts per minute and source address, and per gateway.
    pub attempts_per_minute: std::num::NonZeroU32,
}

/// Alerts (`[alerts]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alerts {
    /// How often rules are evaluated.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// The file with the key that encrypts the secrets of destinations.
    #[serde(deserialize_with = "optional_path")]
    pub key_file: Option<PathBuf>,
    /// Networks of destinations whose addresses are not public.
    #[serde(deserialize_with = "list")]
    pub allowed_networks: Vec<Network>,
    /// The time limit of an attempt to send a notification.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// A notification that was not delivered for this long is given up.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
}

/// Settings of `/metrics` (`[metrics]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// How many gateways are named with their lag, those that are furthest behind first.
    pub furthest_behind: usize,
}

/// How long and how much is kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    #[serde(with = "humantime_serde")]
    max_age: Duration,
    max_events: i64,
    #[serde(with = "humantime_serde")]
    hard_max_age: Duration,
    hard_max_events: i64,
    #[serde(with = "humantime_serde")]
    dead_letter_max_age: Duration,
    #[serde(with = "humantime_serde")]
    orphaned_cursor_max_age: Duration,
    #[serde(with = "humantime_serde")]
    audit: Duration,
    /// The interval between passes.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    batch: i64,
}

impl Retention {
    /// How long events are kept that every gateway has confirmed.
    pub const fn max_age(&self) -> Duration {
        self.max_age
    }

    /// The limits in the form that the store takes. Instances have a setting of their own
    /// (`reliable.instance_ttl`).
    pub const fn limits(&self, instance_max_age: Duration) -> RetentionLimits {
        RetentionLimits {
            max_age: self.max_age,
            max_events: self.max_events,
            hard_max_age: self.hard_max_age,
            hard_max_events: self.hard_max_events,
            dead_letter_max_age: self.dead_letter_max_age,
            orphaned_cursor_max_age: self.orphaned_cursor_max_age,
            instance_max_age,
            audit_max_age: self.audit,
            batch: self.batch,
        }
    }
}

/// Time limits of a shutdown (`[shutdown]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// The time over which open sockets are closed.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// How long requests may run after that.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

/// Why the settings are invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration file {path} can't be read: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// A value is invalid.
    #[error("{key} = {value} (from {origin}) can't be used: {why}")]
    Value {
        /// The key.
        key: String,
        /// The value, as given.
        value: String,
        /// Its source.
        origin: String,
        /// What is wrong and what is allowed.
        why: String,
    },
}

impl Config {
    /// Reads all sources; later ones override earlier ones.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::load_without(sources, &BTreeSet::new())
    }

    /// As [`Config::load`], with all problems instead of the first one. Each setting that has one is
    /// left out to find the next. It stops at a problem that remains without the setting.
    pub fn load_all(sources: &Sources) -> Result<Self, Vec<ConfigError>> {
        let (mut problems, mut left_out) = (Vec::new(), BTreeSet::new());
        loop {
            match Self::load_without(sources, &left_out) {
                Ok(config) if problems.is_empty() => return Ok(config),
                Ok(_) => return Err(problems),
                Err(ConfigError::Value { key, .. }) if left_out.contains(&key) => {
                    return Err(problems);
                }
                Err(error) => {
                    let key = match &error {
                        ConfigError::Value { key, .. } => Some(key.clone()),
                        ConfigError::File { .. } => None,
                    };
                    problems.push(error);
                    let Some(key) = key else { return Err(problems) };
                    left_out.insert(key);
                }
            }
        }
    }

    fn load_without(sources: &Sources, left_out: &BTreeSet<String>) -> Result<Self, ConfigError> {
        let defaults = defaults();
        let variables = sources.environment.iter().filter(|(variable, _)| {
            !left_out.contains(&sources::key_of(&variable.to_string_lossy()))
        });
        let (environment, warnings) = sources::environment(variables, &defaults)?;
        let mut flags = sources::flags(&sources.flags);
        flags.retain(|key, _| !left_out.contains(key));
        let mut file = sources.file.as_deref().map(read).transpose()?;
        if let Some((_, table)) = &mut file {
            for key in left_out {
                keys::remove(table, key);
            }
        }
        let origins = Origins {
            defaults: &defaults,
            file: file.as_ref(),
            environment: &environment,
            flags: &flags,
        };
        let mut merged = defaults.clone();
        if let Some((_, table)) = &file {
            if let Some(key) = keys::first_unknown(table, &defaults) {
                let why = keys::unknown(&key, &defaults, str::to_owned);
                return Err(origins.refuse(&key, why));
            }
            keys::merge(&mut merged, table);
        }
        for (key, given) in environment.iter().chain(&flags) {
            keys::set(&mut merged, key, given.value.clone());
        }
        let mut shown = merged.clone();
        secrets::mask(&mut shown);
        let mut config: Self = serde_path_to_error::deserialize(toml::Value::Table(merged))
            .map_err(|error| origins.explain(&error))?;
        config.shown = shown;
        config.warnings = warnings;
        for (key, given) in environment.iter().chain(&flags) {
            if let Some(path) = &given.path {
                config.take_path(key, path);
            }
        }
        config.check(&origins)?;
        Ok(config)
    }

    /// Sets a path to its exact bytes, which TOML can't represent if they are not UTF-8.
    fn take_path(&mut self, key: &str, path: &Path) {
        match key {
            "data_dir" => path.clone_into(&mut self.data_dir),
            "admin_token_file" => self.admin_token_file = Some(path.to_owned()),
            "server.certificate" => self.server.certificate = Some(path.to_owned()),
            "alerts.key_file" => self.alerts.key_file = Some(path.to_owned()),
            "server.private_key" => self.server.private_key = Some(path.to_owned()),
            _ => {}
        }
    }

    /// The settings of delivery, with those of reliable mode.
    pub fn delivery_options(&self) -> dispatch::Options {
        let heartbeat_interval =
            self.reliable.heartbeat_interval.min(self.delivery.heartbeat_interval);
        let reliable = dispatch::ReliableOptions { heartbeat_interval, ..self.reliable.clone() };
        dispatch::Options { reliable, ..self.delivery.clone() }
    }

    /// Warnings about environment variables that are ignored but look like settings.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The settings in effect as TOML text, with secrets masked.
    pub fn show(&self) -> String {
        self.settings().to_string()
    }

    /// The settings in effect as a TOML table, with secrets masked.
    pub fn settings(&self) -> toml::Table {
        self.shown.clone()
    }

    fn check_server(&self, origins: &Origins<'_>) -> Result<(), ConfigError> {
        let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
        if self.server.plaintext && !self.server.listen.ip().is_loopback() {
            return refuse(
                "server.plaintext",
                "without TLS only a loopback address may be listened on; set server.listen to 127.0.0.1:PORT or [::1]:PORT, or leave TLS on",
            );
        }
        if self.server.certificate.is_some() != self.server.private_key.is_some() {
            return refuse(
                "server.certificate",
                "server.certificate and server.private_key belong together; set both or neither",
            );
        }
        if !self.server.allowed_origins.iter().all(|origin| web_address::is_origin(origin)) {
            return refuse(
                "server.allowed_origins",
                "each must be what browsers send in the header Origin: a scheme and a host in lower case, and a port unless it is the default one, without a path; such as \"https://example.com\" or \"http://localhost:3000\"",
            );
        }
        Ok(())
    }

    fn check_limits(&self, origins: &Origins<'_>) -> Result<(), ConfigError> {
        let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
        if !(1024..=64 * 1024 * 1024).contains(&self.limits.event_bytes.as_u64()) {
            return refuse("limits.event_bytes", "must be 1KiB to 64MiB");
        }
        if self.server.body_limit < self.limits.event_bytes {
            return refuse("server.body_limit", "must be at least limits.event_bytes");
        }
        // Each attempt is compared with all others of its minute.
        if self.limits.attempts_per_minute.get() > 1000 {
            return refuse("limits.attempts_per_minute", "must be 1 to 1000");
        }
        if self.metrics.furthest_behind > 100 {
            return refuse("metrics.furthest_behind", "must be 0 to 100");
        }
        Ok(())
    }

    fn check_database(&self, origins: &Origins<'_>) -> Result<(), ConfigError> {
        let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
        let database = &self.database;
        for (key, url) in
            [("database.url", &database.url), ("database.listener_url", &database.listener_url)]
        {
            let url = url.expose_secret();
            let is_postgres = ["postgres://", "postgresql://"].iter().any(|it| url.starts_with(it));
            if !url.is_empty() && !is_postgres {
                return refuse(
                    key,
                    "must be empty, or like postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full",
                );
            }
            if let Some(why) = database_url::refusal(url) {
                return refuse(key, &why);
            }
        }
        if !database.is_shared() && self.data_dir.to_str().is_none() {
            return refuse(
                "data_dir",
                "must be valid UTF-8 for SQLite; its driver accepts no other path",
            );
        }
        if !database.is_shared() && !database.listener_url.expose_secret().is_empty() {
            return refuse(
                "database.listener_url",
                "must be empty for SQLite; to use Postgres, set database.url, too",
            );
        }
        Ok(())
    }

    /// Checks that involve more than the type of one value.
    fn check(&self, origins: &Origins<'_>) -> Result<(), ConfigError> {
        let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
        if self.data_dir.as_os_str().is_empty() {
            return refuse("data_dir", "must name a directory, such as \"data\"");
        }
        self.check_server(origins)?;
        self.check_limits(origins)?;
        ranges::check(self, origins)?;
        self.check_database(origins)?;
        let retention = &self.retention;
        if retention.hard_max_age < retention.max_age {
            return refuse("retention.hard_max_age", "must be at least retention.max_age");
        }
        if retention.hard_max_events < retention.max_events {
            return refuse("retention.hard_max_events", "must be at least retention.max_events");
        }
        if !(1..=100_000).contains(&retention.batch) {
            return refuse("retention.batch", "must be 1 to 100000");
        }
        if retention.interval < Duration::from_secs(1) {
            return refuse("retention.interval", "must be at least 1s");
        }
        if !(Duration::from_secs(1)..=Duration::from_hours(1)).contains(&self.alerts.interval) {
            return refuse("alerts.interval", "must be \"1s\" to \"1h\"");
        }
        if !(Duration::from_secs(1)..=Duration::from_mins(1)).contains(&self.alerts.timeout) {
            return refuse("alerts.timeout", "must be \"1s\" to \"1m\"");
        }
        if self.alerts.give_up_after < self.alerts.timeout
            || self.alerts.give_up_after > Duration::from_hours(30 * 24)
        {
            return refuse(
                "alerts.give_up_after",
                "must be at least alerts.timeout, and at most \"30d\"",
            );
        }
        if filter_is_bad(&self.log.filter) {
            return refuse(
                "log.filter",
                "must be levels (error, warn, info, debug, trace), by part if wanted, such as \"info,gateway_events=debug\"",
            );
        }
        if !is_collector(&self.otlp.endpoint) {
            return refuse(
                "otlp.endpoint",
                "must be empty, or a collector's base URL without user, query and fragment, such as \"http://localhost:4318\"",
            );
        }
        if !(0.0..=1.0).contains(&self.otlp.sampling_ratio) {
            return refuse("otlp.sampling_ratio", "must be 0.0 to 1.0");
        }
        Ok(())
    }
}

/// Whether spans can be exported to it, or it is empty.
fn is_collector(endpoint: &str) -> bool {
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let is_base = |rest: &str| {
        web_address::is_authority(rest.split('/').next().unwrap_or_default())
            && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte))
    };
    endpoint.is_empty() || rest.is_some_and(is_base)
}

fn filter_is_bad(filter: &str) -> bool {
    filter.is_empty() || !telemetry::filter_is_valid(filter)
}

fn defaults() -> toml::Table {
    // Valid TOML, as a test verifies.
    crate::defaults::TEXT.parse().unwrap_or_default()
}

fn read(path: &Path) -> Result<(PathBuf, toml::Table), ConfigError> {
    let refuse = |why: String| ConfigError::File { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    let table = text.parse().map_err(|error: toml::de::Error| refuse(error.to_string()))?;
    Ok((path.to_owned(), table))
}

fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn socket_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(|_| {
        serde::de::Error::custom(
            "must be an IP address and a port, such as \"127.0.0.1:8443\" or \"[::]:8443\"",
        )
    })
}

/// A list of strings, each of which is parsed as a value.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

#[cfg(test)]
mod tests;
