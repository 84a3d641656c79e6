//! Two nodes append to one gateway's log and drain the inbox into it at full speed.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::inbox_program::{InboxProgram, Row};
use super::publishers::{Published, RetryingClient};
use super::{Cluster, IDLE_TIMEOUT, print_figures};
use crate::server::Database;
use crate::support::deployed;

const PUBLISHERS: usize = 4;
const INBOX_PROGRAMS: usize = 4;
/// Requests of a publisher, and transactions of an inbox program.
const ROUNDS: usize = 20;
/// Events in each request or transaction.
const EVENTS: usize = 50;
/// The interval of retries.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_fill_one_log_at_full_speed_without_a_gap_or_a_deadlock() {
    let cluster = Cluster::start(Database::alone(), 2, &[]).await;
    // Connected to both nodes.
    let fleet = Fleet::start(&cluster, 1, 1).await;
    let started = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..PUBLISHERS {
        running.spawn(publish(
            RetryingClient::new(&cluster.addresses, number),
            fleet.gateways[0].id.clone(),
            number,
        ));
    }
    for number in 0..INBOX_PROGRAMS {
        running.spawn(insert(InboxProgram::new(&cluster), fleet.gateways[0].id.clone(), number));
    }
    let published = running.join_all().await;
    let stats = Published::stats(&published);
    let count = Published::count(&published);
    let accepted = started.elapsed();
    let expected_frames = 2 * count;
    let delivered = tokio::time::timeout(IDLE_TIMEOUT, async {
        let mut polls = tokio::time::interval(Duration::from_millis(10));
        while fleet.frames() < expected_frames {
            polls.tick().await;
        }
        started.elapsed()
    });
    let delivered = delivered.await.unwrap_or_else(|_| panic!("{}", cluster.logs()));
    let rate = |elapsed: Duration| f64::from(u32::try_from(count).unwrap()) / elapsed.as_secs_f64();
    print_figures(format_args!(
        "{count} events for one gateway, half of them by the inbox: accepted in {accepted:.1?} \
         ({:.0}/s), and received on both of its connections in {delivered:.1?} ({:.0}/s)",
        rate(accepted),
        rate(delivered),
    ));
    assert_eq!((stats.refused, stats.unanswered), (0, 0), "{stats:?}\n{}", cluster.logs());
    let deadlocks: i64 = sqlx::query_scalar("select sum(deadlocks)::bigint from pg_stat_database")
        .fetch_one(&mut cluster.connection().await)
        .await
        .unwrap();
    assert_eq!(deadlocks, 0);
    cluster.stop_and_verify(fleet, &published).await;
}

async fn publish(mut client: RetryingClient, gateway: String, number: usize) -> Published {
    let mut published = Published::default();
    let mut pace = tokio::time::interval(RETRY_INTERVAL);
    for round in 0..ROUNDS {
        let event = |index| deployed(&[&gateway], &format!("{number}-{round}-{index}"));
        let batch: Vec<_> = (0..EVENTS).map(event).collect();
        let key = format!("{number}-{round}");
        let answer = client.publish(&json!(batch), Some(&key), &mut pace).await;
        published.add(answer["results"].as_array().expect("results"));
    }
    published.stats = client.stats;
    published
}

async fn insert(mut program: InboxProgram, gateway: String, number: usize) -> Published {
    let mut all: Vec<Row> = Vec::new();
    let mut pace = tokio::time::interval(RETRY_INTERVAL);
    for round in 0..ROUNDS {
        let row = |index| (format!("inbox-{number}-{round}-{index}"), vec![gateway.clone()]);
        let rows: Vec<_> = (0..EVENTS).map(row).collect();
        program.commit(&rows, 0, &mut pace).await;
        all.extend(rows);
    }
    Published::committed(all)
}
