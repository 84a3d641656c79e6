//! What a database's history of migrations says about this version of the program.

use sqlx::migrate::{AppliedMigration, MigrateError, Migrator};

/// Why a database's schema is refused.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
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

/// The migrations that a database lacks, oldest first.
pub(super) fn pending(
    migrator: &Migrator,
    applied: &[AppliedMigration],
) -> Result<Vec<String>, SchemaError> {
    for known in applied {
        match migrator.iter().find(|ours| ours.version == known.version) {
            None => return Err(SchemaError::Newer(known.version)),
            Some(ours) if ours.checksum != known.checksum => {
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
