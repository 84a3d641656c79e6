//! A node dies, and its gateways reconnect to another one.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::publishers::{Published, RetryingClient};
use super::{Cluster, IDLE_TIMEOUT, print_figures};
use crate::server::Database;
use crate::support::deployed;

const GATEWAYS: usize = 60;
/// Events for each gateway, published while half of them are disconnected.
const EVENTS_AFTER_KILL: usize = 10;
/// The interval of the publisher.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

#[tokio::test]
async fn gateways_of_a_dead_node_catch_up_on_another() {
    let mut cluster = Cluster::start(Database::new(), 2, &[]).await;
    let fleet = Fleet::start(&cluster, GATEWAYS, 0).await;
    let ids = fleet.ids();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let before = cluster.wait_until_idle(&fleet, 0).await;
    cluster.nodes[0].kill().await;
    let killed = Instant::now();
    let (mut client, mut published) =
        (RetryingClient::new(&cluster.addresses, 1), Published::default());
    let mut pace = tokio::time::interval(PUBLISH_INTERVAL);
    for number in 0..EVENTS_AFTER_KILL {
        let mut event = deployed(&ids, &format!("d-{number}"));
        event["id"] = json!(format!("after-kill-{number}"));
        published.add(&[client.publish(&event, None, &mut pace).await]);
        pace.tick().await;
    }
    let head = i64::try_from(EVENTS_AFTER_KILL).unwrap();
    let caught_up = tokio::time::timeout(IDLE_TIMEOUT, async {
        while !fleet.gateways.iter().all(|gateway| gateway.received().highest_sequence() == head) {
            pace.tick().await;
        }
        killed.elapsed()
    });
    let caught_up = caught_up.await.expect("all gateways catch up");
    let kept = fleet.live().iter().filter(|id| before.contains(id)).count();
    assert_eq!(kept, GATEWAYS / 2, "the other node kept its connections");
    print_figures(format_args!(
        "{} gateways of a node that was killed were connected to another one and had all of \
         {EVENTS_AFTER_KILL} events {caught_up:.2?} after the kill",
        GATEWAYS - kept,
    ));
    cluster.nodes[0].restart().await;
    cluster.stop_and_verify(fleet, &[published]).await;
}
