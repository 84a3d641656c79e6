//! A node dies, and its gateways reconnect to another one.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::publishers::{Caller, Published};
use super::{Cluster, REST, say};
use crate::server::Database;
use crate::support::deployed;

const GATEWAYS: usize = 60;
/// Events for each gateway, published while half of them are disconnected.
const MEANWHILE: usize = 10;
/// The interval of the publisher.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

#[tokio::test]
async fn gateways_of_a_dead_node_catch_up_on_another() {
    let mut cluster = Cluster::start(Database::new(), 2, &[]).await;
    let fleet = Fleet::start(&cluster, GATEWAYS, 0).await;
    let ids = fleet.ids();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let before = cluster.rests(&fleet, 0).await;
    cluster.nodes[0].kill().await;
    let killed = Instant::now();
    let (mut caller, mut published) = (Caller::new(&cluster.addresses, 1), Published::default());
    let mut pace = tokio::time::interval(PUBLISH_EVERY);
    for number in 0..MEANWHILE {
        let mut event = deployed(&ids, &format!("d-{number}"));
        event["id"] = json!(format!("meanwhile-{number}"));
        published.add(&[caller.publish(&event, None, &mut pace).await]);
        pace.tick().await;
    }
    let head = i64::try_from(MEANWHILE).unwrap();
    let caught_up = tokio::time::timeout(REST, async {
        while !fleet.members.iter().all(|member| member.seen().farthest() == head) {
            pace.tick().await;
        }
        killed.elapsed()
    });
    let caught_up = caught_up.await.expect("they catch up");
    let kept = fleet.live().iter().filter(|id| before.contains(id)).count();
    assert_eq!(kept, GATEWAYS / 2, "the other node's sockets are the same");
    say(format_args!(
        "{} gateways of a node that was killed were connected to another one and had all of \
         {MEANWHILE} events {caught_up:.2?} after the kill",
        GATEWAYS - kept,
    ));
    cluster.nodes[0].restart().await;
    cluster.settles(fleet, &[published]).await;
}
