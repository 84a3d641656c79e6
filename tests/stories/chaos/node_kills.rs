//! Nodes are killed, sessions terminated and the server crashed, repeatedly, under load. Afterwards
//! the logs, the ledger and what each gateway received are as without faults, except that events
//! may have been received more than once.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::Instant;

use super::gateways::Fleet;
use super::publishers::{Published, Publishers};
use super::{Cluster, connect, print_figures, random_from_seed};
use crate::server::Database;

/// How long faults are injected.
const FAULTS_DURATION: Duration = Duration::from_mins(1);
/// How long nodes are killed. After that only other faults are injected, because it takes half a
/// minute until a killed node is declared dead.
const KILLS_DURATION: Duration = Duration::from_secs(40);
/// The interval between two faults.
const FAULT_INTERVAL: Duration = Duration::from_millis(500);
/// The interval of one publisher.
const HTTP_INTERVAL: Duration = Duration::from_millis(120);
const INBOX_INTERVAL: Duration = Duration::from_millis(200);

const GATEWAYS: usize = 60;
const WITH_TWO_CONNECTIONS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_arrives_in_order_despite_faults() {
    publish_under_faults(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_accepted_event_arrives_in_order_without_notifications() {
    publish_under_faults(&[("DATABASE__NOTIFY", "false")]).await;
}

async fn publish_under_faults(settings: &[(&str, &str)]) {
    let mut random = random_from_seed();
    let mut cluster = Cluster::start(Database::alone(), 3, settings).await;
    let fleet = Fleet::start(&cluster, GATEWAYS, WITH_TWO_CONNECTIONS).await;
    let mut publishers = Publishers::none();
    publishers.by_http(4, &cluster, &fleet.ids(), &mut random, HTTP_INTERVAL);
    publishers.by_inbox(2, &cluster, &fleet.ids(), &mut random, INBOX_INTERVAL);
    let faults = inject_faults(&mut cluster, &fleet, &mut random).await;
    let published = publishers.finish().await;
    let faults_ended = Instant::now();
    cluster.wait_until_idle(&fleet, 0).await;
    print_figures(format_args!(
        "{} events in {} frames despite {faults:?}; idle {:.1} s after the last",
        Published::count(&published),
        fleet.frames(),
        faults_ended.elapsed().as_secs_f64(),
    ));
    cluster.stop_and_verify(fleet, &published).await;
}

/// The faults that were injected.
#[derive(Debug, Default)]
struct InjectedFaults {
    killed_nodes: usize,
    terminated_sessions: i64,
    database_restarts: usize,
}

async fn inject_faults(
    cluster: &mut Cluster,
    fleet: &Fleet,
    random: &mut fastrand::Rng,
) -> InjectedFaults {
    let started = Instant::now();
    let restart_at = Duration::from_secs(random.u64(15..35));
    let mut pace = tokio::time::interval(FAULT_INTERVAL);
    let mut faults = InjectedFaults::default();
    while started.elapsed() < FAULTS_DURATION {
        pace.tick().await;
        assert_no_position_is_ahead(cluster, fleet).await;
        let restart_is_due = faults.database_restarts == 0 && started.elapsed() > restart_at;
        if restart_is_due || random.u8(0..25) == 0 {
            // Publishers continue meanwhile on the other threads.
            tokio::task::block_in_place(|| cluster.database().control("restart -m immediate"));
            faults.database_restarts += 1;
        } else if started.elapsed() < KILLS_DURATION && random.u8(0..4) == 0 {
            let node = random.choice(0..cluster.nodes.len()).expect("a node");
            cluster.nodes[node].kill().await;
            // Until the restart the other nodes take all the load.
            for _ in 0..random.u8(0..3) {
                pace.tick().await;
            }
            cluster.nodes[node].restart().await;
            faults.killed_nodes += 1;
        } else {
            faults.terminated_sessions +=
                terminate_sessions(&mut cluster.connection().await, random).await;
        }
    }
    faults
}

/// Terminates about a third of all sessions, including those of other programs.
async fn terminate_sessions(connection: &mut PgConnection, random: &mut fastrand::Rng) -> i64 {
    let pids: Vec<i32> = sqlx::query_scalar(
        "select pid from pg_stat_activity where datname = current_database()
         and backend_type = 'client backend' and pid <> pg_backend_pid() order by backend_start",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let selected: Vec<i32> = pids.into_iter().filter(|_| random.u8(0..3) == 0).collect();
    sqlx::query_scalar(
        "select count(*) filter (where pg_terminate_backend(pid)) from unnest($1::int[]) pid",
    )
    .bind(&selected)
    .fetch_one(connection)
    .await
    .unwrap()
}

/// Asserts that no stored position is beyond the last event that its connection received or, for a
/// gateway's own position, that any of its connections received.
async fn assert_no_position_is_ahead(cluster: &Cluster, fleet: &Fleet) {
    let Ok(mut connection) = connect(&cluster.database().url()).await else {
        return;
    };
    let cursors: Vec<(String, String, i64)> = sqlx::query_as(
        "select id::text, instance, received from cursors join gateways using (gateway)",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    for (gateway, instance, position) in cursors {
        let gateway = fleet.gateways.iter().find(|it| it.id == gateway).unwrap();
        // Read after the position: what is confirmed has been received before.
        let sent = gateway.received();
        let last_sent = sent.last.get(&instance).copied().flatten();
        let last_sent = last_sent.unwrap_or_else(|| sent.highest_sequence());
        assert!(
            position <= last_sent,
            "{}: {instance:?} is at {position}, but only {last_sent} were sent",
            gateway.name
        );
    }
}
