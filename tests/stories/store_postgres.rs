//! The Postgres store conforms to the store's contract, and some properties of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayId, NodeId, OrganisationKey, Reason, Sequence};
use gateway_events::store::postgres::{
    OpenError, Options, PostgresStore, migrate, pending_migrations, verify,
};
use gateway_events::store::{
    Actions as _, Bulk as _, Conflict, Credentials as _, DeliveryFilter, DeliveryState,
    Health as _, Ledger as _, Maintenance as _, NewToken, Record, RedriveSelection,
    ReportedFailure, RetentionLimits, SchemaError, Scope, StoreError, Target, TrimMark,
};
use gateway_events::wake::Wake;
use sqlx::migrate::Migrator;
use sqlx::{Connection as _, PgConnection};

use crate::conformance::{self, Fixture};
use crate::inbox_program_postgres::Program;
use crate::server::Database;

pub(crate) fn options(database: &Database) -> Options {
    Options { url: database.url().into(), ..Options::default() }
}

/// Opens the store of a node on a database.
pub(crate) async fn open(database: &Database) -> Result<Arc<PostgresStore>, OpenError> {
    open_with(database, NodeId::new(), Wake::default()).await
}

pub(crate) async fn open_with(
    database: &Database,
    node: NodeId,
    wake: Wake,
) -> Result<Arc<PostgresStore>, OpenError> {
    PostgresStore::open(&options(database), node, wake).await
}

async fn fresh() -> (Arc<PostgresStore>, Database) {
    let database = Database::new();
    (open(&database).await.expect("it opens"), database)
}

conformance::conforms!(fresh);
conformance::conforms_beside_another_program!(fresh, Program::start);

#[tokio::test]
async fn opening_migrates_the_schema() {
    let database = Database::new();
    assert!(!pending_migrations(&options(&database)).await.unwrap().is_empty());
    migrate(&options(&database)).await.unwrap();
    assert!(pending_migrations(&options(&database)).await.unwrap().is_empty());
    open(&database).await.unwrap().close().await;
    let report = verify(&options(&database)).await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

/// As when another node has stored the same key meanwhile.
#[tokio::test]
async fn a_lost_race_is_a_conflict_that_names_nothing_of_the_database() {
    let database = Database::new();
    let store = open(&database).await.unwrap();
    let organisation = store.organisation("default").await.unwrap();
    let create = async || {
        let token = NewToken { id: "same".to_owned(), digest: [1; 32], expires_at: None };
        store
            .create_access_token(&conformance::actor(organisation), "one", &[Scope::Read], token)
            .await
    };
    create().await.unwrap();
    let lost = create().await.unwrap_err();
    assert!(matches!(lost, StoreError::Conflict(Conflict::Concurrent)), "{lost:?}");
    assert!(!lost.to_string().contains("access_tokens"), "{lost}");
    store.close().await;
}

/// Waits until a session of this database waits for a lock.
async fn a_session_waits(conn: &mut PgConnection) {
    let waits = tokio::time::timeout(Duration::from_mins(1), async {
        let mut polls = tokio::time::interval(Duration::from_millis(10));
        loop {
            polls.tick().await;
            let waiting: bool = sqlx::query_scalar(
                "select exists (
                    select 1 from pg_locks l join pg_stat_activity a using (pid)
                    where not l.granted and a.datname = current_database()
                )",
            )
            .fetch_one(&mut *conn)
            .await
            .expect("an answer");
            if waiting {
                return;
            }
        }
    });
    waits.await.expect("a session waits for a lock");
}

