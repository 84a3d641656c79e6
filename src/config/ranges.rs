//! Ranges of numbers and durations: values of zero that make no sense, and values that would
//! break a guarantee of the service, are refused.

use std::time::Duration;

use bytesize::ByteSize;

use super::origins::Origins;
use super::{Config, ConfigError};

/// The guaranteed time in which a dead gateway is detected.
const DETECTION: Duration = Duration::from_secs(30);

/// The guaranteed time in which failures are recorded.
const MAX_GRACE: Duration = Duration::from_mins(1);

/// Two heartbeats of a node, which are sent every 5 s.
const MIN_NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest timeout or interval. The clock that measures them can't represent much longer ones.
const MAX_TIMEOUT: Duration = Duration::from_hours(30 * 24);

/// The most connections of one kind to the database.
const MAX_CONNECTIONS: u32 = 10_000;

/// The most events that may wait to be committed.
const MAX_QUEUED_EVENTS: usize = 10_000_000;

/// More memory than any machine has.
const MAX_MEMORY: ByteSize = ByteSize::tib(1);

/// A write-ahead log that is truncated at less than this would be truncated constantly.
const MIN_WAL: ByteSize = ByteSize::mib(1);

/// Checks all ranges; the error names the first setting outside of its range.
pub(super) fn check(config: &Config, origins: &Origins<'_>) -> Result<(), ConfigError> {
    check_counts(config, origins)?;
    check_durations(config, origins)?;
    let Config { server, limits, database, .. } = config;
    let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
    if server.body_memory.as_u64() < server.body_limit.as_u64().saturating_mul(2) {
        return refuse("server.body_memory", "must be at least twice server.body_limit");
    }
    if !(limits.event_bytes..=MAX_MEMORY).contains(&database.queue_bytes) {
        return refuse(
            "database.queue_bytes",
            "must be at least limits.event_bytes, and at most \"1TiB\"",
        );
    }
    if database.max_wal_bytes < MIN_WAL {
        return refuse("database.max_wal_bytes", "must be at least \"1MiB\"");
    }
    Ok(())
}

fn check_counts(config: &Config, origins: &Origins<'_>) -> Result<(), ConfigError> {
    let Config { server, delivery, reliable, database, retention, .. } = config;
    let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
    for (key, is_positive) in [
        ("server.max_pending_handshakes", server.max_pending_handshakes > 0),
        ("server.max_http_connections", server.max_http_connections > 0),
        ("delivery.max_connections", delivery.max_connections > 0),
        ("delivery.max_connections_per_gateway", delivery.max_connections_per_gateway > 0),
        ("delivery.max_attempts", delivery.max_attempts > 0),
        ("delivery.window_events", delivery.window_events > 0),
        ("delivery.window_bytes", delivery.window_bytes.as_u64() > 0),
        ("reliable.window", reliable.window > 0),
        ("reliable.window_bytes", reliable.window_bytes.as_u64() > 0),
        ("database.connections", database.connections > 0),
        ("database.readers", database.readers > 0),
        ("database.query_connections", database.query_connections > 0),
        ("database.queue_events", database.queue_events > 0),
        ("retention.max_events", retention.max_events > 0),
    ] {
        if !is_positive {
            return refuse(key, "must be at least 1");
        }
    }
    for (key, count, most) in [
        ("database.connections", database.connections, MAX_CONNECTIONS),
        ("database.readers", database.readers, MAX_CONNECTIONS),
        ("database.query_connections", database.query_connections, MAX_CONNECTIONS),
    ] {
        if count > most {
            return refuse(key, &format!("must be at most {most}"));
        }
    }
    if database.queue_events > MAX_QUEUED_EVENTS {
        return refuse("database.queue_events", &format!("must be at most {MAX_QUEUED_EVENTS}"));
    }
    Ok(())
}

fn check_durations(config: &Config, origins: &Origins<'_>) -> Result<(), ConfigError> {
    let Config { server, delivery, reliable, database, retention, shutdown, .. } = config;
    let refuse = |key: &str, why: &str| Err(origins.refuse(key, why.to_owned()));
    for (key, duration) in [
        ("server.handshake_timeout", server.handshake_timeout),
        ("server.header_timeout", server.header_timeout),
        ("server.idle_timeout", server.idle_timeout),
        ("server.request_timeout", server.request_timeout),
        ("delivery.heartbeat_interval", delivery.heartbeat_interval),
        ("reliable.hello_timeout", reliable.hello_timeout),
        ("reliable.heartbeat_interval", reliable.heartbeat_interval),
        ("reliable.instance_ttl", reliable.instance_ttl),
        ("delivery.confirmation_timeout", delivery.confirmation_timeout),
        ("delivery.write_timeout", delivery.write_timeout),
        ("database.query_timeout", database.query_timeout),
        ("retention.max_age", retention.max_age),
        ("retention.audit", retention.audit),
    ] {
        if duration.is_zero() {
            return refuse(key, "must be longer than \"0s\", such as \"10s\"");
        }
    }
    for (key, duration) in [
        ("server.handshake_timeout", server.handshake_timeout),
        ("server.header_timeout", server.header_timeout),
        ("server.idle_timeout", server.idle_timeout),
        ("server.request_timeout", server.request_timeout),
        ("delivery.confirmation_timeout", delivery.confirmation_timeout),
        ("delivery.write_timeout", delivery.write_timeout),
        ("database.query_timeout", database.query_timeout),
        ("database.node_timeout", database.node_timeout),
        ("retention.interval", retention.interval),
        ("shutdown.drain", shutdown.drain),
        ("shutdown.grace", shutdown.grace),
    ] {
        if duration > MAX_TIMEOUT {
            return refuse(key, "must be at most \"30d\"");
        }
    }
    if database.node_timeout < MIN_NODE_TIMEOUT {
        return refuse("database.node_timeout", "must be at least \"10s\"");
    }
    if delivery.not_connected_grace > MAX_GRACE {
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
    if reliable.hello_timeout > MAX_GRACE {
        return refuse("reliable.hello_timeout", "must be at most \"1m\"");
    }
    Ok(())
}
