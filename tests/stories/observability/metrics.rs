//! `/metrics` in the format that Prometheus reads: every metric is described, counters exist from the
//! start, and promtool, the checker of Prometheus, has no complaint.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gateway_events::event::Reason;
use gateway_events::metric::{CATALOGUE, Kind};
use serde_json::{Value, json};

use crate::conformance::InboxProgram as _;
use crate::inbox_program::{Program, deployed as inserted};
use crate::support::{Service, deployed};

/// The names of the series, with their labels.
fn series(text: &str) -> BTreeSet<&str> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    samples.map(|line| line.rsplit_once(' ').expect("a value").0).collect()
}

#[track_caller]
fn check(text: &str) {
    let mut promtool = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut input = promtool.stdin.take().expect("a pipe");
    input.write_all(text.as_bytes()).expect("written");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}\n{text}");
}

fn promtool() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("promtool"))
        .find(|program| program.is_file())
        .expect("this story needs promtool; install it: apt-get install -y prometheus")
}

#[tokio::test]
async fn a_new_service_has_all_counters_at_zero() {
    let service = Service::start().await;
    let text = service.metrics().await;
    check(&text);
    let there = series(&text);
    for metric in CATALOGUE.iter().filter(|metric| metric.kind == Kind::Counter) {
        assert!(there.contains(metric.name), "{}", metric.name);
    }
    for reason in Reason::ALL {
        for name in
            ["gateway_events_delivery_failures_total", "gateway_events_connections_closed_total"]
        {
            let line = format!("{name}{{reason=\"{}\"}} 0", reason.as_str());
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
    assert!(
        text.contains("gateway_events_connection_attempts_refused_total{code=\"unauthorized\"} 0")
    );
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("gateway_events_build_info{{version=\"{version}\"}} 1")));
}

/// Every metric of the catalogue has a series from the start, so that a dashboard or an alert does not
/// have to tell "never" from "not measured". Gauges of what only exists later are exceptions.
#[tokio::test]
async fn every_metric_has_a_series_from_the_start() {
    // Without a gateway there is none that is behind.
    // The last one is of Postgres.
    const LATER: [&str; 3] = [
        "gateway_events_gateway_lag_events",
        "gateway_events_gateway_lag_seconds",
        "gateway_events_listening",
    ];
    let service = Service::start().await;
    let text = service.metrics_until(|text| text.contains("\ngateway_events_gateways{")).await;
    check(&text);
    let named = |name: &str| {
        let starts = [name.to_owned(), format!("{name}_count")];
        text.lines().any(|line| {
            starts.iter().any(|start| {
                line.strip_prefix(start.as_str())
                    .is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
            })
        })
    };
    let missing: Vec<_> =
        CATALOGUE.iter().map(|it| it.name).filter(|name| !LATER.contains(name)).collect();
    let missing: Vec<_> = missing.into_iter().filter(|name| !named(name)).collect();
    assert!(missing.is_empty(), "{missing:?}\n{text}");
    for line in [
        "gateway_events_connections{transport=\"websocket\"} 0",
        "gateway_events_dispatch_delay_seconds_count 0",
        "gateway_events_receipt_delay_seconds_count{transport=\"websocket\"} 0",
        "gateway_events_receipt_delay_seconds_count{transport=\"grpc\"} 0",
        "gateway_events_published_events_total{type=\"api.deployed\"} 0",
        "gateway_events_published_events_total{type=\"other\"} 0",
        "gateway_events_delivery_failures_by_type_total{type=\"api.deployed\"} 0",
        "gateway_events_http_request_duration_seconds_count{method=\"POST\",route=\"/api/internal/v1/events\",status=\"202\"} 0",
        "gateway_events_http_request_body_bytes_total{route=\"/api/internal/v1/events\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn delays_gateways_and_lag_are_measured() {
    let service = Service::start_with(&[("METRICS__FURTHEST_BEHIND", "1")]).await;
    let admin = service.admin();
    let (one, key) = service.gateway("one").await;
    let (away, _) = service.gateway("a\"way").await;
    let (near, _) = service.gateway("near").await;
    let socket = service.connected(&key).await.serve();
    admin.post("/events", &deployed(&[&one, &away, &near], "d-1")).await.success();
    admin.post("/events", &deployed(&[&away], "d-2")).await.success();
    service.eventually(&format!("/gateways/{one}"), |gateway| gateway["confirmed"] == 1).await;
    let lag = format!(
        "gateway_events_gateway_lag_events{{gateway=\"a\\\"way\",gateway_id=\"{away}\"}} 2"
    );
    let text = service.metrics_until(|text| text.contains(&lag)).await;
    check(&text);
    for line in [
        "gateway_events_gateways{state=\"connected\"} 1",
        "gateway_events_gateways{state=\"away\"} 2",
        "gateway_events_pending_deliveries 3",
        "gateway_events_dead_letters 0",
        "gateway_events_published_events_total{type=\"api.deployed\"} 2",
        "gateway_events_append_duration_seconds_count 2",
        "gateway_events_dispatch_delay_seconds_count 1",
        "gateway_events_receipt_delay_seconds_count{transport=\"websocket\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let named = text.lines().filter(|line| line.starts_with("gateway_events_gateway_lag_events{"));
    assert_eq!(named.count(), 1, "{text}");
    let described: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let known: BTreeSet<_> = CATALOGUE.iter().map(|metric| metric.name).collect();
    for name in described.iter().filter(|name| !name.starts_with("process_")) {
        assert!(known.contains(name), "{name} is not in the catalogue");
    }
    admin.delete(&format!("/gateways/{one}")).await.success();
    socket.await.expect("closed");
    let closed = "gateway_events_connections_closed_total{reason=\"gateway_deleted\"} 1";
    service.metrics_until(|text| text.contains(closed)).await;
}

/// Events for gateways that are away fail in ranges; all of them are counted by type.
#[tokio::test]
async fn failures_of_whole_ranges_and_events_of_the_inbox_are_counted_by_type() {
    let service = Service::start().await;
    let admin = service.admin();
    let (away, _) = service.gateway("away").await;
    let undeployed = |nth: usize| {
        let mut event = deployed(&[&away], &format!("d-{nth}"));
        event["type"] = json!("api.undeployed");
        event
    };
    let batch: Vec<Value> =
        (0..20)
            .map(|nth| {
                if nth % 4 == 0 { undeployed(nth) } else { deployed(&[&away], &format!("d-{nth}")) }
            })
            .collect();
    admin.post("/events", &json!(batch)).await.success();
    let program = Program::start(&service.database()).await;
    program.insert(&[inserted(&away, "d-20")]).await;
    let failed = |of: &str, count: usize| {
        format!("gateway_events_delivery_failures_by_type_total{{type=\"{of}\"}} {count}")
    };
    let lines = [
        failed("api.undeployed", 5),
        failed("api.deployed", 16),
        failed("other", 0),
        "gateway_events_published_events_total{type=\"api.deployed\"} 16".to_owned(),
        "gateway_events_inbox_appended_total 1".to_owned(),
    ];
    let has_all =
        |text: &str| lines.iter().all(|line| text.lines().any(|found| found == line.as_str()));
    let text = service.metrics_until(has_all).await;
    check(&text);
    for class in ["point", "snapshot", "query"] {
        let name = format!("gateway_events_read_duration_seconds_count{{class=\"{class}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&name));
        assert!(count.is_some_and(|count| count != "0"), "{name}\n{text}");
    }
}
