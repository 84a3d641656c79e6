//! The database server stops under nodes with live sockets, and starts again: no connection is lost
//! meanwhile, and no node declares another one dead.

use std::time::Duration;

use gateway_events::client::api::Api;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::gateways::Fleet;
use super::publishers::{Published, RetryingClient};
use super::{Cluster, print_figures};
use crate::server::Database;
use crate::support::{TEST_TIMEOUT, deployed};

const HEARTBEAT: (&str, &str) = ("DELIVERY__HEARTBEAT_INTERVAL", "500ms");
/// Longer than the half minute after which a node without heartbeats is dead.
const PINGS_DURING_OUTAGE: usize = 70;
/// The interval at which each publisher retries.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
const GATEWAYS: usize = 20;
const PUBLISHERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unavailable_database_delays_publishers_and_disconnects_no_gateway() {
    let cluster = Cluster::start(Database::alone(), 2, &[HEARTBEAT]).await;
    let fleet = Fleet::start(&cluster, GATEWAYS, 0).await;
    let (node, api) = (&cluster.nodes[0], cluster.nodes[0].api());
    let mut watched = node.connected(&node.gateway("watched").await.1).await;
    let sockets = cluster.wait_until_idle(&fleet, 1).await;

    tokio::task::block_in_place(|| cluster.database().control("stop -m immediate"));
    let stopped = Instant::now();
    let mut publishing: JoinSet<_> =
        (0..PUBLISHERS).map(|number| publish(&cluster, &fleet, number)).collect();
    assert_eq!(readiness(&api).await, (503, true));
    for _ in 0..PINGS_DURING_OUTAGE {
        watched.pinged().await;
    }
    let outage = stopped.elapsed();
    assert!(publishing.try_join_next().is_none(), "no request can be answered with 202");
    assert_eq!(readiness(&api).await, (503, true));
    // It keeps answering pings: the service would disconnect it otherwise, if the server takes long.
    let watched = tokio::spawn(async move {
        loop {
            watched.pinged().await;
        }
    });

    tokio::task::block_in_place(|| cluster.database().control("start"));
    let restarted = Instant::now();
    let mut polls = tokio::time::interval(Duration::from_millis(10));
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while readiness(&api).await.0 != 200 {
        polls.tick().await;
    }
    let ready = restarted.elapsed();
    let published = publishing.join_all().await;
    let accepted = restarted.elapsed();
    let delivered = tokio::time::timeout(TEST_TIMEOUT, async {
        while fleet.frames() < PUBLISHERS {
            polls.tick().await;
        }
        restarted.elapsed()
    });
    let delivered = delivered.await.expect("all are delivered");
    wait_for_two_heartbeats(&cluster).await;
    assert_eq!(cluster.wait_until_idle(&fleet, 1).await, sockets, "no connection was replaced");
    let stats = Published::stats(&published);
    print_figures(format_args!(
        "down for {outage:.1?}: {} requests answered with 503, the slowest after {:.1?}; then ready after \
         {ready:.1?}, all accepted after {accepted:.1?} and delivered after {delivered:.1?}",
        stats.refused, stats.slowest,
    ));
    assert_eq!(stats.unanswered, 0, "{stats:?}");
    assert!(stats.refused >= PUBLISHERS, "{stats:?}");
    watched.abort();
    cluster.stop_and_verify(fleet, &published).await;
}

/// Retries until the event is accepted.
fn publish(
    cluster: &Cluster,
    fleet: &Fleet,
    number: usize,
) -> impl Future<Output = Published> + Send + use<> {
    let mut client = RetryingClient::new(&cluster.addresses, number);
    let mut event = deployed(&[&fleet.gateways[number].id], "d-1");
    event["id"] = json!(format!("during-outage-{number}"));
    async move {
        let mut published = Published::default();
        let mut pace = tokio::time::interval(RETRY_INTERVAL);
        published.add(&[client.publish(&event, None, &mut pace).await]);
        published.stats = client.stats;
        published
    }
}

/// Waits until each node has stored two heartbeats: between them it has looked for dead nodes.
async fn wait_for_two_heartbeats(cluster: &Cluster) {
    let mut connection = cluster.connection().await;
    let mut polls = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..2 {
        let since: String = sqlx::query_scalar("select clock_timestamp()::text")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let without_heartbeat = "select count(*) from nodes where heartbeat_at < $1::timestamptz";
        while sqlx::query_scalar::<_, i64>(without_heartbeat)
            .bind(&since)
            .fetch_one(&mut connection)
            .await
            .unwrap()
            > 0
        {
            polls.tick().await;
        }
    }
}

/// The status of the readiness probe, and whether it has a `Retry-After`.
async fn readiness(api: &Api) -> (u16, bool) {
    let answer = api.at_root(Method::GET, "/readyz").send().await.expect("an answer");
    (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
}
