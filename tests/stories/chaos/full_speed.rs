//! Two nodes append to one gateway's log and drain the inbox into it at full speed.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::inbox_program::{Program, Row};
use super::publishers::{Caller, Published};
use super::{Cluster, REST, say};
use crate::server::Database;
use crate::support::deployed;

const PUBLISHERS: usize = 4;
const PROGRAMS: usize = 4;
/// Requests of a publisher, and transactions of an inbox program.
const ROUNDS: usize = 20;
/// Events in each request or transaction.
const EVENTS: usize = 50;
/// The interval of retries.
const TRIES_EVERY: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_fill_one_log_at_full_speed_without_a_gap_or_a_deadlock() {
    let cluster = Cluster::start(Database::alone(), 2, &[]).await;
    // Connected to both nodes.
    let fleet = Fleet::start(&cluster, 1, 1).await;
    let began = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..PUBLISHERS {
        running.spawn(publish(
            Caller::new(&cluster.addresses, number),
            fleet.members[0].id.clone(),
            number,
        ));
    }
    for number in 0..PROGRAMS {
        running.spawn(insert(Program::new(&cluster), fleet.members[0].id.clone(), number));
    }
    let published = running.join_all().await;
    let stats = Published::stats(&published);
    let count = Published::count(&published);
    let accepted = began.elapsed();
    let everywhere = 2 * count;
    let delivered = tokio::time::timeout(REST, async {
        let mut polls = tokio::time::interval(Duration::from_millis(10));
        while fleet.frames() < everywhere {
            polls.tick().await;
        }
        began.elapsed()
    });
    let delivered = delivered.await.unwrap_or_else(|_| panic!("{}", cluster.logs()));
    let rate = |took: Duration| f64::from(u32::try_from(count).unwrap()) / took.as_secs_f64();
    say(format_args!(
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
    cluster.settles(fleet, &published).await;
}

async fn publish(mut caller: Caller, gateway: String, number: usize) -> Published {
    let mut published = Published::default();
    let mut pace = tokio::time::interval(TRIES_EVERY);
    for round in 0..ROUNDS {
        let event = |nth| deployed(&[&gateway], &format!("{number}-{round}-{nth}"));
        let batch: Vec<_> = (0..EVENTS).map(event).collect();
        let key = format!("{number}-{round}");
        let answer = caller.publish(&json!(batch), Some(&key), &mut pace).await;
        published.add(answer["results"].as_array().expect("results"));
    }
    published.stats = caller.stats;
    published
}

async fn insert(mut program: Program, gateway: String, number: usize) -> Published {
    let mut all: Vec<Row> = Vec::new();
    let mut pace = tokio::time::interval(TRIES_EVERY);
    for round in 0..ROUNDS {
        let row = |nth| (format!("inbox-{number}-{round}-{nth}"), vec![gateway.clone()]);
        let rows: Vec<_> = (0..EVENTS).map(row).collect();
        program.commit(&rows, 0, &mut pace).await;
        all.extend(rows);
    }
    Published::committed(all)
}
