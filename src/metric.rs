//! The catalogue of metrics: their names and what they measure. `/metrics` has a HELP line for
//! each of them, and counters without labels are there from the start, at 0.

mod types;

pub use types::TypeCounters;

/// Defines a constant per metric and [`CATALOGUE`]. The documentation of a metric is its help text.
macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $kind:ident $name:ident = $text:literal;)+) => {
        $($(#[doc = $help])+ pub const $name: &str = $text;)+

        /// All metrics of the service, besides those of the process.
        pub const CATALOGUE: &[Metric] =
            &[$(Metric { name: $text, kind: Kind::$kind, help: concat!($($help),+) }),+];
    };
}

/// An entry of the catalogue of metrics.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it measures.
    pub help: &'static str,
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A counter without labels.
    Counter,
    /// A counter with labels.
    Counters,
    /// A gauge.
    Gauge,
    /// A histogram of seconds.
    Histogram,
}

catalogue! {
    // The service.
    /// Always 1; its label says which version runs.
    Gauge BUILD_INFO = "gateway_events_build_info";
    /// When the certificate in use, or the one that signed it, expires, in seconds since 1970.
    Gauge CERTIFICATE_EXPIRES = "gateway_events_certificate_expires_timestamp_seconds";
    /// Log lines that were dropped because they could not be written.
    Counter LOG_LINES_DROPPED = "gateway_events_log_lines_dropped_total";
    /// Batches of spans that could not be exported.
    Counter OTLP_EXPORT_FAILURES = "gateway_events_otlp_export_failures_total";
    /// Completed runs of background jobs, by task: the name of the job.
    Counters JOB_RUNS = "gateway_events_job_runs_total";
    /// Failed runs of background jobs, by task.
    Counters JOB_FAILURES = "gateway_events_job_failures_total";
    /// Runs of background jobs that panicked, by task.
    Counters JOB_RESTARTS = "gateway_events_job_restarts_total";
    /// How often runs of background jobs did not end in time, by task.
    Counters JOB_OVERDUE = "gateway_events_job_overdue_total";
    /// Redrives and replays of many deliveries that are running, the same on each node.
    Gauge BULK_JOBS_RUNNING = "gateway_events_bulk_jobs_running";

    // HTTP.
    /// Time from a request's headers to its response's, by method, route template and status.
    Histogram HTTP_REQUEST_DURATION = "gateway_events_http_request_duration_seconds";
    /// HTTP requests that have no response yet.
    Gauge HTTP_REQUESTS_IN_FLIGHT = "gateway_events_http_requests_in_flight";
    /// Open feeds (`GET /feed`).
    Gauge FEEDS = "gateway_events_feeds";
    /// Bytes of request bodies, by route template, as announced in Content-Length.
    Counters HTTP_REQUEST_BYTES = "gateway_events_http_request_body_bytes_total";
    /// Bytes of response bodies of known length, by route template.
    Counters HTTP_RESPONSE_BYTES = "gateway_events_http_response_body_bytes_total";
    /// New connections that were closed because all places were in use.
    Counter HTTP_CONNECTIONS_REFUSED = "gateway_events_http_connections_refused_total";
    /// Idle connections that were closed to admit new ones.
    Counter HTTP_CONNECTIONS_EVICTED = "gateway_events_http_connections_evicted_total";
    /// Requests that were refused because server.body_memory was in use.
    Counter BODIES_REFUSED = "gateway_events_bodies_refused_total";
    /// Refused credentials, by kind.
    Counters AUTHENTICATION_FAILURES = "gateway_events_authentication_failures_total";

    // Publishing.
    /// Events accepted by POST /events or moved from the inbox, repeats included, by type; after 200
    /// types, `other`.
    Counters PUBLISHED_EVENTS = "gateway_events_published_events_total";
    /// Accepted events whose target matched no gateway, by source.
    Counters UNMATCHED_EVENTS = "gateway_events_unmatched_events_total";
    /// Computations, such as validations of large payloads, that wait for a thread.
    Gauge COMPUTE_QUEUE = "gateway_events_compute_queue_length";
    /// Validations of payloads that were stopped because they took too long.
    Counter VALIDATIONS_STOPPED = "gateway_events_validations_stopped_total";
    /// Rows of the inbox that were moved to the log.
    Counter INBOX_APPENDED = "gateway_events_inbox_appended_total";
    /// Rows of the inbox that were rejected, by reason.
    Counters INBOX_REJECTED = "gateway_events_inbox_rejected_total";
    /// Rows in the inbox; 100000 means that many or more.
    Gauge INBOX_DEPTH = "gateway_events_inbox_depth";
    /// Age of the oldest row in the inbox.
    Gauge INBOX_OLDEST = "gateway_events_inbox_oldest_seconds";

    // The store.
    /// Time from handing valid events to the writer to their durable commit, per request.
    Histogram APPEND_DURATION = "gateway_events_append_duration_seconds";
    /// Time of each transaction of the writer, which commits a group of requests.
    Histogram TRANSACTION_DURATION = "gateway_events_transaction_duration_seconds";
    /// Time of each read of the database, by class: `point` (few rows), `snapshot` (of background
    /// jobs), `query` (of the API); waiting for a connection included.
    Histogram READ_DURATION = "gateway_events_read_duration_seconds";
    /// Requests that wait for the writer.
    Gauge WRITER_QUEUE = "gateway_events_writer_queue_length";
    /// Free space on the database's disk; only with SQLite.
    Gauge DISK_FREE = "gateway_events_disk_free_bytes";
    /// 1 while notifications of other nodes arrive (LISTEN), 0 while this node polls for their events
    /// instead, by channel; only with Postgres, and if this node is configured to listen.
    Gauge LISTENING = "gateway_events_listening";
    /// Size of SQLite's write-ahead log.
    Gauge WAL_SIZE = "gateway_events_wal_bytes";
    /// Changes of the database's clock that were noticed.
    Counter CLOCK_JUMPS = "gateway_events_clock_jumps_total";
    /// How often another node declared this one dead.
    Counter NODE_DECLARED_DEAD = "gateway_events_node_declared_dead_total";
    /// Heartbeats of this node that could not be stored.
    Counter NODE_HEARTBEAT_FAILURES = "gateway_events_node_heartbeat_failures_total";
    /// Nodes that this one declared dead.
    Counter NODES_LOST = "gateway_events_nodes_lost_total";

    // Delivery.
    /// Open connections of gateways to this node, by transport.
    Gauge CONNECTIONS = "gateway_events_connections";
    /// Connections of gateways that ended, by reason.
    Counters CONNECTIONS_CLOSED = "gateway_events_connections_closed_total";
    /// Refused attempts of gateways to connect, by code.
    Counters CONNECTION_ATTEMPTS_REFUSED = "gateway_events_connection_attempts_refused_total";
    /// Events handed to a connection.
    Counter EVENTS_WRITTEN = "gateway_events_events_written_total";
    /// Confirmed events that reconnects repeat, because another replica may lack them.
    Counter CONFIRMED_EVENTS_REPEATED = "gateway_events_confirmed_events_repeated_total";
    /// Deliveries that gateways have confirmed.
    Counter RECEIPTS = "gateway_events_receipts_total";
    /// Time from the commit of an event to handing it to a connection, of events that this node
    /// appended while the gateway was connected and had no backlog.
    Histogram DISPATCH_DELAY = "gateway_events_dispatch_delay_seconds";
    /// Time from handing an event to a connection to its receipt, by transport.
    Histogram RECEIPT_DELAY = "gateway_events_receipt_delay_seconds";
    /// Failed deliveries, by reason.
    Counters DELIVERY_FAILURES = "gateway_events_delivery_failures_total";
    /// Failed deliveries, by event type; `other` after 200 types, of events that retention has removed,
    /// and of deliveries beyond the first 5,000 that fail at once.
    Counters DELIVERY_FAILURES_BY_TYPE = "gateway_events_delivery_failures_by_type_total";
    /// Outcomes of deliveries that wait to be recorded.
    Gauge RECORDER_QUEUE = "gateway_events_recorder_queue_length";
    /// Deliveries whose outcome is unknown; they are sent again.
    Counter DELIVERY_UNKNOWN = "gateway_events_delivery_unknown_total";
    /// Invalid messages from gateways, by kind.
    Counters INVALID_MESSAGES = "gateway_events_invalid_messages_total";
    /// Outcomes of deliveries that could not be stored, whose events are delivered again, and
    /// reports that could not be matched.
    Counter OUTCOMES_DISCARDED = "gateway_events_outcomes_discarded_total";

    // Alerts.
    /// Firing alerts of all organisations, by severity, on the node that evaluates rules; 0 on others.
    Gauge ALERTS_FIRING = "gateway_events_alerts_firing";
    /// Time of an evaluation of all rules.
    Histogram ALERT_EVALUATION_DURATION = "gateway_events_alert_evaluation_duration_seconds";
    /// Alert rules that could not be evaluated, once per evaluation.
    Counter ALERT_RULE_FAILURES = "gateway_events_alert_rule_failures_total";
    /// Attempts to send notifications about alerts, by outcome: `delivered`, `failed` (another one follows),
    /// `given_up`.
    Counters ALERT_ATTEMPTS = "gateway_events_alert_attempts_total";

    // The fleet, from the database: the same on each node.
    /// Registered gateways, by state: `connected`, `away`, `disabled`.
    Gauge GATEWAYS = "gateway_events_gateways";
    /// Gateways whose verdict is `failing`: they do not handle what they are sent.
    Gauge GATEWAYS_FAILING = "gateway_events_gateways_failing";
    /// Sequences after the confirmed positions of all gateways.
    Gauge PENDING_DELIVERIES = "gateway_events_pending_deliveries";
    /// Deliveries that were given up and not redriven.
    Gauge DEAD_LETTERS = "gateway_events_dead_letters";
    /// Sequences after the confirmed position, of the gateways that are furthest behind.
    Gauge GATEWAY_LAG = "gateway_events_gateway_lag_events";
    /// Age of the oldest event that is pending, of the same gateways; 0 if none is.
    Gauge GATEWAY_LAG_AGE = "gateway_events_gateway_lag_seconds";
}

