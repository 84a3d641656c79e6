//! What a database's history of migrations says about this version of the program.

use sqlx::migrate::{MigrateError, Migrator};

use super::StoreError;

/// Why a database's schema is refused.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database belongs to another program.
    #[error(
        "the database's history in _sqlx_migrations is another program's: it has migration {version} ({description:?}); nothing was changed; give this service a database of its own"
    )]
    Foreign {
        /// The migration that is not ours.
        version: i64,
        /// What it is called.
        description: String,
    },
    /// A later version of this program migrated it.
    #[error(
        "the database has migration {0}, which this version does not know; run the version that made it, or a newer one"
    )]
    Newer(i64),
    /// An applied migration differs from ours.
    #[error(
        "migration {0} was applied with another text than this version's; the schema can't be trusted"
    )]
    Edited(i64),
    /// A migration stopped half-way.
    #[error("migration {0} was applied by half; restore the database from a backup")]
    HalfMigrated(i64),
    /// A migration failed.
    #[error("the schema can't be brought up to date: {0}")]
    Migrate(#[source] MigrateError),
}

/// A row of a database's history.
pub(super) struct Applied {
    pub(super) version: i64,
    pub(super) description: String,
    pub(super) checksum: Vec<u8>,
    pub(super) success: bool,
}

/// All of them, oldest first.
pub(super) const HISTORY: &str =
    "select version, description, checksum, success from _sqlx_migrations order by version";

/// The migrations that a database lacks, oldest first.
pub(super) fn pending(
    migrator: &Migrator,
    applied: &[Applied],
) -> Result<Vec<String>, SchemaError> {
    // Ours begins with our first one. Checked first, because other programs have
    // other reasons for what would look strange in ours.
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

/// Where a running node stands with the schema, whose newest migration, and the
/// oldest version that may use it, are these.
pub(super) fn check(
    known: i64,
    newest: Option<i64>,
    oldest: i64,
) -> Result<Option<i64>, StoreError> {
    let newest = newest.unwrap_or_default();
    if known < oldest {
        return Err(StoreError::SchemaChanged(format!(
            "a newer version migrated it to {newest}, which versions before migration {oldest} can't use; this one knows migrations up to {known}"
        )));
    }
    if newest < known {
        return Err(StoreError::SchemaChanged(format!(
            "its newest migration is {newest}, and this version needs {known}: it was replaced by an older database"
        )));
    }
    Ok((newest > known).then_some(newest))
}

/// What sqlx says, as people need it.
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
