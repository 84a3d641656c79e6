//! Every node is replaced, one after another, under load: every request is answered, and no event is
//! lost. A transaction that another program keeps open meanwhile delays nothing.

use std::time::Duration;

use sqlx::Connection as _;

use super::gateways::Fleet;
use super::inbox_program::insert;
use super::publishers::{Published, Publishers};
use super::{Cluster, print_figures, random_from_seed};
use crate::server::Database;

const GATEWAYS: usize = 40;
const WITH_TWO_CONNECTIONS: usize = 8;
/// The interval of one publisher.
const HTTP_INTERVAL: Duration = Duration::from_millis(60);
const INBOX_INTERVAL: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_replaced_under_load_and_every_request_is_answered() {
    let mut random = random_from_seed();
    let settings = [("SHUTDOWN__DRAIN", "2s")];
    let mut cluster = Cluster::start(Database::new(), 3, &settings).await;
    let fleet = Fleet::start(&cluster, GATEWAYS, WITH_TWO_CONNECTIONS).await;
    let mut other_program = cluster.connection().await;
    let mut open = other_program.begin().await.unwrap();
    let rows = vec![("other_program".to_owned(), fleet.ids().to_vec())];
    insert(&mut open, &rows).await.unwrap();

    let mut publishers = Publishers::none();
    publishers.by_http(4, &cluster, &fleet.ids(), &mut random, HTTP_INTERVAL);
    publishers.by_inbox(1, &cluster, &fleet.ids(), &mut random, INBOX_INTERVAL);
    for node in &mut cluster.nodes {
        let before = fleet.frames();
        assert_eq!(node.terminate().await, Some(0), "{}", node.log());
        node.restart().await;
        assert!(fleet.frames() > before, "delivery continued meanwhile");
    }
    let mut published = publishers.finish().await;
    let (count, stats) = (Published::count(&published), Published::stats(&published));
    open.commit().await.unwrap();
    published.push(Published::committed(rows));
    print_figures(format_args!(
        "three nodes replaced while {count} events were published: {stats:?}; {} frames",
        fleet.frames(),
    ));
    assert_eq!(stats.stored, 0, "an event was stored, but its publisher got no answer: {stats:?}");
    cluster.stop_and_verify(fleet, &published).await;
}
