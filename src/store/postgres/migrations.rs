//! Migrations of Postgres, compiled in and compatible with sqlx-cli. They only go forward. A
//! database whose history is not a prefix of ours is refused.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::time::Instant;

use super::Options;
use super::connect::{self, BEGIN_MIGRATING};
use super::errors::OpenError;
use super::servers::Access;
use super::statements::{LOCK_SPACE, locks};
use crate::backoff::Backoff;
use crate::store::schema::{self, Applied};

/// How long the first attempt waits for each table. Below the server's default
/// `deadlock_timeout` of 1 s, so that of a migration and a node that wait for each other the
/// migration gives way and no node's transaction is aborted.
const FIRST_LOCK_WAIT: Duration = Duration::from_millis(250);
/// How long later attempts wait at most: nodes wait behind them, and give up after 5 s.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(2);
/// For how long the locks are tried: a backup or another program may hold one for longer.
const LOCKING: Duration = Duration::from_mins(2);

/// sqlx's own lock belongs to a session, which does not work behind a pooler.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.set_locking(false);
    migrator
});

/// Applies pending migrations in one transaction. Nodes may be running; their transactions wait for
/// it.
pub async fn migrate(options: &Options) -> Result<(), OpenError> {
    let (mut conn, _) = connect::first(options, Access::Write).await?;
    run(&mut conn).await?;
    conn.close().await?;
    Ok(())
}

/// The migrations that the database lacks, oldest first. Changes nothing.
pub async fn pending_migrations(options: &Options) -> Result<Vec<String>, OpenError> {
    let (mut conn, _) = connect::first(options, Access::Read).await?;
    let applied = applied(&mut conn).await?;
    conn.close().await?;
    Ok(schema::pending(&MIGRATOR, &applied)?)
}

/// Refuses a database that lacks migrations, or has others than this version.
pub async fn refuse_another_version(options: &Options) -> Result<(), OpenError> {
    if pending_migrations(options).await?.is_empty() { Ok(()) } else { Err(OpenError::Behind) }
}

/// Applies pending migrations, on one node at a time. Running nodes lock the same tables in other
/// orders, so all locks are taken before anything is changed, and released soon if one of them is
/// not free.
pub(super) async fn run(conn: &mut PgConnection) -> Result<(), OpenError> {
    let until = Instant::now() + LOCKING;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let mut wait = FIRST_LOCK_WAIT;
    while let Some(error) = attempt(conn, wait).await? {
        if Instant::now() >= until {
            return Err(error.into());
        }
        tracing::info!(%error, "tables to migrate are in use; retrying");
        tokio::time::sleep(backoff.next_pause()).await;
        wait = (wait * 2).min(MAX_LOCK_WAIT);
    }
    Ok(())
}

/// Applies pending migrations, or returns why a table could not be locked.
async fn attempt(
    conn: &mut PgConnection,
    wait: Duration,
) -> Result<Option<sqlx::Error>, OpenError> {
    let mut transaction = conn.begin_with(BEGIN_MIGRATING).await?;
    let lock = format!("select pg_advisory_xact_lock({LOCK_SPACE}, {})", locks::MIGRATING);
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
    let applied = applied(&mut transaction).await?;
    if !schema::pending(&MIGRATOR, &applied)?.is_empty() {
        match lock_tables(&mut transaction, &applied, wait).await {
            Err(error) if is_lock_conflict(&error) => {
                transaction.rollback().await?;
                return Ok(Some(error));
            }
            locked => locked?,
        }
        MIGRATOR.run(&mut *transaction).await.map_err(schema::refused)?;
    }
    transaction.commit().await?;
    Ok(None)
}

/// Locks the tables that the pending migrations name, oldest first. The inbox precedes
/// them: other programs hold it in transactions of their own, for which nodes need not wait.
async fn lock_tables(
    connection: &mut PgConnection,
    applied: &[Applied],
    wait: Duration,
) -> sqlx::Result<()> {
    let is_pending = |version| applied.iter().all(|known| known.version != version);
    let pending = MIGRATOR.iter().filter(|migration| is_pending(migration.version));
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    // Comments are prose, and name tables that a migration does not change.
    let statement = |line: &'static str| line.split("--").next().unwrap_or_default();
    let named: HashSet<&str> = pending
        .flat_map(|it| it.sql.as_str().lines().map(statement))
        .flat_map(|text| text.split(|character| !is_word(character)))
        .collect();
    let tables = "select c.relname::text, c.oid::regclass::text from pg_class c
        where c.relkind = 'r' and pg_table_is_visible(c.oid) and pg_has_role(c.relowner, 'usage')
            and c.relnamespace <> 'pg_catalog'::regnamespace
        order by c.relname <> 'inbox', c.oid";
    let mut locked = Vec::new();
    for row in sqlx::raw_sql(tables).fetch_all(&mut *connection).await? {
        if named.contains(row.try_get::<&str, _>(0)?) {
            locked.push(row.try_get::<String, _>(1)?);
        }
    }
    if locked.is_empty() {
        return Ok(());
    }
    let lock = format!(
        "set local lock_timeout = {}; lock table {} in access exclusive mode;
         set local lock_timeout = 0",
        wait.as_millis(),
        locked.join(", ")
    );
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(connection).await?;
    Ok(())
}

/// Whether a lock was not free in time, or was part of a deadlock.
fn is_lock_conflict(error: &sqlx::Error) -> bool {
    // deadlock_detected, lock_not_available
    matches!(error, sqlx::Error::Database(error)
        if matches!(error.code().as_deref(), Some("40P01" | "55P03")))
}

/// The migration history. Uses the simple protocol, because prepared statements may not work
/// through a pooler.
async fn applied(conn: &mut PgConnection) -> Result<Vec<Applied>, OpenError> {
    let table = "select to_regclass('_sqlx_migrations') is not null";
    if !sqlx::raw_sql(table).fetch_one(&mut *conn).await?.try_get::<bool, _>(0)? {
        return Ok(Vec::new());
    }
    let rows = sqlx::raw_sql(schema::HISTORY).fetch_all(conn).await?;
    rows.iter().map(|row| Ok(read(row)?)).collect()
}

fn read(row: &PgRow) -> sqlx::Result<Applied> {
    Ok(Applied {
        version: row.try_get(0)?,
        description: row.try_get(1)?,
        checksum: row.try_get(2)?,
        success: row.try_get(3)?,
    })
}

/// The newest migration that this version knows.
pub(super) fn newest() -> i64 {
    schema::newest(&MIGRATOR)
}
