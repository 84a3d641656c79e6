//! Peers that are silent, stop reading, or are slow.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fault_proxy::{Fault, FaultProxy};
use crate::raw_gateway::{PING, RawGateway};
use crate::support::{Service, deployed};

/// A dead peer is detected within this time after its last activity.
const DETECTED_WITHIN: Duration = Duration::from_secs(30);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(30);

/// A connection that has just confirmed an event.
async fn confirmed(
    service: &Service,
    proxy: &FaultProxy,
    name: &str,
) -> (RawGateway, String, Instant) {
    let (id, key) = service.gateway(name).await;
    let mut gateway = RawGateway::connect(service, proxy.port, &key).await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    gateway.receipt_asked(1).await;
    gateway.pong("1").await;
    let last_activity = Instant::now();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    (gateway, id, last_activity)
}

/// Waits until the service has closed a connection; asserts that it did so in time.
async fn closed_in_time(service: &Service, gateway: &str, last_activity: Instant) -> Value {
    let left = (DETECTED_WITHIN + SLACK).saturating_sub(last_activity.elapsed());
    let path = format!("/gateways/{gateway}/connections");
    let page =
        service.eventually_within(left, &path, |page| page["list"][0]["status"] == "closed").await;
    let live = service.api().get("/connections").await.expect("connections");
    let is_live = |live: &Value| live["gatewayId"] == *gateway;
    assert!(!live["list"].as_array().expect("a list").iter().any(is_live), "{live:#}");
    page["list"][0].clone()
}

/// With the default settings: peers that hang while their host is alive, peers behind a cut line
/// with nothing unconfirmed, with an event that never arrived, and with one that they were
/// handling.
#[tokio::test]
async fn a_dead_peer_is_disconnected_within_thirty_seconds_of_its_last_activity() {
    const PEERS: usize = 20;
    const PEERS_PER_CASE: usize = 3;
    let service = Service::start().await;
    let (hung, cut) = (FaultProxy::to(service.port).await, FaultProxy::to(service.port).await);
    let mut silent = Vec::new();
    for number in 0..PEERS {
        silent.push(confirmed(&service, &hung, &format!("hung-{number}")).await);
    }
    let (mut idle, mut unreached, mut at_work) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..PEERS_PER_CASE {
        idle.push(confirmed(&service, &cut, &format!("cut-{number}")).await);
        unreached.push(confirmed(&service, &cut, &format!("unreached-{number}")).await);
        let (mut gateway, id, _) = confirmed(&service, &cut, &format!("at-work-{number}")).await;
        service.api().post("/events", &deployed(&[&id], "d-2")).await.expect("accepted");
        gateway.receipt_asked(2).await;
        // The acknowledgement of the segment was the host's last activity.
        at_work.push((gateway, id, Instant::now()));
    }
    hung.set_fault(Fault::Discard);
    cut.set_fault(Fault::BlackHole);
    for (_, id, _) in &unreached {
        service.api().post("/events", &deployed(&[id], "d-2")).await.expect("accepted");
    }
    for (_, id, last_activity) in &silent {
        let connection = closed_in_time(&service, id, *last_activity).await;
        assert_eq!(connection["closeReason"], "heartbeat_timeout", "{connection:#}");
    }
    for (_, id, last_activity) in &idle {
        let connection = closed_in_time(&service, id, *last_activity).await;
        // The kernel may be the one that notices.
        let reason = &connection["closeReason"];
        assert!(reason == "heartbeat_timeout" || reason == "connection_lost", "{connection:#}");
    }
    for (_, id, last_activity) in unreached.iter().chain(&at_work) {
        let connection = closed_in_time(&service, id, *last_activity).await;
        assert_eq!(connection["closeReason"], "connection_lost", "{connection:#}");
        let path = format!("/deliveries?gatewayId={id}");
        let failed = crate::support::get(&service.api(), &path).await.expect("a page");
        assert_eq!(failed["list"][0]["reason"], "connection_lost", "{failed:#}");
        assert_eq!(failed["list"][0]["sequence"], 2);
    }
}

/// A payload of about this many bytes.
fn large(gateway: &str, bytes: usize) -> Value {
    json!({"type": "gateway.config.updated", "gatewayIds": [gateway],
           "payload": {"configType": "x".repeat(bytes), "action": "update"}})
}

