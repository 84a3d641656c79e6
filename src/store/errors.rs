//! Translates errors of the databases.

use std::borrow::Cow;

use super::{Conflict, StoreError};

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        #[cfg(feature = "postgres")]
        if super::sqlstate::ends_connection(&error) {
            return Self::ConnectionLost(text);
        }
        match &error {
            sqlx::Error::Database(database) => of_database(database.as_ref(), text),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::RowNotFound => Self::Corrupt(text),
            _ => Self::Unavailable(text),
        }
    }
}

fn of_database(error: &dyn sqlx::error::DatabaseError, text: String) -> StoreError {
    let code = error.code().unwrap_or_default();
    #[cfg(feature = "sqlite")]
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return of_sqlite(primary(&code), text);
    }
    of_postgres(&code, text)
}

/// The primary result code (sqlite3.h) of a SQLite error.
#[cfg(feature = "sqlite")]
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    primary(&error.as_database_error()?.code()?)
}

#[cfg(feature = "sqlite")]
fn primary(code: &str) -> Option<i32> {
    code.parse::<i32>().ok().map(|code| code & 0xFF)
}

/// Translates primary result codes (sqlite3.h). Locked, busy, read-only and similar errors may be
/// temporary, and are not listed.
#[cfg(feature = "sqlite")]
fn of_sqlite(code: Option<i32>, text: String) -> StoreError {
    const ERROR: i32 = 1;
    const INTERNAL: i32 = 2;
    const IO: i32 = 10;
    const CORRUPT: i32 = 11;
    const FULL: i32 = 13;
    const TOO_BIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    const MISUSE: i32 = 21;
    const RANGE: i32 = 25;
    const NOT_A_DATABASE: i32 = 26;
    match code {
        Some(IO) => StoreError::Disk(text),
        Some(FULL) => StoreError::StorageFull,
        // A retry would violate the constraint, too.
        Some(CORRUPT | CONSTRAINT | NOT_A_DATABASE) => StoreError::Corrupt(text),
        Some(ERROR | INTERNAL | TOO_BIG | MISMATCH | MISUSE | RANGE) => {
            StoreError::StatementFailed(text)
        }
        _ => StoreError::Unavailable(text),
    }
}

/// Translates SQLSTATEs (Postgres manual, appendix A).
fn of_postgres(code: &str, text: String) -> StoreError {
    /// Classes of errors that may pass: connection_exception, invalid_transaction_state,
    /// invalid_authorization_specification, invalid_catalog_name, invalid_schema_name,
    /// transaction_rollback, syntax_error_or_access_rule_violation, insufficient_resources,
    /// object_not_in_prerequisite_state, operator_intervention, system_error,
    /// configuration_file_error. No value causes those of classes 3F and 42, because the
    /// statements are fixed: a privilege, a table or the search path is missing until an
    /// operator restores it, for all values.
    const PASSING: [&str; 12] =
        ["08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0"];
    match code {
        // unique_violation
        "23505" => {
            tracing::debug!(error = text, "a concurrent request stored the same key");
            Conflict::Concurrent.into()
        }
        // data_exception, program_limit_exceeded: a value that can never be stored.
        code if code.starts_with("22") || code.starts_with("54") => StoreError::Corrupt(text),
        // disk_full
        "53100" => StoreError::StorageFull,
        // data_corrupted, index_corrupted; not_null_violation, check_violation: a retry would
        // fail, too.
        "XX001" | "XX002" | "23502" | "23514" => StoreError::Corrupt(text),
        code if PASSING.iter().any(|class| code.starts_with(class)) => {
            StoreError::Unavailable(text)
        }
        _ => StoreError::StatementFailed(text),
    }
}

/// A text from outside as both databases can store it: Postgres strings can't contain U+0000. Only
/// for text that people read or that is compared with itself. In payloads, which are JSON, the
/// character is escaped.
pub fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}