/// A node locks streams and then reads gateways; a migration locks both tables.
#[tokio::test]
async fn a_migration_and_a_running_node_do_not_deadlock() {
    const RUNNING: i64 = 7;
    let database = Database::new();
    let mut node = PgConnection::connect(&database.url()).await.unwrap();
    let mut older = Migrator::new(Path::new("migrations/postgres")).await.unwrap();
    older.migrations.to_mut().retain(|migration| migration.version <= RUNNING);
    older.run(&mut node).await.unwrap();
    let mut watcher = PgConnection::connect(&database.url()).await.unwrap();
    let mut batch = node.begin().await.unwrap();
    sqlx::query("select 1 from streams for update").execute(&mut *batch).await.unwrap();
    let options = options(&database);
    let migration = migrate(&options);
    let node = async {
        a_session_waits(&mut watcher).await;
        sqlx::query("select 1 from gateways").execute(&mut *batch).await.unwrap();
        batch.commit().await.unwrap();
    };
    let both = async { tokio::join!(migration, node) };
    let (migrated, ()) = tokio::time::timeout(Duration::from_mins(2), both).await.unwrap();
    migrated.unwrap();
}

/// The job that records expired events locks streams and then updates events.
#[tokio::test]
async fn retention_and_expiry_lock_streams_before_events() {
    let database = Database::new();
    let store = open(&database).await.unwrap();
    let fixture = Fixture::of(store.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 4).await;
    let (id, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![conformance::confirmed(&gateway, id, 1, 4)]).await;
    // One that was trimmed, beyond the hard limit.
    database.run(
        "insert into trimmed select gateway, sequence, event from outbox where sequence = 1;
         delete from outbox where sequence = 1;
         update streams set floor = 1",
    );
    let limits =
        RetentionLimits { max_age: Duration::ZERO, hard_max_events: 1, ..conformance::keep_all() };
    let mut conn = PgConnection::connect(&database.url()).await.unwrap();
    let mut watcher = PgConnection::connect(&database.url()).await.unwrap();
    let mut expiry = conn.begin().await.unwrap();
    sqlx::query("select 1 from streams for update").execute(&mut *expiry).await.unwrap();
    let retention = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.trim(&limits, &mut TrimMark::default()).await })
    };
    a_session_waits(&mut watcher).await;
    sqlx::query("update events set expires_at = null").execute(&mut *expiry).await.unwrap();
    expiry.commit().await.unwrap();
    let trimmed = retention.await.unwrap().unwrap();
    assert_eq!((trimmed.events, trimmed.deliveries), (4, 3), "{trimmed:?}");
    store.close().await;
}

/// Applies the limits to everything; returns how many events it removed.
async fn trim_all(store: &PostgresStore, limits: &RetentionLimits) -> u64 {
    let (mut mark, mut events) = (TrimMark::default(), 0);
    loop {
        let trimmed = store.trim(limits, &mut mark).await.expect("it trims");
        events += trimmed.events;
        if !trimmed.more {
            return events;
        }
    }
}

/// The answer to a query for one number.
async fn number(database: &Database, query: &'static str) -> i64 {
    let mut conn = PgConnection::connect(&database.url()).await.expect("a session");
    sqlx::query_scalar(query).fetch_one(&mut conn).await.expect("a number")
}

