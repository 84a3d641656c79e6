//! Compares a database's migration history with the migrations of this version.

use sqlx::migrate::{MigrateError, Migrator};

use super::StoreError;

/// Why a database's schema is refused.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database belongs to another program.
    #[error(
        "the database belongs to another program: its _sqlx_migrations lists migration {version} ({description:?}); nothing was changed; give this service a database of its own"
    )]
    Foreign {
        /// The first migration that is not ours.
        version: i64,
        /// Its description.
        description: String,
    },
    /// A newer version of this program migrated it.
    #[error(
        "the database has migration {0}, which this version does not know; run the version that applied it, or a newer one"
    )]
    Newer(i64),
    /// An applied migration differs from the one in this version.
    #[error(
        "migration {0} differs from the one in this version; run the version that applied it, or restore a backup"
    )]
    Edited(i64),
    /// A migration was interrupted.
    #[error("migration {0} was only partly applied; restore the database from a backup")]
    HalfMigrated(i64),
    /// A migration failed.
    #[error("the schema can't be migrated: {0}")]
    Migrate(#[source] MigrateError),
}

/// A row of a database's migration history.
pub(super) struct Applied {
    pub(super) version: i64,
    pub(super) description: String,
    pub(super) checksum: Vec<u8>,
    pub(super) success: bool,
}

/// Selects the whole history, oldest first.
pub(super) const HISTORY: &str =
    "select version, description, checksum, success from _sqlx_migrations order by version";

/// The migrations that a database lacks, oldest first.
pub(super) fn pending(
    migrator: &Migrator,
    applied: &[Applied],
) -> Result<Vec<String>, SchemaError> {
    // Our history begins with our first migration. This is checked first, because for another
    // program's history the other errors would be misleading.
    let is_ours = |row: &&Applied| {
        let first = migrator.iter().next();
        first.is_some_and(|it| it.version == row.version && it.description == row.description)
    };
    if let Some(row) = applied.first().filter(|row| !is_ours(row)) {
        let (version, description) = (row.version, row.description.clone());
        return Err(SchemaError::Foreign { version, description });
    }
    for known in applied {
        if !known.success {
            return Err(SchemaError::HalfMigrated(known.version));
        }
        match migrator.iter().find(|ours| ours.version == known.version) {
            None => return Err(SchemaError::Newer(known.version)),
            Some(ours) if *ours.checksum != *known.checksum => {
                return Err(SchemaError::Edited(known.version));
            }
            Some(_) => {}
        }
    }
    Ok(migrator
        .iter()
        .filter(|ours| applied.iter().all(|known| known.version != ours.version))
        .map(|ours| format!("{:04} {}", ours.version, ours.description))
        .collect())
}

/// The newest migration that this version knows.
pub(super) fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|ours| ours.version).max().unwrap_or_default()
}

/// Checks whether a running node can use the schema, given its newest migration and the oldest
/// migration level that may still use it.
pub(super) fn check(
    known: i64,
    newest: Option<i64>,
    oldest: i64,
) -> Result<Option<i64>, StoreError> {
    let newest = newest.unwrap_or_default();
    if known < oldest {
        return Err(StoreError::SchemaChanged(format!(
            "a newer version migrated it to {newest}, which requires a version that has migration {oldest}; this one has migrations up to {known}"
        )));
    }
    if newest < known {
        return Err(StoreError::SchemaChanged(format!(
            "its newest migration is {newest}, and this version needs {known}: the database was replaced by an older one"
        )));
    }
    Ok((newest > known).then_some(newest))
}

/// Translates an error of sqlx.
pub(super) fn refused(error: MigrateError) -> SchemaError {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            SchemaError::Newer(version)
        }
        MigrateError::VersionMismatch(version) => SchemaError::Edited(version),
        MigrateError::Dirty(version) => SchemaError::HalfMigrated(version),
        other => SchemaError::Migrate(other),
    }
}
