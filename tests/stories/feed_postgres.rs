//! The feed of several nodes on Postgres.

use std::collections::BTreeSet;

use gateway_events::api::{FeedKind, FeedMessage, FeedQuery};
use serde_json::json;
use sqlx::Connection as _;

use crate::feed::Following;
use crate::inbox_program_postgres::Program;
use crate::server::Database;
use crate::support::{Service, deployed};

fn published() -> FeedQuery {
    FeedQuery { types: vec![FeedKind::Published], ..FeedQuery::default() }
}

async fn next(feed: &mut Following) -> String {
    match feed.next().await {
        FeedMessage::Published(event) => event.event_id.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Publishes events with these ids, one request each; returns those that were accepted.
async fn publish(service: &Service, gateway: String, prefix: &str, count: usize) -> Vec<String> {
    let api = service.api();
    let mut accepted = Vec::new();
    for nth in 0..count {
        let mut event = deployed(&[&gateway], "d");
        event["id"] = json!(format!("{prefix}-{nth}"));
        if api.post("/events", &event).await.is_ok() {
            accepted.push(format!("{prefix}-{nth}"));
        }
    }
    accepted
}

#[tokio::test]
async fn a_feed_survives_the_loss_of_its_node_and_misses_no_event_of_any_node() {
    let database = Database::new();
    let first = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
    let mut second = first.another().await;
    let (one, _) = first.gateway("one").await;
    let (two, _) = first.gateway("two").await;
    let mut feed = Following::start(&second, published(), None).await;
    // Two nodes append to different logs at the same time, so keys become visible in any order.
    let (of_first, of_second) = tokio::join!(
        publish(&first, one.clone(), "first", 60),
        publish(&second, two.clone(), "second", 60)
    );
    let mut expected: BTreeSet<String> = of_first.into_iter().chain(of_second).collect();
    assert_eq!(expected.len(), 120);
    let mut seen = Vec::new();
    for _ in 0..50 {
        seen.push(next(&mut feed).await);
    }
    let id = feed.last_id();
    second.kill().await;
    expected.extend(publish(&first, one, "later", 20).await);
    let mut feed = Following::start(&first, published(), Some(&id)).await;
    while seen.len() < expected.len() {
        seen.push(next(&mut feed).await);
    }
    let all: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(all, expected, "each event is shown");
    assert_eq!(seen.len(), all.len(), "and none twice");
}

#[tokio::test]
async fn an_event_that_becomes_visible_late_is_shown_also_after_a_reconnect() {
    let database = Database::new();
    let service = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
    let (one, _) = service.gateway("one").await;
    let program = Program::start(&database).await;
    let mut connection = program.connection().await;
    let insert = "insert into events (organisation, id, type, payload, correlation_id, occurred_at, appended_at, digest)
        select min(organisation), $1, 'api.deployed', '{}', $1, now(), clock_timestamp(), ''::bytea from organisations";
    let mut feed = Following::start(&service, published(), None).await;
    let mut open = connection.begin().await.expect("begun");
    sqlx::query(insert).bind("late-1").execute(&mut *open).await.expect("inserted");
    publish(&service, one.clone(), "early", 2).await;
    assert_eq!(next(&mut feed).await, "early-0");
    assert_eq!(next(&mut feed).await, "early-1");
    let id = feed.last_id();
    // One that begins while a transaction is open also shows what that commits.
    let mut begun = Following::start(&service, published(), None).await;
    open.commit().await.expect("committed");
    assert_eq!(next(&mut feed).await, "late-1");
    assert_eq!(next(&mut begun).await, "late-1");
    let mut again = Following::start(&service, published(), Some(&id)).await;
    assert_eq!(next(&mut again).await, "late-1");
    // What was rolled back is never shown, and delays nothing.
    let mut open = connection.begin().await.expect("begun");
    sqlx::query(insert).bind("never").execute(&mut *open).await.expect("inserted");
    open.rollback().await.expect("rolled back");
    publish(&service, one, "last", 1).await;
    for feed in [&mut feed, &mut begun, &mut again] {
        assert_eq!(next(feed).await, "last-0");
    }
}
