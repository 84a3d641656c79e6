//! The database is unavailable for a while: no gateway is disconnected permanently, nothing is
//! lost, and everything recovers by itself.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use gateway_events::client::api::ApiError;
use serde_json::json;
use sqlx::sqlite::{Sqlite, SqliteConnectOptions};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, Transaction};

use crate::both_databases::Backend;
use crate::raw_gateway::{CLOSE, RawGateway};
use crate::server::Database;
use crate::support::{Service, TEST_TIMEOUT, deployed, failed_report};

/// Another program's connection to the service's database.
async fn another(service: &Service) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(service.database());
    options.connect().await.expect("the database")
}

async fn lock(connection: &mut SqliteConnection) -> Transaction<'_, Sqlite> {
    connection.begin_with("begin immediate").await.expect("the lock")
}

#[track_caller]
fn assert_unavailable(error: &ApiError) {
    let ApiError::Refused(problem) = error else { panic!("{error}") };
    assert_eq!(problem.status, 503, "{problem:?}");
    assert!(problem.retry_after_secs.is_some(), "{problem:?}");
}

#[tokio::test]
async fn sockets_survive_a_locked_database_and_receipts_wait_for_it() {
    // Only pongs keep a peer's connection open here, so it must still be pinged.
    let service = Service::start_with(&[
        ("DELIVERY__HEARTBEAT_INTERVAL", "500ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "4s"),
    ])
    .await;
    let (id, key) = service.gateway("one").await;
    let api = service.api();
    let mut socket = service.connected(&key).await;
    api.post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    socket.expect(1..=1).await;
    let mut other = another(&service).await;
    let locked = lock(&mut other).await;
    // The pong that confirms the event is sent only now.
    let socket = socket.serve();
    let event = deployed(&[&id], "d-2");
    let publishing = (0..8).map(|_| api.post("/events", &event));
    let (refused, admitted) =
        tokio::join!(futures_util::future::join_all(publishing), service.connect(&key));
    for answer in &refused {
        assert_unavailable(answer.as_ref().expect_err("nothing can be stored"));
    }
    // With any other status than 503, a gateway would not reconnect.
    assert_eq!(admitted.err().expect("no connection can be recorded").0, 503);
    assert_unavailable(&api.root("/readyz").await.expect_err("not ready"));
    locked.rollback().await.expect("unlocked");
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 1).await;
    let answer = api.post("/events", &event).await.expect("accepted");
    assert_eq!(answer["deliveries"][0]["sequence"], 2, "nothing was stored meanwhile");
    service.eventually(&path, |gateway| gateway["confirmed"] == 2).await;
    let connections = api.get(&format!("/gateways/{id}/connections")).await.expect("a list");
    assert_eq!(connections["count"], 1, "{connections:#}");
    assert_eq!(connections["list"][0]["status"], "connected", "{connections:#}");
    socket.abort();
}

#[tokio::test]
async fn many_publishers_wait_for_a_locked_database_together_and_not_one_after_another() {
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let api = service.api();
    let mut other = another(&service).await;
    let locked = lock(&mut other).await;
    let started = tokio::time::Instant::now();
    let event = deployed(&[&id], "d-1");
    let publishing = (0..20).map(|_| api.post("/events", &event));
    for answer in futures_util::future::join_all(publishing).await {
        assert_unavailable(&answer.expect_err("nothing can be stored"));
    }
    // One wait for the batch in progress, and one for all the others; not 20.
    assert!(started.elapsed() < TEST_TIMEOUT, "{:?}", started.elapsed());
    locked.rollback().await.expect("unlocked");
    api.post("/events", &deployed(&[&id], "d-2")).await.expect("accepted");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_keeps_accepted_events() {
    let service = Service::start_with(&[("DATABASE__QUEUE_EVENTS", "4")]).await;
    let (id, _) = service.gateway("one").await;
    let api = service.api();
    // Connected already, so that all requests arrive within the five seconds that the first one
    // waits.
    let first = (0..12).map(|_| api.get("/gateways"));
    assert!(futures_util::future::join_all(first).await.iter().all(Result::is_ok));
    let mut other = another(&service).await;
    let locked = lock(&mut other).await;
    let event = |name: usize| {
        let mut event = deployed(&[&id], "d-1");
        event["id"] = json!(format!("e-{name}"));
        event
    };
    let publish = |name: usize| {
        let (api, event) = (api.clone(), event(name));
        async move { (event["id"].clone(), api.post("/events", &event).await) }
    };
    let mut publishing: FuturesUnordered<_> = (0..12).map(publish).collect();
    for _ in 0..8 {
        let (_, answer) = publishing.next().await.expect("an answer");
        assert_unavailable(&answer.expect_err("the queue is full"));
    }
    locked.rollback().await.expect("unlocked");
    let mut accepted = Vec::new();
    while let Some((event, answer)) = publishing.next().await {
        assert_eq!(answer.expect("it was in the queue")["id"], event);
        accepted.push(event);
    }
    assert_eq!(accepted.len(), 4);
    for event in &accepted {
        let path = format!("/events/{}", event.as_str().expect("an id"));
        api.get(&path).await.expect("stored");
    }
    let gateway = api.get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert_eq!(gateway["head"], 4);
}

/// Gateways send a report once.
#[tokio::test]
async fn a_report_is_recorded_although_its_gateway_left_while_the_database_was_unavailable() {
    for backend in [Backend::Sqlite, Backend::Postgres(Database::alone())] {
        let service = backend.start().await;
        let (id, key) = service.gateway("one").await;
        let mut gateway = RawGateway::connect(&service, service.port, &key).await;
        service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
        assert_eq!(gateway.event().await["sequence"], 1);
        let mut other = None;
        match &backend {
            Backend::Sqlite => {
                let mut locked = another(&service).await;
                sqlx::raw_sql("begin immediate").execute(&mut locked).await.expect("the lock");
                other = Some(locked);
            }
            Backend::Postgres(database) => database.control("stop -m immediate"),
        }
        gateway.text(&failed_report("d-1")).await;
        gateway.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
        while gateway.next().await.is_some() {}
        if matches!(backend, Backend::Postgres(_)) {
            service.logged(|log| log.contains("timed out matching the last reports")).await;
        }
        match (&backend, other) {
            (Backend::Postgres(database), _) => database.control("start"),
            (Backend::Sqlite, other) => drop(other),
        }
        let path = format!("/deliveries?gatewayId={id}");
        let page = service.eventually(&path, |page| page["count"] == 1).await;
        assert_eq!(page["list"][0]["reason"], "gateway_processing_error", "{page:#}");
        let shown = service.eventually(&format!("/gateways/{id}"), |it| it["confirmed"] == 1).await;
        assert_eq!(shown["verdict"]["state"], "failing", "{shown:#}");
    }
}
