//! The first pages of lists read few rows of a large Postgres database, along indexes.
//! Counts the rows that the statements have read, instead of comparing the plans that `explain`
//! would show: with the parameters and the kind of plan of the service.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::time::Duration;

use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{ConnectionId, GatewayId, OrganisationKey, Sequence};
use gateway_events::store::{
    AuditFilter, BulkJobState, Credentials as _, DeliveryFilter, DeliveryState, EventFilter,
    Gateway, GatewayFilter, Gateways as _, Health as _, Labels, LogSpan, Principal, Range, Record,
    RolloutOf, Store, TargetState,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::server::Database;
use crate::store_postgres;
use crate::support::TEST_TIMEOUT;

/// The tables that grow.
const LARGE: &str =
    "'events', 'outbox', 'attempts', 'dead_letters', 'audit', 'connections', 'bulk_jobs'";
const PAGE: usize = 100;
/// Rows that a page may read on average; a scan of a table reads at least as many. The list of
/// gateways examines what is pending and given up after the position of each.
const MAX_ROWS_PER_PAGE: i64 = 20_000;

/// What the tables contain: 200,000 events of the last day, each with a failed attempt, for twenty
/// gateways in turn. Nine in ten are delivered.
const ROWS: [&str; 11] = [
    "insert into gateways (gateway, id, organisation, name, created_at) overriding system value
     select n, gen_random_uuid(), 1, 'gateway-' || n, now() - interval '2 days'
     from generate_series(1, 20) n",
    "insert into streams (gateway, epoch, head, missed)
     select gateway, id, 10000, 10000 from gateways",
    "insert into gateway_history (gateway, changed_at, name, labels, changed_by)
     select gateway, created_at, name, labels, 'x' from gateways",
    "insert into events (event, organisation, id, type, payload, correlation_id, occurred_at,
        appended_at, digest, target, matched) overriding system value
     select n, 1, 'e-' || n, 'api.deployed', '{}', 'c-' || n, at, at, 'x'::bytea, 'gateways', 1
     from generate_series(1, 200000) n,
        lateral (select now() - (200001 - n) * interval '400 ms') as t (at)",
    "insert into outbox (gateway, sequence, event)
     select (event - 1) % 20 + 1, (event - 1) / 20 + 1, event from events",
    "insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance, node,
        started_at, finished_at)
     select o.gateway, o.sequence, o.sequence, 'failed', 'not_connected', '', gen_random_uuid(),
        e.appended_at, e.appended_at
     from events e join outbox o using (event)",
    // Half of what is delivered was filtered. Each of these ranges may cover the sequences after it.
    "insert into attempts (gateway, first_sequence, last_sequence, outcome, instance, node, started_at,
        finished_at)
     select gateway, sequence, sequence + 1, 'filtered', '', gen_random_uuid(), now(), now()
     from outbox where sequence % 4 = 1 and sequence < 9000;
     update events set correlation_id = 'release-7' where event between 90001 and 90100",
    "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
     select gateway, sequence, sequence, 'skipped', now() from outbox where sequence % 10 = 0",
    "insert into cursors (gateway, instance, received, updated_at)
     select gateway, '', 9000, now() from gateways;
     insert into connections (id, gateway, token, instance, transport, node, remote_address,
        connected_at, last_heartbeat_at, closed_at, close_reason, confirmed)
     select gen_random_uuid(), n % 20 + 1, 't', '', 'websocket', gen_random_uuid(), 'a', at, at, at,
        'connection_lost', 0
     from generate_series(1, 50000) n,
        lateral (select now() - (50001 - n) * interval '1 s') as t (at)",
    "insert into audit (sequence, organisation, recorded_at, principal, principal_name, source,
        request_id, action, object_kind, object_id, object_name, before, after, hash)
     select event, 1, appended_at, 'p', 'p', '', '', 'event.purged', 'event', id, '', '{}', '{}',
        decode(repeat('00', 32), 'hex')
     from events where event <= 50000;
     update audit_head set sequence = 50000",
    "insert into bulk_jobs (id, organisation, kind, parameters, principal, principal_name, source,
        request_id, state, position, done, total, counts, node, created_at, updated_at, ended_at)
     select gen_random_uuid(), 1, 'replay',
        '{\"gatewayId\":\"00000000-0000-7000-8000-000000000001\",\"first\":1,\"last\":9}', 'p', 'p', '', '',
        case when n % 200 = 0 then 'aborted' else 'done' end, '{\"replayed\":9}', 9, 9, '{}', null, now(),
        now(), now()
     from generate_series(1, 50000) n",
];

