//! The schema's history, compiled in. It only goes forward, and a database
//! whose history is not a prefix of ours is refused.

use std::path::Path;

use sqlx::migrate::{Migrate as _, MigrateError, Migrator};
use sqlx::{Connection as _, SqliteConnection};

use super::open::{self, OpenError};

static MIGRATOR: Migrator = sqlx::migrate!("migrations/sqlite");

/// Brings the database at `path` up to date, creating it if it is missing.
/// Refused while a server has it open.
pub async fn migrate(path: &Path) -> Result<(), OpenError> {
    let _lock = open::lock(path)?;
    open::create(path)?;
    let mut connection = open::connect(path).await?;
    run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// The migrations that the database at `path` lacks, oldest first. Changes nothing.
pub async fn pending_migrations(path: &Path) -> Result<Vec<String>, OpenError> {
    let mut applied = Vec::new();
    if path.exists() {
        let mut connection = open::connect_read_only(path).await?;
        let table = "select count(*) from sqlite_schema where name = '_sqlx_migrations'";
        if sqlx::query_scalar::<_, i64>(table).fetch_one(&mut connection).await? > 0 {
            applied =
                connection.list_applied_migrations(&MIGRATOR.table_name).await.map_err(refused)?;
        }
        connection.close().await?;
    }
    for known in &applied {
        match MIGRATOR.iter().find(|ours| ours.version == known.version) {
            None => return Err(OpenError::Newer(known.version)),
            Some(ours) if ours.checksum != known.checksum => {
                return Err(OpenError::Edited(known.version));
            }
            Some(_) => {}
        }
    }
    Ok(MIGRATOR
        .iter()
        .filter(|ours| applied.iter().all(|known| known.version != ours.version))
        .map(|ours| format!("{:04} {}", ours.version, ours.description))
        .collect())
}

/// Applies what is missing.
pub(super) async fn run(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    MIGRATOR.run(connection).await.map_err(refused)
}

fn refused(error: MigrateError) -> OpenError {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            OpenError::Newer(version)
        }
        MigrateError::VersionMismatch(version) => OpenError::Edited(version),
        MigrateError::Dirty(version) => OpenError::HalfMigrated(version),
        other => OpenError::Migrate(other),
    }
}
