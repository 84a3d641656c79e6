//! Operators migrate with sqlx-cli or with our own command: each accepts what the other has done,
//! and nothing starts with another version's schema.

use crate::both_databases::{Backend, on_both};
use crate::offline_database::OfflineDatabase;

on_both! {
    sqlx_cli_accepts_what_migrate_applied
    migrate_accepts_what_sqlx_cli_applied
    sqlx_cli_and_migrate_continue_each_others_work
    a_newer_schema_is_refused_by_everything
    an_edited_schema_is_refused_by_everything
    another_programs_database_is_left_unchanged
    running_node_notices_a_schema_change
}

/// Both tools report that everything is applied.
async fn is_up_to_date(database: &OfflineDatabase) {
    assert!(database.ours("migrate --check").await.well().contains("is up to date"));
    let info = database.theirs("info").await;
    let installed = info.well().lines().filter(|line| line.contains("/installed"));
    assert_eq!(installed.count(), database.versions().len(), "{info:?}");
    let report = database.ours("verify --json").await.json();
    assert_eq!(report["problems"], serde_json::json!([]));
}

async fn sqlx_cli_accepts_what_migrate_applied(backend: Backend) {
    let database = OfflineDatabase::new(backend);
    let pending = database.ours("migrate --check").await;
    let lines = pending.out.lines().count();
    assert_eq!((pending.code, lines), (Some(1), database.versions().len()), "{pending:?}");
    assert!(pending.out.starts_with("pending: 0001 log\n"), "{pending:?}");
    assert!(database.ours("migrate").await.well().contains("is up to date"));
    assert_eq!(database.theirs("run").await.well(), "", "nothing was left to do");
    is_up_to_date(&database).await;
}

async fn migrate_accepts_what_sqlx_cli_applied(backend: Backend) {
    let database = OfflineDatabase::new(backend);
    assert!(database.theirs("run").await.well().contains("Applied 1/migrate log"));
    assert!(database.ours("migrate").await.well().contains("is up to date"));
    is_up_to_date(&database).await;
}

async fn sqlx_cli_and_migrate_continue_each_others_work(backend: Backend) {
    let database = OfflineDatabase::new(backend);
    database.theirs("run --target-version 1").await.well();
    let pending = database.ours("migrate --check").await;
    let lines = pending.out.lines().count();
    assert_eq!((pending.code, lines), (Some(1), database.versions().len() - 1), "{pending:?}");
    assert!(pending.out.starts_with("pending: 0002 inbox\n"), "{pending:?}");
    database.ours("token recover").await.failed(1, &["gateway-events migrate"]);
    database.ours("verify").await.failed(1, &["gateway-events migrate"]);
    database.ours("migrate").await.well();
    assert_eq!(database.theirs("run").await.well(), "", "nothing was left to do");
    is_up_to_date(&database).await;
}

/// Every command that opens the database refuses it, and leaves it unchanged.
async fn is_refused(database: &OfflineDatabase, says: &[&str]) {
    let commands =
        ["serve --listen 127.0.0.1:0", "migrate", "migrate --check", "verify", "token recover"];
    for one in commands {
        database.ours(one).await.failed(1, says);
    }
}

async fn a_newer_schema_is_refused_by_everything(backend: Backend) {
    let database = OfflineDatabase::new(backend);
    database.ours("migrate").await.well();
    let bytes = if database.is_shared() { "'\\x00'" } else { "x'00'" };
    database
        .change(&format!(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'from tomorrow', true, {bytes}, 0)"
        ))
        .await;
    is_refused(&database, &["migration 9999", "a newer one"]).await;
    database.change("delete from _sqlx_migrations where version = 9999").await;
    is_up_to_date(&database).await;
}

async fn an_edited_schema_is_refused_by_everything(backend: Backend) {
    let database = OfflineDatabase::new(backend);
    database.ours("migrate").await.well();
    let bytes = if database.is_shared() { "'\\x00'" } else { "x'00'" };
    let edit = format!("update _sqlx_migrations set checksum = {bytes} where version = 1");
    database.change(&edit).await;
    is_refused(&database, &["migration 1 differs from the one in this version"]).await;
}

/// A history and a table of another program that uses the same tool.
async fn another_programs_database_is_left_unchanged(backend: Backend) {
    let database = OfflineDatabase::new(backend);
    database.ours("migrate").await.well();
    let bytes = if database.is_shared() { "'\\x00'" } else { "x'00'" };
    for (version, description) in [(1, "create users"), (20_230_101_000_000_i64, "log")] {
        database
            .change(&format!(
                "delete from _sqlx_migrations;
                 insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                 values ({version}, '{description}', true, {bytes}, 0)"
            ))
            .await;
        let version = format!("migration {version} (\"{description}\")");
        is_refused(&database, &["another program", &version, "nothing was changed"]).await;
    }
    // Likewise with an interrupted migration of theirs.
    database.change("update _sqlx_migrations set success = false").await;
    is_refused(&database, &["another program"]).await;
}

/// A newer version migrates the database of a running node.
async fn running_node_notices_a_schema_change(backend: Backend) {
    let mut service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let bytes = if matches!(backend, Backend::Postgres(_)) { "'\\x00'" } else { "x'00'" };
    let newer = format!(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'from tomorrow', true, {bytes}, 0)"
    );
    backend.change(&service, &newer).await;
    service.logged(|log| log.contains("a newer version migrated the database")).await;
    let event = crate::support::deployed(&[&id], "d-1");
    service.api().post("/events", &event).await.expect("older nodes may go on beside it");
    backend.change(&service, "update schema_compatibility set oldest = 9999").await;
    assert_eq!(service.ended().await, Some(1), "{}", service.log());
    let log = service.log();
    assert!(log.contains("this version can no longer use the database"), "{log}");
    assert!(log.contains("a newer version migrated it to 9999"), "{log}");
}
