//! The inbox on Postgres, where many programs insert at the same time.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use futures_util::future::join_all;
use gateway_events::event::{EventId, Sequence};
use gateway_events::store::postgres::{PostgresStore, verify};
use gateway_events::store::{Gateway, Health as _, Inbox as _, Log as _, Target, ValidatedRow};
use serde_json::json;
use sqlx::Connection as _;

use crate::conformance::{Fixture, InboxProgram as _, Row, event_with};
use crate::inbox_program::deployed;
use crate::inbox_program_postgres::{Program, insert};
use crate::server::Database;
use crate::store_postgres::{open, options};
use crate::support::Service;

async fn service(database: &Database) -> Service {
    Service::start_with(&[("DATABASE__URL", &database.url())]).await
}

async fn sound(database: &Database) {
    let report = verify(&options(database)).await.unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

#[tokio::test]
async fn uncommitted_rows_of_another_program_delay_no_other_row() {
    let database = Database::new();
    let service = service(&database).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let (slow, quick) = (Program::start(&database).await, Program::start(&database).await);
    let mut connection = slow.connection().await;
    let mut open = connection.begin().await.unwrap();
    let first = insert(&mut open, &deployed(&id, "d-1")).await;
    let second = quick.insert(&[deployed(&id, "d-2")]).await;
    assert_eq!(socket.expect(1..=1).await[0]["eventId"], second[0]);
    // Its row was inserted first, and becomes visible last.
    open.commit().await.unwrap();
    assert_eq!(socket.expect(2..=2).await[0]["eventId"], first);
    let mut open = connection.begin().await.unwrap();
    insert(&mut open, &deployed(&id, "never")).await;
    open.rollback().await.unwrap();
    quick.insert(&[Row { event_type: "no.such".to_owned(), ..deployed(&id, "d-3") }]).await;
    let aside =
        service.eventually("/inbox/rejected", |page| page["list"][0]["type"] == "no.such").await;
    assert_eq!(aside["list"][0]["gatewayId"], json!(id), "{aside:#}");
    sound(&database).await;
}

#[tokio::test]
async fn rows_are_found_without_notifications() {
    let database = Database::new();
    let service = service(&database).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    database.run("alter table inbox disable trigger inbox_says_so");
    let program = Program::start(&database).await;
    let ids = program.insert(&[deployed(&id, "d-1")]).await;
    assert_eq!(socket.expect(1..=1).await[0]["eventId"], ids[0]);
    // The same holds when the listener has lost its connection.
    database.run("alter table inbox enable trigger inbox_says_so");
    database.run(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and query ilike 'listen%'",
    );
    let ids = program.insert(&[deployed(&id, "d-2")]).await;
    assert_eq!(socket.expect(2..=2).await[0]["eventId"], ids[0]);
}

#[tokio::test]
async fn a_value_too_long_for_an_index_delays_no_other_row() {
    let database = Database::new();
    let service = service(&database).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let long: String = (0..300).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    let rows = [
        Row { organisation: Some(long.clone()), ..deployed(&id, "d-1") },
        Row { event_type: long.clone(), ..deployed(&id, "d-1") },
        Row { event_id: Some(long.clone()), ..deployed(&id, "d-1") },
        Row { target: Some(long.clone()), gateway_id: None, ..deployed(&id, "d-1") },
        deployed(&id, &long),
        deployed(&id, "d-2"),
    ];
    let ids = Program::start(&database).await.insert(&rows).await;
    let arrived = socket.expect(1..=2).await;
    assert_eq!([&arrived[0]["eventId"], &arrived[1]["eventId"]], [&ids[4], &ids[5]]);
    service.eventually("/inbox/rejected", |page| page["list"][2].is_object()).await;
    let report = verify(&options(&database)).await.unwrap();
    assert_eq!((report.rejected, report.inbox), (4, 0), "{:#?}", report.problems);
}

#[tokio::test]
async fn inbox_program_needs_only_the_documented_grants() {
    let database = Database::new();
    open(&database).await.unwrap().close().await;
    let granted = include_str!("../../docs/PUBLISHING.md")
        .lines()
        .skip_while(|line| !line.contains("create role"))
        .map_while(|line| line.strip_prefix("    "))
        .map(|line| line.split("-- ").next().unwrap())
        .collect::<Vec<_>>()
        .join("\n");
    database.run(&granted);
    let program = Program::start(&database).await;
    let mut connection = program.connection().await;
    sqlx::query("set role gateway_events_platform").execute(&mut *connection).await.unwrap();
    insert(&mut connection, &deployed(&uuid::Uuid::now_v7().to_string(), "d-1")).await;
    for optional in ["traceparent", "collapse_key"] {
        let row =
            format!("insert into inbox (type, payload, {optional}) values ('a.b', '{{}}', 'x')");
        sqlx::query(sqlx::AssertSqlSafe(row)).execute(&mut *connection).await.expect(optional);
    }
    let plain = "insert into inbox (type, payload) values ('a.b', '{}') returning event_id";
    let id: String = sqlx::query_scalar(plain).fetch_one(&mut *connection).await.unwrap();
    assert!(uuid::Uuid::parse_str(&id).is_ok(), "{id}");
    for beyond in [
        "select payload from inbox",
        "select * from events",
        "select * from inbox_rejected",
        "delete from inbox",
        "insert into inbox (id, type, payload) values (1, 'a.b', '{}')",
        "insert into inbox (inserted_at, type, payload) values (now(), 'a.b', '{}')",
    ] {
        let refused = sqlx::query(beyond).execute(&mut *connection).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{beyond}: {refused}");
    }
}

/// Moves all visible rows, as a node does; returns how many were moved.
async fn move_all(store: &PostgresStore, gateway: &Gateway) -> usize {
    let fixture = Fixture::of(store).await;
    let rows = store.inbox_page(7, 1 << 20).await.unwrap();
    let validated = rows.iter().map(|row| {
        let content = row.content.as_ref().unwrap();
        let id = EventId::new(content.event_id.clone().unwrap()).unwrap();
        let event = event_with(id, Target::Gateways(vec![gateway.id]), &content.payload);
        ValidatedRow { id: row.id, result: Ok((fixture.organisation, event)) }
    });
    store.drain_inbox(validated.collect()).await.unwrap().appended
}

fn row() -> Row {
    Row { event_type: "a.b".to_owned(), payload: "{}".to_owned(), ..Row::default() }
}

#[tokio::test]
async fn a_row_that_another_program_is_deleting_is_skipped() {
    let database = Database::new();
    let store = open(&database).await.unwrap();
    let gateway = Fixture::of(store.as_ref()).await.gateway(&[]).await;
    let program = Program::start(&database).await;
    program.insert(&[row(), row()]).await;
    let mut connection = program.connection().await;
    let mut open = connection.begin().await.unwrap();
    let first = "delete from inbox where id = (select min(id) from inbox)";
    sqlx::query(first).execute(&mut *open).await.unwrap();
    assert_eq!(move_all(&store, &gateway).await, 1);
    assert_eq!(move_all(&store, &gateway).await, 0, "nothing can be moved, and no call blocks");
    open.rollback().await.unwrap();
    assert_eq!(move_all(&store, &gateway).await, 1, "it stays after all");
    store.close().await;
    sound(&database).await;
}

#[tokio::test]
async fn rows_that_another_program_is_deleting_hide_no_later_rows() {
    let database = Database::new();
    let store = open(&database).await.unwrap();
    let gateway = Fixture::of(store.as_ref()).await.gateway(&[]).await;
    let program = Program::start(&database).await;
    // More than a page of them, in a transaction and in a nested one.
    program.insert(&vec![row(); 11]).await;
    let mut connection = program.connection().await;
    let mut open = connection.begin().await.unwrap();
    let first = "delete from inbox where id in (select id from inbox order by id limit 5)";
    sqlx::query(first).execute(&mut *open).await.unwrap();
    let mut within = open.begin().await.unwrap();
    sqlx::query(first).execute(&mut *within).await.unwrap();
    within.commit().await.unwrap();
    assert_eq!(move_all(&store, &gateway).await, 1, "the one behind them");
    open.rollback().await.unwrap();
    assert_eq!(move_all(&store, &gateway).await, 7, "they stay after all");
    assert_eq!(move_all(&store, &gateway).await, 3);
    store.close().await;
    sound(&database).await;
}

#[tokio::test]
async fn nodes_that_drain_the_inbox_concurrently_move_each_row_once() {
    const PROGRAMS: usize = 4;
    const ROUNDS: usize = 10;
    let database = Database::new();
    let (first, second) = (open(&database).await.unwrap(), open(&database).await.unwrap());
    let gateway = Fixture::of(first.as_ref()).await.gateway(&[]).await;
    let inserting = join_all((0..PROGRAMS).map(|_| async {
        let program = Program::start(&database).await;
        let mut ids = Vec::new();
        for _ in 0..ROUNDS {
            ids.extend(program.insert(&[row(), row(), row()]).await);
        }
        ids
    }));
    let moving = join_all([&first, &second].map(|node| async {
        let mut moved = 0;
        while node.read(gateway.key, Sequence::ZERO, 1000, usize::MAX).await.unwrap().rows.len()
            < PROGRAMS * ROUNDS * 3
        {
            moved += move_all(node, &gateway).await;
        }
        moved
    }));
    let (ids, moved) = tokio::join!(inserting, moving);
    assert_eq!(moved.iter().sum::<usize>(), PROGRAMS * ROUNDS * 3);
    let page = first.read(gateway.key, Sequence::ZERO, 1000, usize::MAX).await.unwrap();
    let log: Vec<_> = page.rows.iter().map(|row| row.event.id.as_str().to_owned()).collect();
    for of_one in ids {
        let here: Vec<_> = log.iter().filter(|id| of_one.contains(id)).cloned().collect();
        assert_eq!(here, of_one, "what one program commits keeps its order");
    }
    first.close().await;
    second.close().await;
    sound(&database).await;
}
