//! Several nodes on one database, as their gateways and publishers see them: with notifications,
//! without them, and through a pooler that forwards none.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]
#![expect(clippy::print_stdout, reason = "measured durations, shown with --nocapture")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gateway_events::store::postgres::verify;
use serde_json::json;

use crate::both_databases::Backend;
use crate::conformance::InboxProgram as _;
use crate::inbox_program;
use crate::inbox_program_postgres::Program;
use crate::pooler::Pooler;
use crate::server::Database;
use crate::store_postgres::options;
use crate::support::command::{command, run};
use crate::support::{Service, TEST_TIMEOUT, deployed, get};

/// How nodes learn of what another node did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    /// By notifications.
    Notified,
    /// By polling.
    Unnotified,
    /// By notifications of the server itself, while everything else goes through a pooler.
    Pooled,
}

/// Two nodes. Field order: they are dropped before what they need.
struct Nodes {
    one: Service,
    other: Service,
    pooler: Option<Pooler>,
    database: Database,
}

impl Nodes {
    async fn start(propagation: Propagation) -> Self {
        Self::start_with(propagation, &[]).await
    }

    async fn start_with(propagation: Propagation, settings: &[(&str, &str)]) -> Self {
        let database = Database::new();
        let pooler = (propagation == Propagation::Pooled).then(|| Pooler::before(&database));
        let direct = database.url();
        let url = pooler.as_ref().map_or_else(|| direct.clone(), |pooler| pooler.url(&database));
        let mut all = vec![("DATABASE__URL", url.as_str())];
        match propagation {
            Propagation::Notified => {}
            Propagation::Unnotified => all.push(("DATABASE__NOTIFY", "false")),
            Propagation::Pooled => all.push(("DATABASE__LISTENER_URL", &direct)),
        }
        all.extend(settings);
        let one = Service::start_with(&all).await;
        let other = one.another().await;
        Self { one, other, pooler, database }
    }

    /// Shuts both nodes down and verifies the database.
    async fn end(mut self) {
        for node in [&mut self.one, &mut self.other] {
            assert_eq!(node.terminate().await, Some(0), "{}", node.log());
        }
        let report = verify(&options(&self.database)).await.unwrap();
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
    }
}

/// Makes a test of each function for each propagation.
macro_rules! in_each_way {
    ($($story:ident)*) => {
        in_each_way!(@ notified, Notified, $($story)*);
        in_each_way!(@ unnotified, Unnotified, $($story)*);
        in_each_way!(@ pooled, Pooled, $($story)*);
    };
    (@ $module:ident, $propagation:ident, $($story:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $story() {
                    super::$story(super::Propagation::$propagation).await;
                }
            )*
        }
    };
}

in_each_way! {
    an_event_published_at_one_node_reaches_a_socket_of_another
    an_event_inserted_by_another_program_reaches_a_socket_of_any_node
    revocation_on_one_node_closes_sockets_on_another
    only_nodes_with_notifications_listen
}

async fn an_event_published_at_one_node_reaches_a_socket_of_another(propagation: Propagation) {
    let nodes = Nodes::start(propagation).await;
    let Nodes { one, other, .. } = &nodes;
    let (id, key) = one.gateway("far").await;
    let mut socket = other.connected(&key).await;
    for number in 1..=3 {
        let event = deployed(&[&id], &format!("d-{number}"));
        one.api().post("/events", &event).await.unwrap();
        socket.expect(number..=number).await;
    }
    let socket = socket.serve();
    one.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    let stats = one.api().get("/stats").await.unwrap();
    assert_eq!(stats["gatewayConnections"]["totalActive"], 1, "{stats:#}");
    let failed = get(&one.api(), &format!("/deliveries?status=failed&gatewayId={id}")).await;
    assert_eq!(failed.unwrap()["count"], 0, "the gateway was connected to the other node");
    socket.abort();
    nodes.end().await;
}

async fn an_event_inserted_by_another_program_reaches_a_socket_of_any_node(
    propagation: Propagation,
) {
    let nodes = Nodes::start(propagation).await;
    let program = Program::start(&nodes.database).await;
    for (name, node) in [("here", &nodes.one), ("there", &nodes.other)] {
        let (id, key) = nodes.one.gateway(name).await;
        let mut socket = node.connected(&key).await;
        for number in 1..=3 {
            let row = inbox_program::deployed(&id, &format!("d-{number}"));
            let ids = program.insert(&[row]).await;
            assert_eq!(socket.expect(number..=number).await[0]["eventId"], ids[0]);
        }
    }
    nodes.end().await;
}

