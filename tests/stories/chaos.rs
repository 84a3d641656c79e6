//! Several real nodes on one Postgres, gateways that reconnect to any node, publishers that retry
//! until they succeed, and invariants that must hold whatever happened meanwhile.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_events::api::ConnectionsQuery;
use gateway_events::store::postgres;
use rustls::ClientConfig;
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};

use crate::both_databases::Backend;
use crate::server::Database;
use crate::store_postgres;
use crate::support::{JsonApi, Service};

mod database_outage;
mod full_speed;
mod gateways;
mod inbox_program;
mod node_kills;
mod partition;
mod publishers;
mod rolling;
mod takeover;

use gateways::Fleet;
use publishers::Published;

/// How long to wait until the nodes are idle. A dead node's connections are closed half a minute
/// after its last heartbeat.
const IDLE_TIMEOUT: Duration = Duration::from_mins(4);

/// A node's address and directory, which a restart keeps.
#[derive(Clone)]
struct Address {
    api: JsonApi,
    tls: Arc<ClientConfig>,
}

/// Real nodes, started one after another. Field order: they end before their database.
struct Cluster {
    nodes: Vec<Service>,
    addresses: Arc<[Address]>,
    backend: Backend,
}

impl Cluster {
    async fn start(database: Database, size: usize, settings: &[(&str, &str)]) -> Self {
        let backend = Backend::Postgres(database);
        // Gateways reconnect again and again, which must not be rate-limited.
        let settings = [settings, &[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]].concat();
        let mut nodes = vec![backend.start_with(&settings).await];
        while nodes.len() < size {
            nodes.push(nodes[0].another().await);
        }
        let address = |node: &Service| Address {
            api: node.api(),
            tls: node.trust().client_config().expect("a TLS client"),
        };
        Self { addresses: nodes.iter().map(address).collect(), nodes, backend }
    }

    fn database(&self) -> &Database {
        match &self.backend {
            Backend::Postgres(database) => database,
            Backend::Sqlite => unreachable!("nodes share a database"),
        }
    }

    /// Another program's connection to the database.
    async fn connection(&self) -> PgConnection {
        connect(&self.database().url()).await.expect("the server answers")
    }

    /// Waits until everything accepted is confirmed and all nodes list the same live connections:
    /// the fleet's, and this many others. Returns the ids of the fleet's.
    async fn wait_until_idle(&self, fleet: &Fleet, others: usize) -> Vec<String> {
        let mut last = String::new();
        let mut polls = tokio::time::interval(Duration::from_millis(200));
        let idle = tokio::time::timeout(IDLE_TIMEOUT, async {
            loop {
                polls.tick().await;
                match self.idle_connections(fleet, others).await {
                    Ok(live) => return live,
                    Err(in_progress) => last = in_progress,
                }
            }
        });
        idle.await.unwrap_or_else(|_| panic!("{last}\n{}", self.logs()))
    }

    /// The ids of the fleet's connections if nothing is in progress; otherwise what is.
    async fn idle_connections(&self, fleet: &Fleet, others: usize) -> Result<Vec<String>, String> {
        let mut connection = self.connection().await;
        let inbox: i64 = sqlx::query_scalar("select count(*) from inbox")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        if inbox > 0 {
            return Err(format!("the inbox has {inbox} rows"));
        }
        let behind: Vec<String> = sqlx::query_scalar(
            "select name || ' has ' || coalesce(received, 0) || ' of ' || head
             from gateways join streams using (gateway)
             left join cursors on cursors.gateway = streams.gateway and instance = ''
             where coalesce(received, 0) < head",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        if !behind.is_empty() {
            return Err(format!("not all events are confirmed: {behind:?}"));
        }
        let live = fleet.live();
        for (index, node) in self.addresses.iter().enumerate() {
            let shown = node.api.connections(None, &ConnectionsQuery::default(), usize::MAX).await;
            let shown = shown.map_err(|error| error.to_string())?.list;
            let shown: BTreeSet<_> =
                shown.iter().map(|connection| connection.connection_id.to_string()).collect();
            if shown.len() != live.len() + others || !live.iter().all(|id| shown.contains(id)) {
                return Err(format!("node {index} lists {shown:?}, but {live:?} are connected"));
            }
        }
        Ok(live)
    }

    /// Waits until the cluster is idle, stops it, and checks the invariants: every accepted event
    /// has arrived in order at its targets, nothing else has arrived, and the database is
    /// consistent.
    async fn stop_and_verify(mut self, fleet: Fleet, published: &[Published]) {
        self.wait_until_idle(&fleet, 0).await;
        let (gateways, mut connection) = (fleet.stop().await, self.connection().await);
        for gateway in &gateways {
            let head: i64 = sqlx::query_scalar(
                "select head from streams join gateways using (gateway) where id::text = $1",
            )
            .bind(&gateway.id)
            .fetch_one(&mut connection)
            .await
            .unwrap();
            gateway.verify(head, published);
        }
        let rejected: Vec<String> = sqlx::query_scalar("select detail from inbox_rejected")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        assert_eq!(rejected, Vec::<String>::new());
        for node in &mut self.nodes {
            node.kill().await;
        }
        let report = postgres::verify(&store_postgres::options(self.database())).await.unwrap();
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
        assert_eq!(report.dead_letters, 0, "no gateway rejected an event");
    }

    /// The end of each node's log.
    fn logs(&self) -> String {
        let log = |node: &Service| {
            let log = node.log();
            let lines: Vec<_> = log.lines().rev().take(40).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        self.nodes.iter().map(log).collect::<Vec<_>>().join("\n\n")
    }
}

async fn connect(url: &str) -> sqlx::Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    options.connect().await
}

fn string(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("no {member}: {value}")).to_owned()
}

/// A generator of random numbers with a random seed, or the one in `STORY_SEED`.
#[expect(clippy::print_stdout, reason = "the seed is shown when the test fails")]
fn random_from_seed() -> fastrand::Rng {
    let given = std::env::var("STORY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("STORY_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Prints what a test measured, for `--nocapture`.
#[expect(clippy::print_stdout, reason = "figures are for people")]
fn print_figures(figures: std::fmt::Arguments<'_>) {
    println!("{figures}");
}

/// The sequence of an event in the log of each gateway, by the gateway's id.
type Sequences = BTreeMap<String, i64>;
