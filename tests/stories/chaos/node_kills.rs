//! Nodes are killed, sessions terminated and the server crashed, repeatedly, under load. Afterwards
//! everything is as without failures, except for repeats.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::publishers::{Published, Publishers};
use super::{Cluster, connect, say, seed};
use crate::server::Database;

/// How long it lasts; CI has a minute for it.
const FIRE: Duration = Duration::from_mins(1);
/// No node is killed in the last part, because declaring it dead takes half a minute. Other faults
/// continue.
const LAST_KILL: Duration = Duration::from_secs(40);
/// The interval of the faults.
const STRIKES_EVERY: Duration = Duration::from_millis(500);
/// The interval of one publisher.
const HTTP_EVERY: Duration = Duration::from_millis(120);
const INBOX_EVERY: Duration = Duration::from_millis(200);

const GATEWAYS: usize = 60;
const TWICE: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_arrives_in_order_despite_faults() {
    survives(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_arrives_in_order_without_notifications() {
    survives(&[("DATABASE__NOTIFY", "false")]).await;
}

async fn survives(settings: &[(&str, &str)]) {
    let mut random = seed();
    let mut cluster = Cluster::start(Database::alone(), 3, settings).await;
    let fleet = Fleet::start(&cluster, GATEWAYS, TWICE).await;
    let mut publishers = Publishers::none();
    publishers.by_http(4, &cluster, &fleet.ids(), &mut random, HTTP_EVERY);
    publishers.by_inbox(2, &cluster, &fleet.ids(), &mut random, INBOX_EVERY);
    let strikes = burn(&mut cluster, &fleet, &mut random).await;
    let published = publishers.finish().await;
    let calm = Instant::now();
    cluster.rests(&fleet, 0).await;
    say(format_args!(
        "{} events in {} frames through {strikes:?}; at rest {:.1} s after",
        Published::count(&published),
        fleet.frames(),
        calm.elapsed().as_secs_f64(),
    ));
    cluster.settles(fleet, &published).await;
}

/// The faults that were injected.
#[derive(Debug, Default)]
struct Strikes {
    kills: usize,
    sessions: i64,
    restarts: usize,
}

async fn burn(cluster: &mut Cluster, fleet: &Fleet, random: &mut fastrand::Rng) -> Strikes {
    let began = Instant::now();
    let restart_at = Duration::from_secs(random.u64(15..35));
    let mut pace = tokio::time::interval(STRIKES_EVERY);
    let mut strikes = Strikes::default();
    while began.elapsed() < FIRE {
        pace.tick().await;
        never_ahead(cluster, fleet).await;
        let is_due = strikes.restarts == 0 && began.elapsed() > restart_at;
        if is_due || random.u8(0..25) == 0 {
            // Publishers continue meanwhile on the other threads.
            tokio::task::block_in_place(|| cluster.database().control("restart -m immediate"));
            strikes.restarts += 1;
        } else if began.elapsed() < LAST_KILL && random.u8(0..4) == 0 {
            let down = random.choice(0..cluster.nodes.len()).expect("a node");
            cluster.nodes[down].kill().await;
            // For a moment the other nodes have all the load.
            for _ in 0..random.u8(0..3) {
                pace.tick().await;
            }
            cluster.nodes[down].restart().await;
            strikes.kills += 1;
        } else {
            strikes.sessions += terminate(&mut cluster.connection().await, random).await;
        }
    }
    strikes
}

/// Terminates about a third of all sessions, including those of other programs.
async fn terminate(connection: &mut PgConnection, random: &mut fastrand::Rng) -> i64 {
    let pids: Vec<i32> = sqlx::query_scalar(
        "select pid from pg_stat_activity where datname = current_database()
         and backend_type = 'client backend' and pid <> pg_backend_pid() order by backend_start",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let doomed: Vec<i32> = pids.into_iter().filter(|_| random.u8(0..3) == 0).collect();
    sqlx::query_scalar(
        "select count(*) filter (where pg_terminate_backend(pid)) from unnest($1::int[]) pid",
    )
    .bind(&doomed)
    .fetch_one(connection)
    .await
    .unwrap()
}

/// No position is beyond what its connection was sent or, for a gateway's own position, what any of
/// its connections was sent.
async fn never_ahead(cluster: &Cluster, fleet: &Fleet) {
    let Ok(mut connection) = connect(&cluster.database().url()).await else {
        return;
    };
    let cursors: Vec<(String, String, i64)> = sqlx::query_as(
        "select id::text, instance, received from cursors join gateways using (gateway)",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    for (gateway, instance, received) in cursors {
        let member = fleet.members.iter().find(|member| member.id == gateway).unwrap();
        // Read after the database: what was confirmed had been received.
        let seen = member.seen();
        let sent = seen.last.get(&instance).copied().flatten().unwrap_or_else(|| seen.farthest());
        assert!(
            received <= sent,
            "{}: {instance:?} is at {received}, {sent} were sent",
            member.name
        );
    }
}