/// Independent of notifications: each node polls twice a second.
async fn revocation_on_one_node_closes_sockets_on_another(propagation: Propagation) {
    const ROUNDS: usize = 4;
    let nodes = Nodes::start(propagation).await;
    let Nodes { one, other, .. } = &nodes;
    let mut took = Vec::new();
    let cases = [
        ("revoked", "token_revoked"),
        ("disabled", "gateway_disabled"),
        ("deleted", "gateway_deleted"),
    ];
    for (round, (name, reason)) in (0..ROUNDS).flat_map(|round| cases.map(|it| (round, it))) {
        let (id, key) = one.gateway(&format!("{name}-{round}")).await;
        let socket = other.connected(&key).await.serve();
        let tokens = one.api().get(&format!("/gateways/{id}/tokens")).await.unwrap();
        let token = tokens["list"][0]["id"].as_str().unwrap();
        let began = Instant::now();
        match name {
            "revoked" => {
                one.api().delete(&format!("/gateways/{id}/tokens/{token}")).await.unwrap();
            }
            "disabled" => {
                let change = json!({"disabled": true});
                one.api().patch(&format!("/gateways/{id}"), &change).await.unwrap();
            }
            _ => drop(one.api().delete(&format!("/gateways/{id}")).await.unwrap()),
        }
        tokio::time::timeout(TEST_TIMEOUT, socket).await.expect("closed in time").unwrap();
        took.push(began.elapsed());
        if name != "deleted" {
            let path = format!("/gateways/{id}/connections");
            let past = one.eventually(&path, |page| page["list"][0]["status"] == "closed").await;
            assert_eq!(past["list"][0]["closeReason"], reason, "{past:#}");
        }
    }
    print_durations(&format!("{propagation:?}: revoked at one node, closed at another"), took);
    nodes.end().await;
}

/// Prints the median and the longest duration; returns the shortest.
fn print_durations(what: &str, mut took: Vec<Duration>) -> Duration {
    took.sort();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}: median {median:?}, longest {longest:?} of {}", took.len());
    took[0]
}

/// Nothing waits until the dead node is declared dead.
#[tokio::test]
async fn gateways_of_a_killed_node_catch_up_on_another_at_once() {
    const ROUNDS: usize = 10;
    let mut nodes = Nodes::start(Propagation::Notified).await;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let Nodes { one, other, .. } = &mut nodes;
        let (id, key) = other.gateway(&format!("g-{round}")).await;
        let mut socket = one.connected(&key).await;
        other.api().post("/events", &deployed(&[&id], "d-1")).await.unwrap();
        socket.expect(1..=1).await;
        let socket = socket.serve();
        other.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
        let began = Instant::now();
        one.kill().await;
        socket.await.unwrap();
        for number in 2..=20 {
            other.api().post("/events", &deployed(&[&id], &format!("d-{number}"))).await.unwrap();
        }
        let mut socket = other.connected(&key).await;
        socket.expect(2..=20).await;
        took.push(began.elapsed());
        one.restart().await;
    }
    let quickest = print_durations("node killed, 19 events later caught up on another", took);
    // A node is declared dead after half a minute.
    assert!(quickest < Duration::from_secs(30), "{quickest:?}");
    nodes.end().await;
}

