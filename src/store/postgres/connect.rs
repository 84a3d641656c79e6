//! Reaching the server so that the promises hold: every commit synced, one
//! isolation level, no call without an end, and no lock that outlives its node.
//! Directly, a session is told so once. Behind a pooler (PgBouncer in transaction
//! mode) each transaction may be in another session and is told again, and no
//! statement is left prepared; nothing here needs a session to itself but LISTEN.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _, Transaction};
use tokio::time::timeout;

use super::pool::{self, Pool};
use super::servers::{Access, Refusal, Refusals, Servers};
use super::{Options, hosts};
use crate::clock::{self, Timestamp};
use crate::store::{Result, StoreError};

/// How long connecting, or waiting for a free connection, may take.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long a transaction may take, seen from here. Longer than what the server
/// allows a statement, so that the server is the one who says so.
const CALL: Duration = Duration::from_secs(20);
/// How long beginning one may take, which waits for no lock.
const BEGIN: Duration = Duration::from_secs(3);

/// The oldest server, as `server_version_num` has it.
const OLDEST_SERVER: i32 = 130_000;

/// Said in every session, or else in every transaction. With
/// `synchronous_commit = off` a crash of the server would lose what was answered.
const LIMITS: [(&str, &str); 4] = [
    ("synchronous_commit", "on"),
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "15s"),
];
/// Said in every session besides. The keepalives are the server's, and free the
/// locks of a node whose machine is gone. Whatever may find many rows is read along
/// an index and stops early; a bitmap finds all of them first, which looks cheap
/// while nobody has counted the rows. (A pooler's sessions are its own affair.)
const SESSION: [(&str, &str); 6] = [
    ("default_transaction_isolation", "read committed"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "25s"),
    ("enable_bitmapscan", "off"),
];

/// A migration may take its time.
pub(super) const BEGIN_MIGRATING: &str = "begin isolation level read committed;
    deallocate all;
    set local statement_timeout = 0;
    set local lock_timeout = 0;
    set local idle_in_transaction_session_timeout = 0";

/// In a URL: how many prepared statements a connection keeps.
const KEPT_STATEMENTS: &str = "statement-cache-capacity";

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL can't be used. It is not repeated here, for it holds a password.
    #[error(
        "{0} can't be used ({1}); it looks like postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full"
    )]
    Url(&'static str, sqlx::Error),
    /// No server answers, access is refused, or none takes writes.
    #[error("{0}")]
    Unreachable(String),
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

/// How the server is reached, and how a transaction begins there.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) servers: Arc<Servers>,
    /// Somebody stands between who gives each transaction another session.
    pub(super) is_pooled: bool,
    writing: Arc<str>,
    reading: Arc<str>,
}

impl Link {
    fn direct(servers: Servers) -> Self {
        let reading = "begin isolation level repeatable read read only".into();
        Self { servers: Arc::new(servers), is_pooled: false, writing: "begin".into(), reading }
    }

    /// A statement that is prepared in one transaction may not be there in the
    /// next one, or be another client's of the same name: none is kept, unless
    /// the URL says that the pooler looks after them.
    fn pooled(servers: Servers, url: &SecretString) -> Self {
        let (_, query) = url.expose_secret().split_once('?').unwrap_or_default();
        let keeps_statements = query.split('&').any(
            |pair| matches!(pair.split_once('='), Some((KEPT_STATEMENTS, kept)) if kept != "0"),
        );
        let servers = if keeps_statements {
            servers
        } else {
            servers.map(|settings| settings.statement_cache_capacity(0))
        };
        let mut said = String::new();
        if !keeps_statements {
            said.push_str("; deallocate all");
        }
        for (name, value) in LIMITS {
            // Writing to a string can't fail.
            let _ = write!(said, "; set local {name} = '{value}'");
        }
        let writing = format!("begin isolation level read committed{said}").into();
        let reading = format!("begin isolation level repeatable read read only{said}").into();
        Self { servers: Arc::new(servers), is_pooled: true, writing, reading }
    }

    /// What begins a transaction that writes.
    pub(super) fn begin(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.writing))
    }

    /// What begins a moment in which nothing changes.
    pub(super) fn begin_reading(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.reading))
    }

    /// A connection to a server that takes writes, or an error in bounded time.
    pub(super) async fn connect(&self) -> Result<PgConnection> {
        Ok(self.servers.connect(Access::Write).await?.0)
    }

    /// Connections for reading and for transactions of their own; made as needed.
    pub(super) fn pool(&self, connections: u32) -> Pool {
        pool::new(&self.servers, connections)
    }
}

/// The servers to listen at; `None` if nothing is to be heard, or can be.
pub(super) fn listener(options: &Options, link: &Link) -> Result<Option<Arc<Servers>>, OpenError> {
    if !options.notify {
        return Ok(None);
    }
    if !options.listener_url.expose_secret().is_empty() {
        let target = hosts::parse("database.listener_url", &options.listener_url)?;
        return Ok(Some(Arc::new(Servers::new(target))));
    }
    if link.is_pooled {
        tracing::warn!(
            "database.url leads to a connection pooler, through which nothing can be heard: what other nodes append is looked for instead; set database.listener_url to the server itself, or database.notify to false"
        );
        return Ok(None);
    }
    Ok(Some(Arc::clone(&link.servers)))
}

/// Opens a connection, with the settings of the service, to the server of the URL that takes
/// writes.
pub async fn connect(options: &Options) -> Result<PgConnection, OpenError> {
    let (conn, _) = first(options, Access::Write).await?;
    Ok(conn)
}

