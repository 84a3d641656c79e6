//! Logs to stderr, as text or JSON, and metrics. Both log formats escape control characters, so
//! that no input can forge log lines. Logging never blocks and never fails: see [`lines`].

use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tracing::{Span, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::clock::Timestamp;
use crate::event::NodeId;
use crate::metric;
use crate::trace_context::{TraceId, TraceParent};

mod lines;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/otlp_disabled.rs"]
mod otlp;

use lines::{Lines, Notice};

/// How long the process waits at its end for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The upper bounds of the buckets of all histograms, in seconds: from half the time of a commit to
/// the longest wait for a receipt at the defaults.
const BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// The name of the spans that are exported.
pub const HTTP_REQUEST_SPAN: &str = "http_request";

/// Settings of the export of spans (`[otlp]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The collector's base URL; empty disables the export.
    pub endpoint: String,
    /// The share of traces to record, from 0 to 1, if the caller has not decided.
    pub sampling_ratio: f64,
}

/// Settings of logs (`[log]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The format of lines.
    pub format: LogFormat,
    /// Which lines are logged, in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// The format of log lines.
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

/// Why logs or metrics could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TelemetryError(String);

/// Whether a text is a valid `log.filter`.
pub fn filter_is_valid(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}

/// The filter, with the log lines of the certificate verifier turned off: the component that opened the
/// connection logs the same error. A directive for this target in `log.filter` takes precedence.
fn without_repetitions(filter: &str) -> String {
    if filter.is_empty() { String::new() } else { format!("rustls_platform_verifier=off,{filter}") }
}

/// A `log.filter` that applies to all layers. `Targets` need no lock when a span is entered, unlike
/// `EnvFilter`, which is for filters by spans and their fields.
fn global_filter<S>(filter: &str) -> Result<Box<dyn Layer<S> + Send + Sync>, ParseError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let names_no_span = !filter.contains(|c: char| c == '[' || c.is_whitespace());
    if names_no_span && let Ok(targets) = filter.parse::<Targets>() {
        return Ok(Layer::boxed(targets));
    }
    Ok(Layer::boxed(EnvFilter::try_new(filter)?))
}

/// The running logs and export of spans. Dropping it sends the last spans and writes the last
/// lines, within a time limit.
#[derive(Debug)]
#[must_use = "the last spans and lines are written when this is dropped"]
pub struct Telemetry {
    spans: Option<otlp::Export>,
    lines: Lines,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        drop(self.spans.take());
        self.lines.flush(LAST_LINES);
    }
}

/// Starts logging and, if a collector is configured, the export of spans; once per process. Panics
/// are logged from then on. Spans are sent by the runtime that calls this.
pub fn start(log: &Log, otlp: &Otlp, node: NodeId) -> Result<Telemetry, TelemetryError> {
    let failed = |error: &dyn std::fmt::Display| TelemetryError(format!("no logs: {error}"));
    let is_terminal = io::stderr().is_terminal();
    let as_text = match log.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let notice: Notice = if as_text { text_notice } else { json_notice };
    let lines = standard_error().and_then(|file| Lines::start(file, notice));
    let lines = lines.map_err(|error| failed(&error))?;
    let writer = lines.clone();
    let filter = without_repetitions(&log.filter);
    let spans = if otlp.endpoint.is_empty() {
        None
    } else {
        Some(otlp::start(otlp, node, HTTP_REQUEST_SPAN)?)
    };
    let started = match spans {
        None => {
            let format = format(as_text, is_terminal, move || writer.clone());
            let filter = global_filter(&filter).map_err(|error| failed(&error))?;
            tracing_subscriber::registry().with(filter).with(format).try_init().map(|()| None)
        }
        Some((layer, export)) => {
            let format = format(as_text, is_terminal, move || writer.clone());
            // Of lines only: which spans are exported does not depend on it.
            let filter = EnvFilter::try_new(&filter).map_err(|error| failed(&error))?;
            let subscriber = tracing_subscriber::registry().with(layer);
            subscriber.with(format.with_filter(filter)).try_init().map(|()| Some(export))
        }
    };
    let spans = started.map_err(|error| failed(&error))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(Telemetry { spans, lines })
}

/// The layer that writes lines.
fn format<S, W>(as_text: bool, is_terminal: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let format = fmt::layer()
        // Otherwise the library would report them on standard error, and panic if that fails.
        .log_internal_errors(false)
        .with_writer(writer)
        .with_ansi(is_terminal);
    if as_text {
        format.boxed()
    } else {
        // The span of a request or connection has no parent, so the list of all spans would repeat
        // the current one.
        format.json().flatten_event(true).with_span_list(false).boxed()
    }
}

/// Whether spans are exported.
pub fn exports_spans() -> bool {
    otlp::is_on()
}

/// Makes a new span a child of its caller's span. Returns its trace id if it is exported. Call it
/// before anything happens in the span.
pub fn begin_span(span: &Span, parent: Option<&TraceParent>) -> Option<TraceId> {
    otlp::begin(span, parent)
}

/// Records the status of the response in an exported span.
pub fn end_span(span: &Span, status: u16) {
    otlp::end(span, status);
}

/// A separate handle, because a blocked write must not hold the lock of the standard library's.
fn standard_error() -> io::Result<std::fs::File> {
    use std::os::fd::AsFd as _;
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

/// The default hook writes to standard error, and waits for its reader.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    tracing::error!(
        location = panic.location().map(tracing::field::display),
        thread = thread.name(),
        reason = panic.payload_as_str().unwrap_or("unknown"),
        "panicked"
    );
}

const DROPPED_LINES: &str = "log lines were dropped: they could not be written";

fn text_notice(dropped: u64) -> String {
    let now = Timestamp::now();
    format!("{now}  WARN gateway_events::telemetry: {DROPPED_LINES} dropped={dropped}\n")
}

fn json_notice(dropped: u64) -> String {
    let line = serde_json::json!({
        "timestamp": Timestamp::now().to_string(),
        "level": "WARN",
        "message": DROPPED_LINES,
        "dropped": dropped,
        "target": "gateway_events::telemetry",
    });
    format!("{line}\n")
}

/// Starts collecting the metrics of a catalogue, once in a process.
pub fn start_metrics(catalogue: &[metric::Metric]) -> Result<PrometheusHandle, TelemetryError> {
    let failed = |error: BuildError| TelemetryError(format!("no metrics: {error}"));
    let handle = PrometheusBuilder::new()
        .set_buckets(&BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(failed)?;
    metric::describe(catalogue);
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_certificate_verifier_are_logged_only_if_the_filter_selects_them() {
        let enables = |filter: &str, target: &str| {
            let targets: Targets = without_repetitions(filter).parse().unwrap();
            targets.would_enable(target, &tracing::Level::ERROR)
        };
        let verifier = "rustls_platform_verifier::verification";
        assert!(!enables("info", verifier));
        assert!(enables("info", "gateway_events::agent"));
        assert!(enables("info,rustls_platform_verifier=error", verifier));
    }
}