/// The queries.
const QUERIES: [&str; 15] = [
    "events",
    "events of a gateway",
    "failed deliveries",
    "failed deliveries of a gateway",
    "pending deliveries",
    "pending deliveries of a gateway",
    "delivered deliveries",
    "delivered deliveries of a gateway",
    "a gateway's log",
    "a rollout",
    "audit",
    "connections",
    "gateways",
    "jobs",
    "jobs in a state",
];

/// Runs a query. The gateway's id is that of one in the middle. Returns how many rows it has found.
async fn asked(store: &dyn Store, of: OrganisationKey, id: GatewayId, query: &str) -> usize {
    let window =
        TimeWindow::between(Some(Timestamp::now().minus(Duration::from_hours(24))), None).unwrap();
    let (events, deliveries) = (
        EventFilter { window, ..EventFilter::default() },
        DeliveryFilter { window, ..DeliveryFilter::default() },
    );
    let own = DeliveryFilter { gateway_id: Some(id), ..deliveries.clone() };
    let in_state = async |filter: &DeliveryFilter, state| {
        store.deliveries_in_state(of, filter, Some(state), None, PAGE).await.unwrap().rows.len()
    };
    let failed = async |filter: &DeliveryFilter| {
        store.failed_deliveries(of, filter, None, PAGE).await.unwrap().rows.len()
    };
    match query {
        "events" => store.events(of, &events, None, PAGE).await.unwrap().rows.len(),
        "events of a gateway" => {
            let own = EventFilter { gateway_id: Some(id), ..events };
            store.events(of, &own, None, PAGE).await.unwrap().rows.len()
        }
        "failed deliveries" => failed(&deliveries).await,
        "failed deliveries of a gateway" => failed(&own).await,
        "pending deliveries" => in_state(&deliveries, DeliveryState::Pending).await,
        "pending deliveries of a gateway" => in_state(&own, DeliveryState::Pending).await,
        "delivered deliveries" => in_state(&deliveries, DeliveryState::Delivered).await,
        "delivered deliveries of a gateway" => in_state(&own, DeliveryState::Delivered).await,
        "a gateway's log" => {
            let span = LogSpan { after: Sequence(5000), limit: PAGE, max_bytes: usize::MAX };
            store.gateway_log(of, id, span).await.unwrap().unwrap().rows.len()
        }
        "a rollout" => {
            let release = RolloutOf::Correlation("release-7".parse().unwrap());
            let targets = store.rollout(of, &release).await.unwrap().targets;
            let filtered = targets.iter().filter(|it| it.state == TargetState::Filtered).count();
            assert!((20..=80).contains(&filtered), "{filtered} are filtered");
            targets.len()
        }
        "audit" => {
            let filter = AuditFilter { window, action: None, principal: None, object: None };
            store.audit(of, &filter, None, PAGE).await.unwrap().len()
        }
        "connections" => store.connections(of, None, false, None, PAGE).await.unwrap().rows.len(),
        "gateways" => {
            let all = GatewayFilter::default();
            store.gateways(of, &all, None, PAGE).await.unwrap().len() * PAGE / 20
        }
        "jobs" => store.bulk_jobs(of, None, None, PAGE).await.unwrap().len(),
        "jobs in a state" => {
            store.bulk_jobs(of, Some(BulkJobState::Done), None, PAGE).await.unwrap().len()
        }
        other => panic!("unknown query {other}"),
    }
}

