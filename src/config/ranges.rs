//! Ranges of numbers and durations: values of zero that make no sense, and values that would
//! break a guarantee of the service, are refused.

use std::time::Duration;

use super::origins::Origins;
use super::{Config, ConfigError};

/// The guaranteed time in which a dead gateway is detected.
const DETECTION: Duration = Duration::from_secs(30);

/// The guaranteed time in which failures are recorded.
const LONGEST_GRACE: Duration = Duration::from_mins(1);

/// Two heartbeats of a node, which are sent every 5 s.
const SHORTEST_NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks all ranges; the error names the first setting outside of its range.
pub(super) fn check(config: &Config, origins: &Origins<'_>) -> Result<(), ConfigError> {
    let Config { server, delivery, database, retention, .. } = config;
    let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
    for (key, is_positive) in [
        ("server.max_pending_handshakes", server.max_pending_handshakes > 0),
        ("server.max_http_connections", server.max_http_connections > 0),
        ("delivery.max_connections", delivery.max_connections > 0),
        ("delivery.max_connections_per_gateway", delivery.max_connections_per_gateway > 0),
        ("delivery.max_attempts", delivery.max_attempts > 0),
        ("delivery.window_events", delivery.window_events > 0),
        ("delivery.window_bytes", delivery.window_bytes.as_u64() > 0),
        ("database.readers", database.readers > 0),
        ("database.queue_events", database.queue_events > 0),
        ("retention.max_events", retention.max_events > 0),
    ] {
        if !is_positive {
            return refuse(key, "must be at least 1");
        }
    }
    for (key, duration) in [
        ("server.handshake_timeout", server.handshake_timeout),
        ("server.header_timeout", server.header_timeout),
        ("server.idle_timeout", server.idle_timeout),
        ("server.request_timeout", server.request_timeout),
        ("delivery.heartbeat_interval", delivery.heartbeat_interval),
        ("delivery.confirmation_timeout", delivery.confirmation_timeout),
        ("delivery.write_timeout", delivery.write_timeout),
        ("retention.max_age", retention.max_age),
    ] {
        if duration.is_zero() {
            return refuse(key, "must be longer than \"0s\", such as \"10s\"");
        }
    }
    if server.body_memory.as_u64() < server.body_limit.as_u64().saturating_mul(2) {
        return refuse("server.body_memory", "must be at least twice server.body_limit");
    }
    if database.node_timeout < SHORTEST_NODE_TIMEOUT {
        return refuse("database.node_timeout", "must be at least \"10s\"");
    }
    if delivery.not_connected_grace > LONGEST_GRACE {
        return refuse("delivery.not_connected_grace", "must be at most \"1m\"");
    }
    if delivery.heartbeat_timeout > DETECTION {
        return refuse("delivery.heartbeat_timeout", "must be at most \"30s\"");
    }
    if delivery.heartbeat_timeout <= delivery.heartbeat_interval {
        return refuse(
            "delivery.heartbeat_timeout",
            "must be longer than delivery.heartbeat_interval, so that gateways have time to answer",
        );
    }
    Ok(())
}
