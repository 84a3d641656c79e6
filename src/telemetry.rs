//! Logs to stderr, text for people or JSON for machines, and metrics. Both
//! formats escape control characters, so that nobody writes lines of their own
//! into the log.

use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// Logs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Their form.
    pub format: LogFormat,
    /// What is logged.
    pub filter: String,
}

/// The form of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be \"auto\", \"text\" or \"json\""),
        }
    }
}

/// Why there are no logs or metrics.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TelemetryError(String);

/// Whether a text can be used as `log.filter`.
pub fn filter_is_valid(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}

/// Starts logging, once in a process.
pub fn start_logs(log: &Log) -> Result<(), TelemetryError> {
    let failed = |error: &dyn std::fmt::Display| TelemetryError(format!("no logs: {error}"));
    let filter = EnvFilter::try_new(&log.filter).map_err(|error| failed(&error))?;
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal);
    let as_text = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let started =
        if as_text { builder.try_init() } else { builder.json().flatten_event(true).try_init() };
    started.map_err(|error| failed(&error))
}

/// Starts collecting metrics, once in a process.
pub fn start_metrics() -> Result<PrometheusHandle, TelemetryError> {
    PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| TelemetryError(format!("no metrics: {error}")))
}
