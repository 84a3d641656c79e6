//! Metrics that no single request or delivery causes: the version, the process, the state of all
//! gateways, and the counters of every label value, which exist from the start at 0.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics_process::Collector;

use crate::api::AlertSeverity;
use crate::dispatch::INVALID_MESSAGES;
use crate::event::Reason;
use crate::http::REFUSAL_CODES;
use crate::jobs::{Job, Next};
use crate::metric;
use crate::store::{Fleet, GatewayLag, Gateways, RejectionReason, StoreError};
use crate::transport;

/// The interval of the measurement, which reads one row per gateway.
pub(super) const INTERVAL: Duration = Duration::from_secs(15);

/// Creates the metrics that are known at the start.
pub(super) fn create() {
    metrics::gauge!(metric::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let reasons = || Reason::ALL.iter().map(|reason| reason.as_str());
    metric::create(metric::DELIVERY_FAILURES, "reason", reasons());
    metric::create(metric::CONNECTIONS_CLOSED, "reason", reasons());
    let rejections = RejectionReason::ALL.iter().map(|reason| reason.as_str());
    metric::create(metric::INBOX_REJECTED, "reason", rejections);
    let refusals = REFUSAL_CODES.iter().map(|code| code.as_str());
    metric::create(metric::CONNECTION_ATTEMPTS_REFUSED, "code", refusals);
    metric::create(metric::AUTHENTICATION_FAILURES, "kind", ["gateway_key", "access_token"]);
    metric::create(metric::UNMATCHED_EVENTS, "source", ["http", "inbox"]);
    metric::create(metric::INVALID_MESSAGES, "what", INVALID_MESSAGES.iter().copied());
    metric::create_histograms(metric::READ_DURATION, "class", ["point", "snapshot", "query"]);
    metric::create_histograms(metric::RECEIPT_DELAY, "transport", transport::NAMES);
    for transport in transport::NAMES {
        metrics::gauge!(metric::CONNECTIONS, "transport" => transport).increment(0.0);
    }
    metric::create(metric::ALERT_ATTEMPTS, "outcome", ["delivered", "failed", "given_up"]);
    for severity in AlertSeverity::ALL {
        metrics::gauge!(metric::ALERTS_FIRING, "severity" => severity.as_str()).set(0.0);
    }
    metric::create_unlabelled(
        &[
            metric::APPEND_DURATION,
            metric::TRANSACTION_DURATION,
            metric::DISPATCH_DELAY,
            metric::ALERT_EVALUATION_DURATION,
        ],
        &[
            metric::FEEDS,
            metric::WRITER_QUEUE,
            metric::RECORDER_QUEUE,
            metric::COMPUTE_QUEUE,
            metric::BULK_JOBS_RUNNING,
        ],
    );
}

/// The metrics of gateways that are furthest behind, in the text format. They are not in the
/// recorder, which can't remove the metric of a gateway that has caught up.
#[derive(Clone, Debug, Default)]
pub(super) struct Lag(Arc<Mutex<String>>);

impl Lag {
    /// The metrics in the text format, after all others. They are set last, so they are read first:
    /// the others are as new.
    pub(super) fn render_after(&self, others: impl FnOnce() -> String) -> String {
        let lag = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        others() + &lag
    }

    fn set(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// Measures the process and all gateways.
pub(super) struct Measure {
    store: Arc<dyn Gateways>,
    process: Collector,
    lag: Lag,
    /// How many gateways are named.
    furthest_behind: usize,
}

impl Measure {
    pub(super) fn new(store: Arc<dyn Gateways>, lag: Lag, furthest_behind: usize) -> Self {
        let process = Collector::default();
        process.describe();
        process.collect();
        Self { store, process, lag, furthest_behind }
    }
}

impl Job for Measure {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        self.process.collect();
        let fleet = self.store.fleet(self.furthest_behind).await?;
        for (state, count) in
            [("connected", fleet.connected), ("away", fleet.away), ("disabled", fleet.disabled)]
        {
            metrics::gauge!(metric::GATEWAYS, "state" => state).set(approximate(count));
        }
        metrics::gauge!(metric::GATEWAYS_FAILING).set(approximate(fleet.failing));
        metrics::gauge!(metric::PENDING_DELIVERIES).set(approximate(fleet.pending));
        metrics::gauge!(metric::DEAD_LETTERS).set(approximate(fleet.dead_letters));
        self.lag.set(lag_text(&fleet));
        Ok(Next::Wait)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact")]
fn approximate(count: u64) -> f64 {
    count as f64
}

/// The lag of each gateway in the [text format].
///
/// [text format]: https://prometheus.io/docs/instrumenting/exposition_formats/
fn lag_text(fleet: &Fleet) -> String {
    let mut text = String::new();
    series(&mut text, metric::GATEWAY_LAG, fleet, |lag| lag.events);
    series(&mut text, metric::GATEWAY_LAG_AGE, fleet, |lag| lag.age.as_secs());
    text
}

/// A value of each gateway that is furthest behind.
fn series(text: &mut String, name: &str, fleet: &Fleet, value: impl Fn(&GatewayLag) -> u64) {
    let help = metric::CATALOGUE.iter().find(|metric| metric.name == name);
    let help = help.map_or("", |metric| metric.help.trim());
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for lag in &fleet.furthest_behind {
        let (id, gateway, value) = (lag.id, escaped(&lag.name), value(lag));
        let _ = writeln!(text, "{name}{{gateway=\"{gateway}\",gateway_id=\"{id}\"}} {value}");
    }
}

/// The value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::GatewayId;

    #[test]
    fn names_cannot_end_their_label() {
        let id = GatewayId::new();
        let age = Duration::from_millis(9_999);
        let lag = GatewayLag { id, name: "a\"} 1\n\\".to_owned(), events: 7, age };
        let text = lag_text(&Fleet { furthest_behind: vec![lag], ..Fleet::default() });
        let line = text.lines().nth(2).unwrap();
        let name = metric::GATEWAY_LAG;
        assert_eq!(line, format!(r#"{name}{{gateway="a\"}} 1\n\\",gateway_id="{id}"}} 7"#));
        let line = text.lines().nth(5).unwrap();
        assert!(line.starts_with(metric::GATEWAY_LAG_AGE) && line.ends_with("} 9"), "{line}");
        assert_eq!(text.lines().count(), 6);
    }
}