/// The first connection, made sure of, and how to make more like it.
pub(super) async fn first(
    options: &Options,
    access: Access,
) -> Result<(PgConnection, Link), OpenError> {
    let plain = Servers::new(hosts::parse("database.url", &options.url)?);
    let told = plain.map(|settings| settings.options(LIMITS.into_iter().chain(SESSION)));
    let reached = match told.connect(access).await {
        // A pooler takes no such orders, and says so ...
        Err(refusals) if refusals.are_of_settings() => None,
        Err(refusals) => return Err(OpenError::Unreachable(explained(&refusals))),
        Ok((mut conn, _)) => {
            let server = about(&mut conn).await?;
            server.check()?;
            // ... or passes over them.
            server.limits_are_in_force.then_some(conn)
        }
    };
    if let Some(conn) = reached {
        return Ok((conn, Link::direct(told)));
    }
    let link = Link::pooled(plain, &options.url);
    let mut conn = match link.servers.connect(access).await {
        Ok((conn, _)) => conn,
        Err(refusals) => return Err(OpenError::Unreachable(explained(&refusals))),
    };
    about(&mut conn).await?.check()?;
    tracing::info!("the database is reached through a connection pooler");
    Ok((conn, link))
}

impl Refusals {
    /// Whether one of them takes no settings of a session.
    fn are_of_settings(&self) -> bool {
        self.0.iter().any(|(_, refusal)| {
            matches!(refusal, Refusal::Driver(sqlx::Error::Database(said)) if is_of_settings(&**said))
        })
    }
}

fn is_of_settings(said: &dyn sqlx::error::DatabaseError) -> bool {
    said.message().contains("startup parameter")
}

/// Which servers can't be reached, why, and what to do about it.
pub(super) fn explained(Refusals(refusals): &Refusals) -> String {
    let said = refusals.iter().map(|(server, refusal)| {
        let why = match refusal {
            Refusal::Driver(error) => advice(error),
            Refusal::ReadOnly | Refusal::NoAnswer => refusal.to_string(),
        };
        format!("{server} can't be reached: {why}")
    });
    said.collect::<Vec<_>>().join("\n")
}

/// What a server says of itself.
struct Server {
    number: i32,
    version: String,
    encoding: String,
    limits_are_in_force: bool,
}

impl Server {
    fn check(&self) -> Result<(), OpenError> {
        if self.number < OLDEST_SERVER {
            return Err(OpenError::OldServer(self.version.clone()));
        }
        if self.encoding != "UTF8" {
            return Err(OpenError::Encoding(self.encoding.clone()));
        }
        Ok(())
    }
}

/// Asked without preparing anything, which is safe wherever it leads.
async fn about(conn: &mut PgConnection) -> Result<Server, OpenError> {
    let mut names = vec!["server_version_num", "server_version", "server_encoding"];
    names.extend(LIMITS.map(|(name, _)| name));
    let columns: Vec<String> =
        names.iter().map(|name| format!("current_setting('{name}')")).collect();
    let asked = format!("select {}", columns.join(", "));
    let row: PgRow = sqlx::raw_sql(AssertSqlSafe(asked)).fetch_one(conn).await?;
    let said: Vec<String> =
        (0..names.len()).map(|column| row.try_get(column)).collect::<sqlx::Result<_>>()?;
    let in_force = LIMITS.iter().zip(&said[3..]).all(|((_, wanted), is)| wanted == is);
    Ok(Server {
        number: said[0].parse().unwrap_or_default(),
        version: said[1].clone(),
        encoding: said[2].clone(),
        limits_are_in_force: in_force,
    })
}

/// Makes the database's clock the one of this process. Asked without preparing
/// anything, which is safe wherever it leads.
pub(super) async fn follow_clock(conn: &mut PgConnection) -> Result<()> {
    let asked_at = std::time::Instant::now();
    let micros = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    let row = limited(sqlx::raw_sql(micros).fetch_one(conn)).await?;
    clock::follow(Timestamp::from_micros(row.try_get(0)?), asked_at.elapsed());
    Ok(())
}

/// Waits for an answer, but not for ever.
pub(super) async fn limited<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<T>
where
    StoreError: From<E>,
{
    match timeout(CALL, call).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(no_answer()),
    }
}

/// The server ends a statement sooner, so that it is gone.
pub(super) fn no_answer() -> StoreError {
    StoreError::ConnectionLost("the database did not answer in time".to_owned())
}

/// Begins a transaction, or says soon that the connection is dead: beginning
/// waits for nobody's lock.
pub(super) async fn begun(
    conn: &mut PgConnection,
    by: AssertSqlSafe<Arc<str>>,
) -> Result<Transaction<'_, Postgres>> {
    match timeout(BEGIN, conn.begin_with(by)).await {
        Ok(transaction) => Ok(transaction?),
        Err(_) => Err(no_answer()),
    }
}

/// Why there is no connection, and what to do about it. The server's own words
/// name users and databases, and no passwords.
fn advice(error: &sqlx::Error) -> String {
    const CHECK_TLS: &str = "check sslmode and sslrootcert in database.url, and the host's name";
    let (said, advice) = match error {
        sqlx::Error::Database(said) if is_of_settings(&**said) => (
            said.message().to_owned(),
            "it is refused what the URL says of the session (`options`, or the like)",
        ),
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
