//! `/metrics` in the format that Prometheus reads: every metric is described, counters exist from the
//! start, and promtool, the checker of Prometheus, has no complaint.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use gateway_events::event::Reason;
use gateway_events::metric::{CATALOGUE, Kind};

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
    assert!(text.contains("gateway_events_upgrades_refused_total{code=\"unauthorized\"} 0"));
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.contains(&format!("gateway_events_build_info{{version=\"{version}\"}} 1")));
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