/// Resident memory of the service, in bytes.
fn resident(service: &Service) -> u64 {
    let path = format!("/proc/{}/status", service.pid());
    let status = std::fs::read_to_string(path).expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_disconnected_and_affects_no_other() {
    const EVENTS: i64 = 100;
    const BYTES: usize = 300_000;
    /// Half of its backlog.
    const BOUND: u64 = 15_000_000;
    let service = Service::start_with(&[("DELIVERY__WRITE_TIMEOUT", "10s")]).await;
    let (slow, slow_key) = service.gateway("slow").await;
    let (other, other_key) = service.gateway("other").await;
    let mut healthy = RawGateway::connect(&service, service.port, &other_key).await;
    let api = service.api();
    let backlog: Vec<Value> = (1..EVENTS).map(|_| large(&slow, BYTES)).collect();
    for few in backlog.chunks(50) {
        api.post("/events", &json!(few)).await.expect("accepted");
    }
    let before = resident(&service);
    // Nothing is read from it, until its buffers and ours are full.
    let stuck = RawGateway::connect(&service, service.port, &slow_key).await;
    for sequence in 1..=5 {
        api.post("/events", &deployed(&[&other], "d")).await.expect("accepted");
        assert_eq!(healthy.event().await["sequence"], sequence);
        healthy.receipt_asked(sequence).await;
        healthy.pong(&sequence.to_string()).await;
    }
    let grown = resident(&service).saturating_sub(before);
    assert!(grown < BOUND, "{grown} bytes more for one peer that does not read");
    api.post("/events", &large(&slow, BYTES)).await.expect("accepted");
    let path = format!("/gateways/{slow}/connections");
    let past = api.get(&path).await.expect("connections");
    assert_eq!(
        past["list"][0]["status"], "connected",
        "the slow connection was closed before the other gateway had received its events"
    );
    let past = service.eventually(&path, |page| page["list"][0]["status"] == "closed").await;
    assert_eq!(past["list"][0]["closeReason"], "write_timeout", "{past:#}");
    drop(stuck);
    let mut back = RawGateway::connect(&service, service.port, &slow_key).await;
    for sequence in 1..=EVENTS {
        let event = back.event().await;
        assert_eq!(event["sequence"], sequence);
        assert_eq!(event["payload"]["configType"].as_str().map(str::len), Some(BYTES));
        back.receipt_asked(sequence).await;
        back.pong(&sequence.to_string()).await;
    }
}

/// Waits for this many pings of an idle connection.
async fn pings(clock: &mut RawGateway, count: usize) {
    let mut seen = 0;
    let counted = |frame: &crate::raw_gateway::Frame| {
        seen += usize::from(frame.opcode == PING);
        seen == count
    };
    clock.handle_until(counted).await;
    assert_eq!(seen, count, "the connection ended first");
}

#[tokio::test]
async fn a_handler_that_outlasts_the_heartbeat_timeout_is_still_pinged_and_confirms() {
    let service = Service::start_with(&[
        ("DELIVERY__HEARTBEAT_INTERVAL", "500ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "2s"),
    ])
    .await;
    let (id, key) = service.gateway("slow").await;
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let began = Instant::now();
    gateway.receipt_asked(1).await;
    // Nine intervals: 4.5 s. None is answered, because the handler is still running.
    for _ in 0..9 {
        let ping = gateway.next_of(PING).await.expect("pings go on");
        assert_eq!(ping.payload, b"1");
    }
    assert!(began.elapsed() > Duration::from_secs(4));
    let shown = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!((&shown["connected"], &shown["confirmed"]), (&json!(true), &json!(0)));
    gateway.pong("1").await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    // The next one arrives on the same connection.
    service.api().post("/events", &deployed(&[&id], "d-2")).await.expect("accepted");
    assert_eq!(gateway.event().await["sequence"], 2);
}

/// A gateway that handles an event reads nothing meanwhile. Neither the service nor the kernel must
/// mistake it for a peer that has stopped reading.
#[tokio::test]
async fn a_slow_handler_with_a_backlog_is_not_disconnected() {
    const EVENTS: i64 = 200;
    let service = Service::start_with(&[
        ("DELIVERY__HEARTBEAT_INTERVAL", "250ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "1s"),
        ("DELIVERY__WRITE_TIMEOUT", "1s"),
    ])
    .await;
    let (id, key) = service.gateway("slow").await;
    let (_, clock_key) = service.gateway("clock").await;
    let batch: Vec<Value> = (0..EVENTS).map(|_| large(&id, 8_000)).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    let mut gateway = RawGateway::connect(&service, service.port, &key).await;
    assert_eq!(gateway.event().await["sequence"], 1);
    // Connect the clock only now: its pings go unanswered until `pings` runs.
    let mut clock = RawGateway::connect(&service, service.port, &clock_key).await;
    pings(&mut clock, 9).await;
    let mut expected = 2;
    gateway
        .handle_until(|frame| {
            if frame.opcode == crate::raw_gateway::TEXT {
                assert_eq!(frame.json()["sequence"], expected);
                expected += 1;
            }
            expected > EVENTS
        })
        .await;
    assert_eq!(expected, EVENTS + 1, "the connection ended first\n{}", service.log());
}
