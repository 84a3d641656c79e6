//! Every node is replaced, one after another, under load: every request is answered, and nothing is
//! lost. A program that keeps its transaction open meanwhile delays no one.

use std::time::Duration;

use sqlx::Connection as _;

use super::gateways::Fleet;
use super::inbox_program::insert;
use super::publishers::{Published, Publishers};
use super::{Cluster, say, seed};
use crate::server::Database;

const GATEWAYS: usize = 40;
const TWICE: usize = 8;
/// The interval of one publisher.
const HTTP_EVERY: Duration = Duration::from_millis(60);
const INBOX_EVERY: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_replaced_under_load_and_every_request_is_answered() {
    let mut random = seed();
    let settings = [("SHUTDOWN__DRAIN", "2s")];
    let mut cluster = Cluster::start(Database::new(), 3, &settings).await;
    let fleet = Fleet::start(&cluster, GATEWAYS, TWICE).await;
    let mut foreign = cluster.connection().await;
    let mut open = foreign.begin().await.unwrap();
    let rows = vec![("foreign".to_owned(), fleet.ids().to_vec())];
    insert(&mut open, &rows).await.unwrap();

    let mut publishers = Publishers::none();
    publishers.by_http(4, &cluster, &fleet.ids(), &mut random, HTTP_EVERY);
    publishers.by_inbox(1, &cluster, &fleet.ids(), &mut random, INBOX_EVERY);
    for node in &mut cluster.nodes {
        let before = fleet.frames();
        assert_eq!(node.terminate().await, Some(0), "{}", node.log());
        node.restart().await;
        assert!(fleet.frames() > before, "delivery went on meanwhile");
    }
    let mut published = publishers.finish().await;
    let (count, stats) = (Published::count(&published), Published::stats(&published));
    open.commit().await.unwrap();
    published.push(Published::committed(rows));
    say(format_args!(
        "three nodes replaced while {count} events were published: {stats:?}; {} frames",
        fleet.frames(),
    ));
    assert_eq!(stats.stored, 0, "an event was stored, and its publisher got no answer: {stats:?}");
    cluster.settles(fleet, &published).await;
}
