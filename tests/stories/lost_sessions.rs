//! Errors of a real server after which a session must not be used any more, and a service that
//! receives them.

use std::time::{Duration, Instant};

use gateway_events::store::StoreError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::both_databases::Backend;
use crate::server::Database;
use crate::support::{Service, TEST_TIMEOUT, deployed, get};

async fn session(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url()).await.expect("a session")
}

/// The error of the last of these statements.
async fn answer(database: &Database, statements: &[&str]) -> StoreError {
    let mut session = session(database).await;
    let mut last = Ok(());
    for statement in statements {
        let run = sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()));
        last = run.execute(&mut session).await.map(drop);
    }
    last.expect_err("refused").into()
}

/// The error of a query after the session was idle for a moment.
async fn answer_after_a_pause(database: &Database, statements: &str) -> StoreError {
    let mut session = session(database).await;
    let begun = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
    begun.execute(&mut session).await.expect("begun");
    let mut polls = tokio::time::interval(Duration::from_millis(20));
    let pid = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    let mut other = self::session(database).await;
    while sqlx::query_scalar::<_, i64>(pid).fetch_one(&mut other).await.expect("counted") > 0 {
        polls.tick().await;
    }
    sqlx::raw_sql("select 1").execute(&mut session).await.expect_err("ended").into()
}

#[tokio::test]
async fn errors_that_end_a_session_are_distinguished_from_others() {
    let database = Database::new();
    database.run("create table t (n integer); insert into t values (1)");
    for statements in [
        // 25006
        ["begin read only", "create table refused ()"],
        // 57P01
        ["select 1", "select pg_terminate_backend(pg_backend_pid())"],
        // 26000
        ["select 1", "execute missing"],
        // 42P05
        ["prepare twice as select 1", "prepare twice as select 1"],
        // 25P02
        ["begin; select 1/0", "select 1"],
        // 0A000
        [
            "prepare changed as select * from t",
            "alter table t add column m integer; execute changed",
        ],
    ] {
        let error = answer(&database, &statements).await;
        assert!(matches!(error, StoreError::ConnectionLost(_)), "{statements:?}: {error:?}");
    }
    // 25P03, and 57P05 of Postgres 14 and newer.
    for statements in [
        "set idle_in_transaction_session_timeout = '10ms'; begin",
        "do $$ begin perform set_config('idle_session_timeout', '10ms', false);
         exception when undefined_object then perform pg_terminate_backend(pg_backend_pid()); end $$",
    ] {
        let error = answer_after_a_pause(&database, statements).await;
        assert!(matches!(error, StoreError::ConnectionLost(_)), "{statements}: {error:?}");
    }
    for statements in [
        // 57014
        ["set statement_timeout = '10ms'", "select pg_sleep(10)"],
        // 55P03
        ["set lock_timeout = '10ms'", "do $$ begin raise lock_not_available; end $$"],
        // 53200
        ["select 1", "do $$ begin raise out_of_memory; end $$"],
        // 42501, 42P01, 3F000
        ["select 1", "do $$ begin raise insufficient_privilege; end $$"],
        ["select 1", "select * from a_table_that_was_dropped"],
        ["select 1", "create table no_such_schema.one (id int)"],
    ] {
        let error = answer(&database, &statements).await;
        assert!(matches!(error, StoreError::Unavailable(_)), "{statements:?}: {error:?}");
    }
    // 21000, 23503, XX000, P0001
    for condition in
        ["cardinality_violation", "foreign_key_violation", "internal_error", "raise_exception"]
    {
        let statement = format!("do $$ begin raise {condition}; end $$");
        let error = answer(&database, &["select 1", &statement]).await;
        assert!(matches!(error, StoreError::StatementFailed(_)), "{condition}: {error:?}");
    }
}

/// Publishes until it succeeds; returns how long that took.
pub(crate) async fn recovers(service: &Service, gateway: &str, deployment: &str) -> Duration {
    let (api, began) = (service.api(), Instant::now());
    let mut polls = tokio::time::interval(Duration::from_millis(50));
    let recovered = tokio::time::timeout(TEST_TIMEOUT, async {
        let event = deployed(&[gateway], deployment);
        while api.post("/events", &event).await.is_err() {
            polls.tick().await;
        }
        let took = began.elapsed();
        loop {
            let ready = api.root("/readyz").await;
            // The body is text.
            let ready = !matches!(ready, Err(error) if error.status().is_some());
            if ready && get(&api, "/nodes").await.is_ok() && get(&api, "/stats").await.is_ok() {
                return took;
            }
            polls.tick().await;
        }
    });
    recovered.await.unwrap_or_else(|_| panic!("it did not recover\n{}", service.log()))
}

#[tokio::test]
async fn writer_recovers_from_lost_sessions() {
    let backend = Backend::Postgres(Database::alone());
    let Backend::Postgres(database) = &backend else { unreachable!() };
    let service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    recovers(&service, &id, "d-0").await;
    database.run(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    );
    recovers(&service, &id, "d-1").await;
    database.run("alter table nodes alter column version type varchar(100)");
    recovers(&service, &id, "d-2").await;
    database.control("restart -m fast");
    recovers(&service, &id, "d-3").await;
    database.control("restart -m immediate");
    recovers(&service, &id, "d-4").await;
    let report = backend.verify(&service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}
