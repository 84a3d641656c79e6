//! Which Postgres errors make the connection that reported them unusable.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// SQLSTATEs after which a connection must not be used any more, with the reason: whole codes, or
/// the prefix of a class or group (Postgres manual, appendix A).
///
/// Other codes concern a statement or the server's resources, so another connection would fail in the
/// same way: query_canceled (57014), lock_not_available (55P03), deadlock_detected (40P01),
/// insufficient_resources (53), internal_error (XX000). too_many_connections (53300) is reported while
/// connecting.
const ENDS_CONNECTION: [(&str, &str); 10] = [
    ("08", "connection_exception: the connection broke, or a pooler lost its server"),
    ("0A000", "feature_not_supported: a prepared statement's result changed with the schema"),
    ("25006", "read_only_sql_transaction: the server is a standby, or has become read-only"),
    ("25P01", "no_active_sql_transaction: a pooler changed the session within a transaction"),
    ("25P02", "in_failed_sql_transaction: the session is in another state than assumed"),
    ("25P03", "idle_in_transaction_session_timeout: the server ended the session"),
    ("25P04", "transaction_timeout: the server ended the session"),
    ("26000", "invalid_sql_statement_name: the session lost its prepared statements"),
    ("42P05", "duplicate_prepared_statement: the session has another client's statements"),
    (
        "57P",
        "admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped, idle_session_timeout",
    ),
];

/// Whether the connection that reported this error is unusable, so that another one, perhaps to
/// another server, may succeed.
pub(super) fn ends_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<PgDatabaseError>().is_some_and(|error| {
                // The server closes the connection after either severity.
                matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                    || ENDS_CONNECTION.iter().any(|(code, _)| error.code().starts_with(code))
            })
        }
        _ => false,
    }
}
