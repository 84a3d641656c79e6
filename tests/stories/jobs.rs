//! Background jobs: a job that delivery or the ledger depends on makes the node unready while it
//! can't complete a run, and the probe names it. Housekeeping does not.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use crate::server::Database;
use crate::support::{Service, deployed};

/// More than three intervals of the housekeeping jobs in these tests.
const OVERDUE_IN_READINESS: Duration = Duration::from_secs(20);
/// Three intervals of the job, with a margin.
const OVERDUE: Duration = Duration::from_mins(1);

async fn ready(service: &Service) -> Result<String, String> {
    let answer = service.api().root("/readyz").await;
    answer.map_err(|error| error.to_string())
}

async fn eventually(service: &Service, satisfies: impl Fn(&Result<String, String>) -> bool) {
    let mut polls = tokio::time::interval(Duration::from_millis(100));
    let found = tokio::time::timeout(OVERDUE, async {
        while !satisfies(&ready(service).await) {
            polls.tick().await;
        }
    });
    assert!(found.await.is_ok(), "{:?}\n{}", ready(service).await, service.log());
}

/// Whether a run of the job has failed.
fn has_failed(job: &str, metrics: &str) -> bool {
    let series = format!("gateway_events_job_failures_total{{task=\"{job}\"}} ");
    metrics.lines().any(|line| line.strip_prefix(&series).is_some_and(|count| count != "0"))
}

#[tokio::test]
async fn a_job_that_completes_no_run_is_named_by_readiness() {
    let database = Database::new();
    let service = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
    let (id, _) = service.gateway("one").await;
    assert!(ready(&service).await.is_ok());
    let mut other = PgConnection::connect(&database.url()).await.expect("a connection");
    let mut lock = other.begin().await.expect("a transaction");
    let statement = "lock table inbox in access exclusive mode";
    sqlx::query(statement).execute(&mut *lock).await.expect("the lock");
    // Only the inbox is unavailable to the service.
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    eventually(&service, |ready| {
        ready.as_ref().is_err_and(|refused| refused.contains("background job inbox_drain "))
    })
    .await;
    service.api().post("/events", &deployed(&[&id], "d-2")).await.expect("accepted");
    assert!(has_failed("inbox_drain", &service.metrics().await));
    lock.rollback().await.expect("unlocked");
    eventually(&service, Result::is_ok).await;
    service.logged(|log| log.contains("a background job recovered")).await;
}

#[tokio::test]
async fn a_measurement_that_waits_for_slow_queries_leaves_the_node_ready() {
    let database = Database::new();
    let settings =
        [("DATABASE__URL", database.url()), ("DATABASE__QUERY_CONNECTIONS", "1".to_owned())];
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let service = Service::start_with(&settings).await;
    let mut other = PgConnection::connect(&database.url()).await.expect("a connection");
    let mut lock = other.begin().await.expect("a transaction");
    let statement = "lock table inbox_rejected in access exclusive mode";
    sqlx::query(statement).execute(&mut *lock).await.expect("the lock");
    // Each query waits for the table until it is ended, and the measurement behind them.
    let slow = async || loop {
        let answer = service.api().get("/inbox/rejected").await;
        assert!(answer.is_err(), "{answer:?}");
    };
    let queries = async { tokio::join!(slow(), slow(), slow(), slow()) };
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let polls = async {
        let late = Instant::now() + OVERDUE_IN_READINESS;
        while ticks.tick().await < late {
            ready(&service).await.expect("ready");
        }
    };
    tokio::select! {
        _ = queries => {}
        () = polls => {}
    }
    lock.rollback().await.expect("unlocked");
}

#[tokio::test]
async fn retention_that_fails_leaves_the_node_ready() {
    let database = Database::new();
    let url = database.url();
    let settings = [("DATABASE__URL", url.as_str()), ("RETENTION__INTERVAL", "1s")];
    let service = Service::start_with(&settings).await;
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    let mut lock = other.begin().await.expect("a transaction");
    let statement = "lock table idempotency_keys in access exclusive mode";
    sqlx::query(statement).execute(&mut *lock).await.expect("the lock");
    let (late, longest) = (Instant::now() + OVERDUE_IN_READINESS, Instant::now() + OVERDUE);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut failed = false;
    while Instant::now() < late || !failed {
        let now = ticks.tick().await;
        ready(&service).await.expect("ready");
        failed = failed || has_failed("retention", &service.metrics().await);
        assert!(now < longest, "retention never failed:\n{}", service.log());
    }
    lock.rollback().await.expect("unlocked");
    service.logged(|log| log.contains("a background job recovered")).await;
}

#[tokio::test]
async fn each_job_reports_its_completed_runs() {
    let service = Service::start().await;
    for job in [
        "recorder",
        "not_connected_sweep",
        "inbox_drain",
        "inbox_depth",
        "retention",
        "tidy_up",
        "metrics_upkeep",
        "certificates",
        "heartbeat",
        "high_water",
        "bulk_jobs",
        "event_counts",
    ] {
        let series = format!("gateway_events_job_runs_total{{task=\"{job}\"}} ");
        let runs = async {
            while !service
                .metrics()
                .await
                .lines()
                .any(|line| line.strip_prefix(&series).is_some_and(|count| count != "0"))
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(OVERDUE, runs).await.unwrap_or_else(|_| panic!("{job} never ran"));
    }
}