async fn only_nodes_with_notifications_listen(propagation: Propagation) {
    let nodes = Nodes::start(propagation).await;
    // Each node listens to the other nodes and to the inbox.
    let expected = if propagation == Propagation::Unnotified { 0 } else { 4 };
    let program = Program::start(&nodes.database).await;
    let mut polls = tokio::time::interval(Duration::from_millis(20));
    let counting = async {
        loop {
            polls.tick().await;
            let listening: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and query ilike 'listen %'",
            )
            .fetch_one(&mut *program.connection().await)
            .await
            .unwrap();
            if listening == expected {
                return;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, counting).await.expect("as many as that");
    for node in [&nodes.one, &nodes.other] {
        let is_measured = |text: &str| {
            let listening =
                |line: &&str| line.starts_with("gateway_events_listening{") && line.ends_with(" 1");
            i64::try_from(text.lines().filter(listening).count()) == Ok(expected / 2)
        };
        node.metrics_until(is_measured).await;
        let log = node.log();
        assert!(!log.contains("LISTEN unavailable"), "{log}");
        assert_eq!(
            log.contains("through a connection pooler"),
            propagation == Propagation::Pooled,
            "{log}"
        );
    }
    nodes.end().await;
}

#[tokio::test]
async fn every_operation_works_through_a_pooler() {
    let nodes = Nodes::start(Propagation::Pooled).await;
    let Nodes { one, other, .. } = &nodes;
    let mut gateways = Vec::new();
    for nth in 0..4 {
        let (id, key) = one.gateway(&format!("g-{nth}")).await;
        let home = if nth % 2 == 0 { one } else { other };
        gateways.push((id, home.connected(&key).await.serve()));
    }
    // More simultaneous transactions, from both nodes, than the pooler has sessions.
    let publishing = (0..120).map(|nth| {
        let node = if nth % 2 == 0 { one } else { other };
        let (id, _) = &gateways[nth % gateways.len()];
        let event = deployed(&[id], &format!("d-{nth}"));
        async move { node.api().post("/events", &event).await.unwrap() }
    });
    join_all(publishing).await;
    for (id, _) in &gateways {
        other.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 30).await;
    }
    for path in ["/stats", "/gateways", "/connections", "/event-types", "/deliveries"] {
        one.api().get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    for (_, socket) in gateways {
        socket.abort();
    }
    // Likewise the commands that need no service.
    let url = nodes.pooler.as_ref().unwrap().url(&nodes.database);
    let through = async |arguments: &str| {
        let mut command = command(arguments);
        run(command.env("GATEWAY_EVENTS__DATABASE__URL", &url)).await
    };
    through("migrate").await.well();
    through("migrate --check").await.well();
    through("verify").await.well();
    through("token recover").await.well();
    nodes.end().await;
}

#[tokio::test]
async fn concurrent_migrations_through_a_pooler_are_applied_once() {
    let database = Database::new();
    let pooler = Pooler::before(&database);
    let url = pooler.url(&database);
    let migrating = (0..4).map(|_| async {
        run(command("migrate").env("GATEWAY_EVENTS__DATABASE__URL", &url)).await
    });
    for said in join_all(migrating).await {
        said.well();
    }
    let report = verify(&options(&database)).await.unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

#[tokio::test]
async fn a_pooler_without_a_listener_url_is_logged_and_only_costs_latency() {
    let database = Database::new();
    let pooler = Pooler::before(&database);
    let one = Service::start_with(&[("DATABASE__URL", &pooler.url(&database))]).await;
    let other = one.another().await;
    let (id, key) = one.gateway("far").await;
    let mut socket = other.connected(&key).await;
    one.api().post("/events", &deployed(&[&id], "d-1")).await.unwrap();
    socket.expect(1..=1).await;
    let log = other.log();
    assert!(log.contains("database.listener_url"), "{log}");
}

#[tokio::test]
async fn unreachable_listener_url_does_not_delay_delivery() {
    let backend = Backend::postgres();
    let one = backend.start().await;
    // A pooler that runs in front of a server that does not.
    let unreachable =
        [("DATABASE__LISTENER_URL", "postgres://listener:hunter2@127.0.0.1:1/events")];
    let polling = one.another_with(&unreachable).await;
    let (id, key) = one.gateway("far").await;
    let mut socket = polling.connected(&key).await;
    polling.logged(|log| log.contains("failed to connect to 127.0.0.1:1")).await;
    let mut quickest = Duration::MAX;
    for number in 1..=5 {
        let published = Instant::now();
        one.api().post("/events", &deployed(&[&id], &format!("d-{number}"))).await.unwrap();
        socket.expect(number..=number).await;
        quickest = quickest.min(published.elapsed());
    }
    // It polls ten times a second, while a connection attempt would take five seconds.
    assert!(quickest < Duration::from_secs(5), "{quickest:?}");
    assert!(!polling.log().contains("hunter2"), "{}", polling.log());
}