/// Rows read from the large tables so far: along indexes, and by scans.
async fn read(conn: &mut PgConnection) -> (i64, i64) {
    let counts = format!(
        "select (select count(*) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()
                    and backend_type = 'client backend'),
            (select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
             where relname in ({LARGE})),
            (select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables
             where relname in ({LARGE}))"
    );
    let ended = async {
        let mut polls = tokio::time::interval(Duration::from_millis(20));
        loop {
            polls.tick().await;
            let counts = AssertSqlSafe(counts.clone());
            let (others, along, scanned): (i64, i64, i64) =
                sqlx::query_as(counts).fetch_one(&mut *conn).await.unwrap();
            // The statistics of a session are complete when it has ended.
            if others == 0 {
                return (along, scanned);
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, ended).await.expect("the sessions end")
}

#[tokio::test]
async fn first_pages_read_few_rows_along_indexes() {
    let database = Database::new();
    store_postgres::open(&database).await.unwrap().close().await;
    let mut conn = PgConnection::connect(&database.url()).await.unwrap();
    for rows in ROWS {
        sqlx::raw_sql(rows).execute(&mut conn).await.unwrap();
    }
    let id: uuid::Uuid = sqlx::query_scalar("select id from gateways where gateway = 10")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    sqlx::raw_sql("analyze").execute(&mut conn).await.unwrap();
    for query in QUERIES {
        let before = read(&mut conn).await;
        let store = store_postgres::open(&database).await.unwrap();
        let of = store.organisation("default").await.unwrap();
        // The planner may change to a generic plan after several executions.
        for _ in 0..8 {
            let found = asked(store.as_ref(), of, GatewayId(id), query).await;
            assert_eq!(found, PAGE, "{query}");
        }
        store.close().await;
        drop(store);
        let after = read(&mut conn).await;
        let (along, scanned) = ((after.0 - before.0) / 8, (after.1 - before.1) / 8);
        assert!(
            along < MAX_ROWS_PER_PAGE && scanned < MAX_ROWS_PER_PAGE,
            "{query}: {along} rows along indexes, {scanned} by scans"
        );
    }
}

/// Blocks of the indexes of dead letters that were read so far.
async fn index_blocks(conn: &mut PgConnection) -> i64 {
    let blocks = "select sum(idx_blks_hit + idx_blks_read)::bigint from pg_statio_user_indexes
        where relname = 'dead_letters'";
    sqlx::query_scalar(blocks).fetch_one(conn).await.unwrap()
}

/// Confirms sequences of a gateway, each in a batch of its own.
async fn confirm(store: &dyn Store, gateway: &Gateway, sequences: std::ops::RangeInclusive<i64>) {
    let connection = ConnectionId::new();
    for sequence in sequences {
        let at = Timestamp::now();
        let receipt = Record::Confirmed {
            gateway: gateway.key,
            connection,
            instance: "".into(),
            range: Range { first: Sequence(sequence), last: Sequence(sequence) },
            started_at: at,
            finished_at: at,
        };
        store.record(vec![receipt]).await.unwrap();
    }
}

/// Postgres keeps the plans of the statements that record receipts. Those that it made before there
/// were dead letters must not read all of them later.
#[tokio::test]
async fn receipts_read_few_dead_letters_by_plans_that_were_made_without_any() {
    const RECEIPTS: i64 = 20;
    const DEAD_LETTERS: i64 = 50_000;
    let database = Database::new();
    let store = store_postgres::open(&database).await.unwrap();
    let of = store.organisation("default").await.unwrap();
    let actor = Principal::local("tester", "localhost").in_organisation(of);
    let labels = Labels::new();
    let gateway = store.create_gateway(&actor, GatewayId::new(), "own", &labels, 1).await.unwrap();
    let mut conn = PgConnection::connect(&database.url()).await.unwrap();
    let rows = format!(
        "insert into events (organisation, id, type, payload, correlation_id, occurred_at, appended_at,
            digest, target, matched)
         values ({of}, 'e', 'api.deployed', '{{}}', 'c', now(), now(), 'x'::bytea, 'gateways', 1);
         insert into outbox (gateway, sequence, event)
         select {key}, n, (select event from events) from generate_series(1, 200) n;
         update streams set head = 200;
         vacuum analyze",
        of = of.0,
        key = gateway.key.0,
    );
    for statement in rows.split(';') {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut conn).await.unwrap();
    }
    confirm(store.as_ref(), &gateway, 1..=RECEIPTS).await;
    let more = format!(
        "set session_replication_role = replica;
         insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
         select {key} + 1 + n % 1000, n, n, 'skipped', now() from generate_series(1, {DEAD_LETTERS}) n",
        key = gateway.key.0,
    );
    let mut other = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(more)).execute(&mut other).await.unwrap();
    // Its statistics are complete when it has ended.
    let id: i32 =
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut other).await.unwrap();
    other.close().await.unwrap();
    let ended = async {
        let exists = "select exists (select 1 from pg_stat_activity where pid = $1)";
        let is_open = async |conn: &mut PgConnection| {
            sqlx::query_scalar::<_, bool>(exists).bind(id).fetch_one(conn).await.unwrap()
        };
        let mut polls = tokio::time::interval(Duration::from_millis(20));
        while is_open(&mut conn).await {
            polls.tick().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, ended).await.expect("the session ends");
    let before = index_blocks(&mut conn).await;
    confirm(store.as_ref(), &gateway, RECEIPTS + 1..=2 * RECEIPTS).await;
    store.close().await;
    drop(store);
    let (_, scanned) = read(&mut conn).await;
    let blocks = (index_blocks(&mut conn).await - before) / RECEIPTS;
    assert!(scanned < DEAD_LETTERS, "{scanned} rows are read by scans");
    assert!(blocks < 50, "{blocks} blocks of indexes are read for a receipt");
    let confirmed: i64 = sqlx::query_scalar("select confirmed_total from streams")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(confirmed, 2 * RECEIPTS);
}
