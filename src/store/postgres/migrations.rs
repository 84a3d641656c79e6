//! The schema's history, compiled in and shared with sqlx-cli. It only goes
//! forward, and a database whose history is not a prefix of ours is refused.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::Options;
use super::connect::{self, BEGIN_MIGRATING, OpenError};
use super::servers::Access;
use super::statements::LOCK_SPACE;
use crate::store::schema::{self, Applied};

/// Among our advisory locks: whoever migrates.
const MIGRATING: i32 = 4;

/// Its own lock is a session's, which a pooler has none of.
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("migrations/postgres");
    migrator.set_locking(false);
    migrator
});

/// Brings the database up to date. Nodes may be running: it is one transaction,
/// and what the nodes do waits for it.
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

/// Applies what is missing, one node at a time.
pub(super) async fn run(conn: &mut PgConnection) -> Result<(), OpenError> {
    let mut transaction = conn.begin_with(BEGIN_MIGRATING).await?;
    let lock = format!("select pg_advisory_xact_lock({LOCK_SPACE}, {MIGRATING})");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await?;
    let applied = applied(&mut transaction).await?;
    if !schema::pending(&MIGRATOR, &applied)?.is_empty() {
        MIGRATOR.run(&mut *transaction).await.map_err(schema::refused)?;
    }
    transaction.commit().await?;
    Ok(())
}

/// What was applied, asked without preparing anything.
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
