//! The network between one node and the database is cut for so long that the other node declares it
//! dead. Its gateways stay connected meanwhile.

use std::time::Duration;

use gateway_events::api::ConnectionsQuery;
use reqwest::{Method, Url};
use serde_json::json;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::publishers::{Published, RetryingClient};
use super::{Address, Cluster, IDLE_TIMEOUT, print_figures};
use crate::fault_proxy::{Fault, FaultProxy};
use crate::server::Database;
use crate::support::deployed;

const GATEWAYS: usize = 20;
/// The interval of requests during the partition.
const REQUEST_INTERVAL: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_declared_dead_disconnects_its_gateways_and_recovers() {
    let database = Database::alone();
    let mut proxied_url = Url::parse(&database.url()).unwrap();
    let proxy = FaultProxy::to(proxied_url.port().unwrap()).await;
    proxied_url.set_port(Some(proxy.port)).unwrap();
    let settings = [("SERVER__REQUEST_TIMEOUT", "5s"), ("DELIVERY__HEARTBEAT_INTERVAL", "500ms")];
    let mut cluster = Cluster::start(database, 2, &settings).await;
    cluster.nodes[1].set("DATABASE__URL", proxied_url.as_str());
    assert_eq!(cluster.nodes[1].terminate().await, Some(0));
    cluster.nodes[1].restart().await;
    let fleet = Fleet::start(&cluster, GATEWAYS, 0).await;
    let before = cluster.wait_until_idle(&fleet, 0).await;
    let mut published = Published::default();
    let mut client = RetryingClient::new(&cluster.addresses, 0);
    let mut pace = tokio::time::interval(REQUEST_INTERVAL);

    proxy.set_fault(Fault::BlackHole);
    let cut = Instant::now();
    let (mut slowest, mut number) = (Duration::ZERO, 0);
    while count_listed(&cluster.addresses[0]).await > GATEWAYS / 2 {
        assert!(cut.elapsed() < IDLE_TIMEOUT, "it was not declared dead\n{}", cluster.logs());
        pace.tick().await;
        slowest = slowest.max(publish_is_refused(&cluster.addresses[1], &fleet).await);
        let ids = fleet.ids();
        let mut event = deployed(&ids.iter().map(String::as_str).collect::<Vec<_>>(), "d-1");
        event["id"] = json!(format!("during-partition-{number}"));
        published.add(&[client.publish(&event, None, &mut pace).await]);
        number += 1;
    }
    assert_eq!(fleet.live(), before, "no connection was closed");
    let declared_dead = cut.elapsed();
    proxy.set_fault(Fault::None);
    let restored = Instant::now();
    cluster.wait_until_idle(&fleet, 0).await;
    print_figures(format_args!(
        "a node without its database answered within {slowest:.1?}, was declared dead after \
         {declared_dead:.1?}, and the cluster was idle {:.1?} after the network was restored",
        restored.elapsed(),
    ));
    cluster.stop_and_verify(fleet, &[published]).await;
}

/// The number of live connections that a node lists.
async fn count_listed(node: &Address) -> usize {
    let query = ConnectionsQuery::default();
    node.api.connections(None, &query, usize::MAX).await.unwrap().list.len()
}

/// Publishes through a node without its database: asserts that it answers with 503 and a
/// Retry-After, and returns how long the answer took.
async fn publish_is_refused(node: &Address, fleet: &Fleet) -> Duration {
    let started = Instant::now();
    let event = deployed(&[&fleet.gateways[0].id], "never");
    let request = node.api.request(Method::POST, "/events").json(&event);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    started.elapsed()
}