/// Describes metrics to the recorder, and creates counters without labels.
pub fn describe(catalogue: &[Metric]) {
    for metric in catalogue {
        let (name, help) = (metric.name, metric.help.trim_start());
        match metric.kind {
            Kind::Counter => {
                metrics::describe_counter!(name, help);
                metrics::counter!(name).increment(0);
            }
            Kind::Counters => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::Histogram => metrics::describe_histogram!(name, metrics::Unit::Seconds, help),
        }
    }
}

/// The label of event types that are not counted apart.
pub const OTHER_TYPES: &str = "other";

/// Creates histograms without labels, and gauges that begin at 0.
pub fn create_unlabelled(histograms: &[&'static str], gauges: &[&'static str]) {
    for name in histograms {
        // Registered by this, with no sample.
        let _ = metrics::histogram!(*name);
    }
    for name in gauges {
        metrics::gauge!(*name).increment(0.0);
    }
}

/// Creates the histograms of a metric for all values of its label.
pub fn create_histograms(
    name: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) {
    for value in values {
        let _ = metrics::histogram!(name, label => value);
    }
}

/// Creates the counters of a metric for all values of its label.
pub fn create(
    name: &'static str,
    label: &'static str,
    values: impl IntoIterator<Item = &'static str>,
) {
    for value in values {
        metrics::counter!(name, label => value).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions_of_prometheus() {
        let names: BTreeSet<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        for metric in CATALOGUE {
            let is_counter = matches!(metric.kind, Kind::Counter | Kind::Counters);
            assert_eq!(metric.name.ends_with("_total"), is_counter, "{}", metric.name);
            assert!(metric.kind != Kind::Histogram || metric.name.ends_with("_seconds"));
            assert!(metric.help.trim_end().ends_with('.'), "{}", metric.name);
        }
    }
}