/// A store with a dead letter of an event that is in no log any more.
async fn trimmed_dead_letter() -> (Arc<PostgresStore>, Database, OrganisationKey, GatewayId) {
    let database = Database::new();
    let store = open(&database).await.expect("it opens");
    let fixture = Fixture::of(store.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 1).await;
    let (id, _, _) = fixture.open(&gateway).await;
    let failed = Record::Reported {
        gateway: gateway.key,
        connection: id,
        instance: "".into(),
        sequence: Sequence(1),
        result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    fixture.record(vec![failed, conformance::confirmed(&gateway, id, 1, 1)]).await;
    let limits = RetentionLimits { max_age: Duration::ZERO, ..conformance::keep_all() };
    trim_all(&store, &limits).await;
    assert_eq!(number(&database, "select count(*) from outbox").await, 0);
    let organisation = fixture.organisation;
    (store, database, organisation, gateway.id)
}

#[tokio::test]
async fn retention_keeps_an_event_that_is_being_appended_again() {
    let (store, database, ..) = trimmed_dead_letter().await;
    let none = RetentionLimits {
        max_age: Duration::ZERO,
        dead_letter_max_age: Duration::ZERO,
        ..conformance::keep_all()
    };
    let mut conn = PgConnection::connect(&database.url()).await.unwrap();
    let mut redrive = conn.begin().await.unwrap();
    sqlx::query("select 1 from events for key share").execute(&mut *redrive).await.unwrap();
    assert_eq!(trim_all(&store, &none).await, 0, "events removed while one of them is locked");
    redrive.rollback().await.unwrap();
    assert_eq!(trim_all(&store, &none).await, 1, "events removed afterwards");
    store.close().await;
}

#[tokio::test]
async fn a_redrive_of_an_event_that_retention_deletes_meanwhile_appends_nothing() {
    let (store, database, organisation, gateway) = trimmed_dead_letter().await;
    let mut conn = PgConnection::connect(&database.url()).await.unwrap();
    let mut watcher = PgConnection::connect(&database.url()).await.unwrap();
    let mut retention = conn.begin().await.unwrap();
    for text in ["delete from trimmed", "delete from events"] {
        sqlx::query(text).execute(&mut *retention).await.unwrap();
    }
    let redrive = {
        let store = Arc::clone(&store);
        let selection = RedriveSelection::One(gateway, Sequence(1));
        tokio::spawn(async move {
            store.redrive(&conformance::actor(organisation), selection, false).await
        })
    };
    a_session_waits(&mut watcher).await;
    retention.commit().await.unwrap();
    let refused = redrive.await.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert_eq!(number(&database, "select head from streams").await, 1);
    assert_eq!(number(&database, "select count(*) from outbox").await, 0);
    store.close().await;
}

/// Whichever of the two is first, the event is not delivered to the other gateway.
#[tokio::test]
async fn a_purge_and_a_resend_of_the_same_event_take_turns() {
    let database = Database::new();
    let (store, other) = (open(&database).await.unwrap(), open(&database).await.unwrap());
    let fixture = Fixture::of(store.as_ref()).await;
    // The one that the event is resent to sorts before the one that has it.
    let (second, first) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let actor = fixture.actor();
    let mut outcomes = Vec::new();
    for _ in 0..20 {
        let event = conformance::event(Target::Gateways(vec![first.id]));
        let id = event.event.id.clone();
        fixture.publish(vec![event]).await;
        let target = Target::Gateways(vec![second.id]);
        let (purged, resent) = tokio::join!(
            store.purge_event(&actor, &id, "leaked", false),
            other.resend(&actor, &id, target, false, false),
        );
        assert!(purged.unwrap().changed);
        let history = store.event_history(fixture.organisation, &id).await.unwrap().unwrap();
        let states = history.deliveries.iter().map(|it| (it.state, it.reason));
        let given_up = (DeliveryState::Failed, Some(Reason::Purged));
        assert!(states.clone().all(|state| state == given_up), "{resent:?}: {states:?}");
        outcomes.push(resent.is_ok());
        assert_eq!(history.deliveries.len(), if resent.is_ok() { 2 } else { 1 });
    }
    let report = verify(&options(&database)).await.unwrap();
    assert!(report.problems.is_empty(), "{outcomes:?}: {:?}", report.problems);
    store.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_newer_or_an_edited_schema_is_refused() {
    let database = Database::new();
    migrate(&options(&database)).await.unwrap();
    database.run(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'from tomorrow', true, '\\x00', 0)",
    );
    let refused = open(&database).await.err().unwrap();
    assert!(matches!(refused, OpenError::Schema(SchemaError::Newer(9999))), "{refused}");
    let refused = pending_migrations(&options(&database)).await.err().unwrap();
    assert!(matches!(refused, OpenError::Schema(SchemaError::Newer(9999))), "{refused}");
    database.run("delete from _sqlx_migrations where version = 9999");
    database.run("update _sqlx_migrations set checksum = '\\x00'");
    let refused = open(&database).await.err().unwrap();
    assert!(matches!(refused, OpenError::Schema(SchemaError::Edited(1))), "{refused}");
}

#[tokio::test]
async fn an_unreachable_server_is_reported_without_the_password() {
    let url = "postgres://me:hunter2@127.0.0.1:1/events?sslmode=disable".to_owned();
    let options = Options { url: url.into(), ..options(&Database::new()) };
    let refused = PostgresStore::open(&options, NodeId::new(), Wake::default()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("127.0.0.1:1") && !refused.contains("hunter2"), "{refused}");
}

/// The server plans a statement while its table is new and empty, and keeps that plan, which must
/// still be good when the table has grown.
#[tokio::test]
async fn a_log_that_grows_from_empty_is_never_read_completely() {
    const EVENTS: i64 = 2000;
    let database = Database::new();
    let store = open(&database).await.unwrap();
    let fixture = Fixture::of(store.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    for _ in 0..EVENTS / 20 {
        fixture.fill(&gateway, 20).await;
    }
    // The statistics of a session are complete when it has ended.
    store.close().await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let counted = tokio::time::timeout(Duration::from_mins(1), async {
        let mut polls = tokio::time::interval(Duration::from_millis(50));
        loop {
            polls.tick().await;
            let (inserted, read): (i64, i64) = sqlx::query_as(
                "select n_tup_ins, seq_tup_read + coalesce(idx_tup_fetch, 0)
                 from pg_stat_user_tables where relname = 'events'",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            if inserted == EVENTS {
                return read;
            }
        }
    });
    let read = counted.await.expect("the server counts what was inserted");
    // Each row is read once, by the key that refers to it.
    assert!(read < 3 * EVENTS, "{read} rows were read in passing");
}

/// Likewise for the ledger, which is queried before there are statistics.
#[tokio::test]
async fn a_ledger_that_grows_from_empty_is_never_read_completely() {
    const FAILURES: i64 = 20_000;
    const QUERIES: i64 = 10;
    const PAGE: i64 = 100;
    let database = Database::new();
    let store = open(&database).await.unwrap();
    let fixture = Fixture::of(store.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    for filling in [
        "insert into events (organisation, id, type, payload, correlation_id, occurred_at,
            appended_at, digest)
         select 1, 'e' || n, 'a.b', '{}', 'c', now(), now(), '' from generate_series(1, $2) n
         where $1 > 0",
        "insert into outbox (gateway, sequence, event)
         select $1, row_number() over (order by event), event from events where $2 > 0",
        "update streams set head = $2, missed = $2 where gateway = $1",
        "insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
            node, started_at, finished_at)
         select $1, n, n, 'failed', 'not_connected', '', gen_random_uuid(), at, at
         from generate_series(1, $2) n, lateral (select now() - n * interval '1 second') as t (at)",
    ] {
        let filled = sqlx::query(filling).bind(gateway.key.0).bind(FAILURES);
        filled.execute(&mut connection).await.unwrap();
    }
    let all = DeliveryFilter::default();
    let one = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
    for _ in 0..QUERIES / 2 {
        for filter in [&all, &one] {
            let page = store.failed_deliveries(fixture.organisation, filter, None, 100).await;
            assert_eq!(page.unwrap().rows.len(), 100);
        }
    }
    // The statistics of a session are complete when it has ended.
    store.close().await;
    let counted = tokio::time::timeout(Duration::from_mins(1), async {
        let mut polls = tokio::time::interval(Duration::from_millis(50));
        loop {
            polls.tick().await;
            let (others, read): (i64, i64) = sqlx::query_as(
                "select (select count(*) from pg_stat_activity
                         where datname = current_database() and pid <> pg_backend_pid()),
                    (select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
                     where relname = 'attempts')
                    + (select seq_tup_read from pg_stat_user_tables where relname = 'attempts')",
            )
            .fetch_one(&mut connection)
            .await
            .unwrap();
            if others == 0 {
                return read;
            }
        }
    });
    let read = counted.await.expect("the store's sessions end");
    assert!(read >= QUERIES * PAGE, "{read} rows: nothing was counted");
    assert!(read < 20 * QUERIES * PAGE, "{read} rows were read for {QUERIES} pages");
}
