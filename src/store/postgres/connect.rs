//! Reaching the server so that the promises hold: every commit synced, one
//! isolation level, no call without an end, and no lock that outlives its node.

use std::str::FromStr as _;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgConnection, PgPool};
use tokio::time::timeout;

use super::Options;
use crate::store::{Result, StoreError};

/// How long connecting, or waiting for a free connection, may take.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long a transaction may take, seen from here. Longer than what the server
/// allows a statement, so that the server is the one who says so.
const CALL: Duration = Duration::from_secs(20);

/// The oldest server, as `server_version_num` has it.
const OLDEST_SERVER: i32 = 130_000;

/// Said in every session. With `synchronous_commit = off` a crash of the server
/// would lose what was answered; the keepalives are the server's, and free the
/// locks of a node whose machine is gone.
const SESSION: [(&str, &str); 10] = [
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("synchronous_commit", "on"),
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "15s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "25s"),
];

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL can't be used. It is not repeated here, for it holds a password.
    #[error(
        "database.url can't be used ({0}); it looks like postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full"
    )]
    Url(sqlx::Error),
    /// Nobody answers, or access is refused.
    #[error("{server} can't be reached: {error}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// Why.
        error: String,
    },
    /// The server is too old.
    #[error("the server is Postgres {0}; at least 13 is needed")]
    OldServer(String),
    /// The database does not hold UTF-8.
    #[error("the database's encoding is {0}; create one with `encoding 'UTF8'`")]
    Encoding(String),
    /// It lacks migrations.
    #[error(
        "the database is none of this version; run `gateway-events migrate`, or start the service once"
    )]
    Behind,
    /// The schema is not ours.
    #[error(transparent)]
    Schema(#[from] crate::store::SchemaError),
    /// The server refuses.
    #[error("the database refuses: {0}")]
    Refused(#[from] StoreError),
}

impl From<sqlx::Error> for OpenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error.into())
    }
}

/// What a connection is opened with.
pub(super) fn settings(options: &Options) -> Result<PgConnectOptions, OpenError> {
    let url = PgConnectOptions::from_str(options.url.expose_secret()).map_err(OpenError::Url)?;
    Ok(url.application_name("gateway-events"))
}

/// The same for a session of the service; a migration may take its time.
pub(super) fn session_settings(settings: &PgConnectOptions) -> PgConnectOptions {
    settings.clone().options(SESSION)
}

/// A connection, or an error in bounded time.
pub(super) async fn connect(settings: &PgConnectOptions) -> Result<PgConnection> {
    match timeout(CONNECT, settings.connect()).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(StoreError::Unavailable("connecting took too long".to_owned())),
    }
}

/// The first connection, made sure of.
pub(super) async fn first(settings: &PgConnectOptions) -> Result<PgConnection, OpenError> {
    let unreachable = |error| OpenError::Unreachable { server: server(settings), error };
    let mut connection = match timeout(CONNECT, settings.connect()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(unreachable(explained(&error))),
        Err(_) => return Err(unreachable("there was no answer in time".to_owned())),
    };
    let version: (i32, String, String) = sqlx::query_as(
        "select current_setting('server_version_num')::integer, current_setting('server_version'),
            current_setting('server_encoding')",
    )
    .fetch_one(&mut connection)
    .await?;
    if version.0 < OLDEST_SERVER {
        return Err(OpenError::OldServer(version.1));
    }
    if version.2 != "UTF8" {
        return Err(OpenError::Encoding(version.2));
    }
    Ok(connection)
}

/// Connections for reading and for transactions of their own; made as needed.
pub(super) fn pool(settings: &PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections.max(1))
        .acquire_timeout(CONNECT)
        .connect_lazy_with(settings.clone())
}

/// Waits for an answer, but not for ever.
pub(super) async fn limited<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<T>
where
    StoreError: From<E>,
{
    match timeout(CALL, call).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(StoreError::Unavailable("the database did not answer in time".to_owned())),
    }
}

/// Why there is no connection, and what to do about it. The server's own words
/// name users and databases, and no passwords.
fn explained(error: &sqlx::Error) -> String {
    const CHECK_TLS: &str = "check sslmode and sslrootcert in database.url, and the host's name";
    let (said, advice) = match error {
        sqlx::Error::Database(said) => {
            let advice = match said.code().as_deref() {
                // invalid_authorization_specification, invalid_password
                Some("28000" | "28P01") => {
                    "check the user, the password and sslmode in database.url, and the server's pg_hba.conf"
                }
                // invalid_catalog_name
                Some("3D000") => "create it, or name another one in database.url",
                _ => "",
            };
            (said.message().to_owned(), advice)
        }
        sqlx::Error::Tls(_) => (error.to_string(), CHECK_TLS),
        // So the handshake's end is told: a certificate that is not trusted, say.
        sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            (error.to_string(), CHECK_TLS)
        }
        sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::NotFound => (
            error.to_string(),
            "a file that database.url names is missing: that of sslrootcert, or the server's socket",
        ),
        sqlx::Error::Io(_) => {
            (error.to_string(), "check the host and the port in database.url, and that it runs")
        }
        _ => (error.to_string(), ""),
    };
    if advice.is_empty() { said } else { format!("{said}; {advice}") }
}

fn server(settings: &PgConnectOptions) -> String {
    match settings.get_socket() {
        Some(directory) => directory.display().to_string(),
        None => format!("{}:{}", settings.get_host(), settings.get_port()),
    }
}
