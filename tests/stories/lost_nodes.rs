//! A node that is cut off from its database for so long that the others declare it dead, and
//! recovers.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]
#![expect(clippy::print_stdout, reason = "measured durations, shown with --nocapture")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use gateway_events::store::postgres::verify;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::fault_proxy::{Fault, FaultProxy};
use crate::server::Database;
use crate::store_postgres::options;
use crate::support::{Service, TEST_TIMEOUT, deployed, get};

/// The minimum, and time for the heartbeats and searches around it.
const NODE_TIMEOUT: &str = "10s";
const DECLARED_DEAD_WITHIN: Duration = Duration::from_mins(1);

/// Makes the tests' server reachable by TCP: it only listens on a Unix socket.
struct Bridge {
    port: u16,
    accepting: JoinHandle<()>,
}

impl Bridge {
    async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(forward(near, socket.clone()));
            }
        });
        Self { port, accepting }
    }
}

async fn forward(mut near: TcpStream, socket: PathBuf) {
    let mut far = UnixStream::connect(socket).await.expect("the server listens");
    // When one direction ends, both end.
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn status_of(nodes: &serde_json::Value, address: &str) -> String {
    let all = nodes["list"].as_array().unwrap();
    let node = all.iter().find(|node| node["address"].as_str().unwrap().ends_with(address));
    node.unwrap_or_else(|| panic!("{nodes:#}"))["status"].as_str().unwrap().to_owned()
}

async fn failures(node: &Service, gateway: &str) -> Vec<(i64, String)> {
    let path = format!("/deliveries?status=failed&gatewayId={gateway}");
    let page = get(&node.api(), &path).await.unwrap();
    let all = page["list"].as_array().unwrap().iter();
    let mut all: Vec<_> = all
        .map(|one| (one["sequence"].as_i64().unwrap(), one["reason"].as_str().unwrap().to_owned()))
        .collect();
    all.sort();
    all
}

async fn a_node_that_was_cut_off_recovers(fault: Fault) {
    let database = Database::new();
    let bridge = Bridge::to(database.socket_directory().join(".s.PGSQL.5432")).await;
    let proxy = FaultProxy::to(bridge.port).await;
    let mut other = Service::start_with(&[
        ("DATABASE__URL", &database.url()),
        ("DATABASE__NODE_TIMEOUT", NODE_TIMEOUT),
    ])
    .await;
    let proxied_url =
        format!("postgres://postgres@127.0.0.1:{}/{}?sslmode=disable", proxy.port, database.name());
    let mut cut = other.another_with(&[("DATABASE__URL", &proxied_url)]).await;
    let (id, key) = other.gateway("served").await;
    let (busy, busy_key) = other.gateway("busy").await;
    let api = other.api();
    let address = format!(":{}", cut.port);

    // One gateway confirms what it receives; the other one is still handling it.
    let mut socket = cut.connected(&key).await;
    let mut busy_socket = cut.connected(&busy_key).await;
    api.post("/events", &deployed(&[&id], "d-1")).await.unwrap();
    let in_flight = api.post("/events", &deployed(&[&busy], "d-1")).await.unwrap();
    socket.expect(1..=1).await;
    busy_socket.expect(1..=1).await;
    let mut socket = socket.serve();
    other.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;

    proxy.set_fault(fault);
    let path = format!("/gateways/{id}/connections");
    let lost = other
        .eventually_within(DECLARED_DEAD_WITHIN, &path, |page| {
            page["count"] == 1 && page["list"][0]["status"] == "closed"
        })
        .await;
    assert_eq!(lost["list"][0]["closeReason"], "node_lost", "{lost:#}");
    let nodes = api.get("/nodes").await.unwrap();
    assert_eq!(status_of(&nodes, &address), "lost", "{nodes:#}");
    assert_eq!(status_of(&nodes, &format!(":{}", other.port)), "live", "{nodes:#}");
    other.logged(|log| log.contains("a node is lost")).await;
    for deployment in ["d-2", "d-3"] {
        api.post("/events", &deployed(&[&id], deployment)).await.unwrap();
    }
    // An unreachable database does not end a gateway's connection.
    assert!(!socket.is_finished());

    proxy.set_fault(Fault::None);
    let back = Instant::now();
    let closed = tokio::time::timeout(TEST_TIMEOUT, &mut socket).await;
    let seen = closed.expect("closed in time").unwrap();
    println!("{fault:?}: closed {:?} after the database was back", back.elapsed());
    let already = i64::try_from(seen.len()).unwrap();
    cut.logged(|log| log.contains("declared dead by another node")).await;

    // The gateway reconnects to the same node, and misses nothing.
    let mut socket = cut.connected(&key).await;
    socket.expect(2 + already..=3).await;
    let socket = socket.serve();
    other.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    let again = other.eventually(&path, |page| page["list"][0]["status"] == "connected").await;
    assert_eq!(again["count"], 2, "{again:#}");
    let nodes = other.eventually("/nodes", |nodes| status_of(nodes, &address) == "live").await;
    assert_eq!(nodes["count"], 2, "{nodes:#}");

    // For the later events no live connection was recorded, and only these failed.
    let missed = || "not_connected".to_owned();
    assert_eq!(failures(&other, &id).await, [(2, missed()), (3, missed())]);
    // The outcome of the event that was in flight is recorded correctly.
    let event = format!("/events/{}", in_flight["id"].as_str().unwrap());
    let is_unknown = |event: &serde_json::Value| {
        let attempts = event["deliveries"][0]["attempts"].as_array().unwrap().iter();
        attempts.filter(|attempt| attempt["outcome"] == "unknown").count() == 1
    };
    other.eventually(&event, is_unknown).await;
    let metrics = cut.metrics().await;
    assert!(metrics.contains("gateway_events_delivery_unknown_total 1"), "{metrics}");
    assert!(metrics.contains("gateway_events_delivery_failures_total{reason=\"node_lost\"} 0"));
    socket.abort();
    drop(busy_socket);
    for node in [&mut cut, &mut other] {
        assert_eq!(node.terminate().await, Some(0), "{}", node.log());
    }
    let report = verify(&options(&database)).await.unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

#[tokio::test]
async fn a_node_cut_off_from_its_database_notices_that_it_was_declared_dead() {
    Box::pin(a_node_that_was_cut_off_recovers(Fault::BlackHole)).await;
}

#[tokio::test]
async fn a_node_with_a_hanging_database_notices_that_it_was_declared_dead() {
    Box::pin(a_node_that_was_cut_off_recovers(Fault::Discard)).await;
}
