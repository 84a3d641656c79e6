//! Why a Postgres database could not be opened.

use std::time::Duration;

use crate::store::StoreError;

/// Why a Postgres database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is invalid. The message does not repeat it, because it contains a password.
    #[error(
        "{0} can't be used ({1}); expected a URL like postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full"
    )]
    Url(&'static str, String),
    /// No server could be connected to, or none accepts writes.
    #[error("{0}")]
    Unreachable(String),
    /// The server's version is not supported.
    #[error("the server is Postgres {0}; at least 13 is needed")]
    OldServer(String),
    /// The database's encoding is not UTF-8.
    #[error("the database's encoding is {0}; create one with `encoding 'UTF8'`")]
    Encoding(String),
    /// Migrations have not been applied.
    #[error("schema version mismatch; run `gateway-events migrate`, or start the service once")]
    Behind,
    /// The schema can't be used by this version.
    #[error(transparent)]
    Schema(#[from] crate::store::SchemaError),
    /// Nodes use the database, and must be stopped first.
    #[error(
        "nodes use the database: {nodes}; stop all of them first; one that was killed counts as running for {} s after its last heartbeat",
        .timeout.as_secs()
    )]
    NodesRunning {
        /// Their ids and hosts.
        nodes: String,
        /// How long a node without heartbeats counts as running.
        timeout: Duration,
    },
    /// The server returned an error.
    #[error("the database returned an error: {0}")]
    Refused(#[from] StoreError),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error.into())
    }
}
