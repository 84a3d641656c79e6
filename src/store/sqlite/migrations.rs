//! Migrations of SQLite, compiled in. They only go forward. A database whose history is not a
//! prefix of ours is refused.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::{Connection as _, SqliteConnection};

use super::connect::{self, OpenError};
use crate::store::schema::{self, Applied};

static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// Migrates the database at `path`, creating it if it is missing. Fails while a server has it open.
pub async fn migrate(path: &Path) -> Result<(), OpenError> {
    let _lock = connect::lock(path)?;
    connect::create(path)?;
    let mut conn = connect::connect(path).await?;
    run(&mut conn).await?;
    conn.close().await?;
    Ok(())
}

/// The migrations that the database at `path` lacks, oldest first. Changes nothing.
pub async fn pending_migrations(path: &Path) -> Result<Vec<String>, OpenError> {
    let mut history = Vec::new();
    if exists(path)? {
        let mut conn = connect::connect_read_only(path).await?;
        history = applied(&mut conn).await?;
        conn.close().await?;
    }
    Ok(schema::pending(&MIGRATOR, &history)?)
}

/// Fails if that can't be determined, such as without access to the directory.
fn exists(path: &Path) -> Result<bool, OpenError> {
    path.try_exists().map_err(|error| OpenError::Io { path: path.to_owned(), error })
}

async fn applied(conn: &mut SqliteConnection) -> Result<Vec<Applied>, OpenError> {
    let table = "select count(*) from sqlite_schema where name = '_sqlx_migrations'";
    if sqlx::query_scalar::<_, i64>(table).fetch_one(&mut *conn).await? == 0 {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as::<_, (i64, String, Vec<u8>, bool)>(schema::HISTORY);
    let rows = rows.fetch_all(conn).await?.into_iter();
    let row = |(version, description, checksum, success)| Applied {
        version,
        description,
        checksum,
        success,
    };
    Ok(rows.map(row).collect())
}

/// The newest migration that this version knows.
pub(super) fn newest() -> i64 {
    schema::newest(&MIGRATOR)
}

/// Refuses a database that does not exist, is empty or another program's, lacks migrations, or has others
/// than this version.
pub async fn refuse_another_version(path: &Path) -> Result<(), OpenError> {
    if !exists(path)? {
        return Err(OpenError::Missing(path.to_owned()));
    }
    let mut conn = connect::connect_read_only(path).await?;
    let text =
        "select count(*), count(*) filter (where name = '_sqlx_migrations') from sqlite_schema";
    let (objects, histories): (i64, i64) = sqlx::query_as(text).fetch_one(&mut conn).await?;
    conn.close().await?;
    if objects == 0 {
        return Err(OpenError::Empty(path.to_owned()));
    }
    if histories == 0 {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    if pending_migrations(path).await?.is_empty() {
        Ok(())
    } else {
        Err(OpenError::Behind(path.to_owned()))
    }
}

/// Applies pending migrations.
pub(super) async fn run(conn: &mut SqliteConnection) -> Result<(), OpenError> {
    schema::pending(&MIGRATOR, &applied(conn).await?)?;
    Ok(MIGRATOR.run(conn).await.map_err(schema::refused)?)
}
