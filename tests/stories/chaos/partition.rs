//! The network between one node and the database is cut for so long that the other node declares it
//! dead. It only has its sockets left.

use std::time::Duration;

use gateway_events::api::ConnectionsQuery;
use reqwest::{Method, Url};
use serde_json::json;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::publishers::{Caller, Published};
use super::{Address, Cluster, REST, say};
use crate::fault_proxy::{Fault, FaultProxy};
use crate::server::Database;
use crate::support::deployed;

const GATEWAYS: usize = 20;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval of requests meanwhile.
const ASKED_EVERY: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_declared_dead_disconnects_its_gateways_and_recovers() {
    let database = Database::alone();
    let mut through = Url::parse(&database.url()).unwrap();
    let line = FaultProxy::to(through.port().unwrap()).await;
    through.set_port(Some(line.port)).unwrap();
    let settings = [("SERVER__REQUEST_TIMEOUT", "5s"), ("DELIVERY__HEARTBEAT_INTERVAL", "500ms")];
    let mut cluster = Cluster::start(database, 2, &settings).await;
    cluster.nodes[1].set("DATABASE__URL", through.as_str());
    assert_eq!(cluster.nodes[1].terminate().await, Some(0));
    cluster.nodes[1].restart().await;
    let fleet = Fleet::start(&cluster, GATEWAYS, 0).await;
    let before = cluster.rests(&fleet, 0).await;
    let mut published = Published::default();
    let mut caller = Caller::new(&cluster.addresses, 0);
    let mut pace = tokio::time::interval(ASKED_EVERY);

    line.fails(Fault::BlackHole);
    let cut = Instant::now();
    let (mut slowest, mut number) = (Duration::ZERO, 0);
    while listed(&cluster.addresses[0]).await > GATEWAYS / 2 {
        assert!(cut.elapsed() < REST, "it was not declared dead\n{}", cluster.logs());
        pace.tick().await;
        slowest = slowest.max(refused(&cluster.addresses[1], &fleet).await);
        let ids = fleet.ids();
        let mut event = deployed(&ids.iter().map(String::as_str).collect::<Vec<_>>(), "d-1");
        event["id"] = json!(format!("meanwhile-{number}"));
        published.add(&[caller.publish(&event, None, &mut pace).await]);
        number += 1;
    }
    assert_eq!(fleet.live(), before, "every socket was kept");
    let taken_for_dead = cut.elapsed();
    line.fails(Fault::None);
    let mended = Instant::now();
    cluster.rests(&fleet, 0).await;
    say(format_args!(
        "a node without its database answered within {slowest:.1?}, was taken for dead after \
         {taken_for_dead:.1?}, and all was well {:.1?} after its cable was mended",
        mended.elapsed(),
    ));
    assert!(slowest < REQUEST_TIMEOUT + Duration::from_secs(10), "that is generous: {slowest:?}");
    cluster.settles(fleet, &[published]).await;
}

/// The number of live connections that a node lists.
async fn listed(node: &Address) -> usize {
    let query = ConnectionsQuery::default();
    node.api.connections(None, &query, usize::MAX).await.unwrap().list.len()
}

/// Publishes where it can't succeed; returns how long the refusal took.
async fn refused(node: &Address, fleet: &Fleet) -> Duration {
    let started = Instant::now();
    let event = deployed(&[&fleet.members[0].id], "never");
    let request = node.api.request(Method::POST, "/events").json(&event);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    started.elapsed()
}
