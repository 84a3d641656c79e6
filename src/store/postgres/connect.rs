//! Connects to Postgres so that the guarantees hold: every commit is synced, all transactions have
//! the same isolation level, every call has a timeout, and no lock outlives its node. On a direct
//! connection these settings are made once per session. Behind a pooler (PgBouncer in transaction
//! mode) each transaction may be in another session, so they are made in each transaction, and no
//! statement stays prepared. Only LISTEN needs a session of its own.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _, Transaction};
use tokio::time::timeout;

use super::Options;
use super::errors::OpenError;
use super::hosts::{self, Target};
use super::pool::{self, Pool};
use super::servers::{Access, Refusal, Refusals, Servers};
use crate::clock::{self, Timestamp};
use crate::store::{Result, StoreError};

/// Timeout of a call. Longer than the server's statement timeout, so that normally the server ends
/// the statement and reports it.
const CALL: Duration = Duration::from_secs(20);
/// Timeout of beginning a transaction, which waits for no lock.
const BEGIN: Duration = Duration::from_secs(3);

/// The oldest supported server, as `server_version_num`.
const MIN_SERVER_VERSION: i32 = 130_000;

/// Settings of every session, or behind a pooler of every transaction. With `synchronous_commit =
/// off`, a crash of the server would lose acknowledged events.
const LIMITS: [(&str, &str); 4] = [
    ("synchronous_commit", "on"),
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "15s"),
];
/// Additional settings of every session; a pooler's sessions keep its own. The keepalives are the
/// server's, and release the locks of a node whose machine has vanished. Bitmap scans are disabled:
/// queries that may match many rows must read along an index and stop early, while a bitmap scan
/// finds all rows first, which looks cheap to the planner while there are no statistics. JIT
/// compilation is disabled: it would take many times as long as these queries.
const SESSION: [(&str, &str); 7] = [
    ("default_transaction_isolation", "read committed"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "25s"),
    ("enable_bitmapscan", "off"),
    ("jit", "off"),
];

/// Precedes the statements of each batch of the writer. They look up rows by keys, and Postgres keeps
/// their plans: one that was made while a table was empty must not read the whole table later.
const BATCH: &str = "; set local enable_seqscan = off";

/// Begins a migration. It has no statement timeout.
pub(super) const BEGIN_MIGRATING: &str = "begin isolation level read committed;
    deallocate all;
    set local statement_timeout = 0;
    set local lock_timeout = 0;
    set local idle_in_transaction_session_timeout = 0";

/// The setting of the database's URL.
const URL: &str = "database.url";
/// The URL parameter for the number of prepared statements that a connection keeps.
const KEPT_STATEMENTS: &str = "statement-cache-capacity";

/// How to connect to the server, and how to begin a transaction there.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) servers: Arc<Servers>,
    /// Whether a pooler may run each transaction in another session.
    pub(super) is_pooled: bool,
    batch: Arc<str>,
    writing: Arc<str>,
    reading: Arc<str>,
}

impl Link {
    fn direct(servers: Servers) -> Self {
        Self::new(servers, false, "begin", "begin isolation level repeatable read read only")
    }

    /// A statement that was prepared in one transaction may be missing in the next one, or may be
    /// another client's statement of the same name. So none is kept, unless the URL says that the
    /// pooler tracks them.
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
        let writing = format!("begin isolation level read committed{said}");
        let reading = format!("begin isolation level repeatable read read only{said}");
        Self::new(servers, true, &writing, &reading)
    }

    fn new(servers: Servers, is_pooled: bool, writing: &str, reading: &str) -> Self {
        let batch = format!("{writing}{BATCH}").into();
        let (writing, reading) = (writing.into(), reading.into());
        Self { servers: Arc::new(servers), is_pooled, batch, writing, reading }
    }

    /// The statements that begin a batch of the writer.
    pub(super) fn begin_batch(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.batch))
    }

    /// The statements that begin a transaction that writes.
    pub(super) fn begin(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.writing))
    }

    /// The statements that begin a snapshot.
    pub(super) fn begin_reading(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.reading))
    }

    /// Connects to a server that accepts writes. Fails after a timeout.
    pub(super) async fn connect(&self) -> Result<PgConnection> {
        Ok(self.servers.connect(Access::Write).await?.0)
    }

    /// A pool for reads and for transactions beside the writer's.
    pub(super) fn pool(&self, connections: u32) -> Pool {
        pool::new(&self.servers, connections)
    }
}

/// Parses the URLs that a node would connect to. Connects to nothing.
pub fn check_urls(options: &Options) -> Result<(), OpenError> {
    hosts::parse(URL, &options.url)?;
    listener_target(options)?;
    Ok(())
}

/// The servers of `listener_url`; `None` if it is empty or not used.
fn listener_target(options: &Options) -> Result<Option<Target>, OpenError> {
    if !options.notify || options.listener_url.expose_secret().is_empty() {
        return Ok(None);
    }
    hosts::parse("database.listener_url", &options.listener_url).map(Some)
}

/// The servers to listen on; `None` if `notify` is off or LISTEN is unavailable.
pub(super) fn listener(options: &Options, link: &Link) -> Result<Option<Arc<Servers>>, OpenError> {
    if !options.notify {
        return Ok(None);
    }
    if let Some(target) = listener_target(options)? {
        return Ok(Some(Arc::new(Servers::new(target))));
    }
    if link.is_pooled {
        tracing::warn!(
            "LISTEN unavailable because database.url leads to a connection pooler; polling for events of other nodes instead; set database.listener_url to the server itself, or database.notify to false"
        );
        return Ok(None);
    }
    Ok(Some(Arc::clone(&link.servers)))
}

/// Connects, with the settings of the service, to the server of the URL that accepts writes.
pub async fn connect(options: &Options) -> Result<PgConnection, OpenError> {
    let (conn, _) = first(options, Access::Write).await?;
    Ok(conn)
}

/// Opens the first connection and checks the server. Returns it with the means to open more.
pub(super) async fn first(
    options: &Options,
    access: Access,
) -> Result<(PgConnection, Link), OpenError> {
    let plain = Servers::new(hosts::parse(URL, &options.url)?);
    let with_settings = plain.map(|settings| settings.options(LIMITS.into_iter().chain(SESSION)));
    let reached = match with_settings.connect(access).await {
        // A pooler refuses session settings ...
        Err(refusals) if refusals.are_of_settings() => None,
        Err(refusals) => return Err(OpenError::Unreachable(explained(&refusals))),
        Ok((mut conn, _)) => {
            let server = about(&mut conn).await?;
            server.check()?;
            // ... or ignores them.
            server.limits_are_in_force.then_some(conn)
        }
    };
    if let Some(conn) = reached {
        return Ok((conn, Link::direct(with_settings)));
    }
    let link = Link::pooled(plain, &options.url);
    let mut conn = match link.servers.connect(access).await {
        Ok((conn, _)) => conn,
        Err(refusals) => return Err(OpenError::Unreachable(explained(&refusals))),
    };
    about(&mut conn).await?.check()?;
    tracing::info!("connected to the database through a connection pooler");
    Ok((conn, link))
}

impl Refusals {
    /// Whether a server refused the session settings.
    fn are_of_settings(&self) -> bool {
        self.0.iter().any(|(_, refusal)| {
            matches!(refusal, Refusal::Driver(sqlx::Error::Database(said)) if is_of_settings(&**said))
        })
    }
}

fn is_of_settings(said: &dyn sqlx::error::DatabaseError) -> bool {
    said.message().contains("startup parameter")
}

/// Names each server with the reason for its refusal and advice.
pub(super) fn explained(Refusals(refusals): &Refusals) -> String {
    let said = refusals.iter().map(|(server, refusal)| {
        let why = match refusal {
            Refusal::Driver(error) => advice(error),
            Refusal::ReadOnly | Refusal::NoAnswer => refusal.to_string(),
        };
        format!("failed to connect to {server}: {why}")
    });
    said.collect::<Vec<_>>().join("\n")
}

/// A server's properties.
struct Server {
    number: i32,
    version: String,
    encoding: String,
    limits_are_in_force: bool,
}

impl Server {
    fn check(&self) -> Result<(), OpenError> {
        if self.number < MIN_SERVER_VERSION {
            return Err(OpenError::OldServer(self.version.clone()));
        }
        if self.encoding != "UTF8" {
            return Err(OpenError::Encoding(self.encoding.clone()));
        }
        Ok(())
    }
}

/// Uses the simple protocol, because prepared statements may not work through a pooler.
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

/// Makes this process use the database's clock. Uses the simple protocol, because prepared
/// statements may not work through a pooler.
pub(super) async fn follow_clock(conn: &mut PgConnection) -> Result<()> {
    let asked_at = std::time::Instant::now();
    let micros = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    let row = limited(sqlx::raw_sql(micros).fetch_one(conn)).await?;
    clock::follow(Timestamp::from_micros(row.try_get(0)?), asked_at.elapsed());
    Ok(())
}

/// Runs a call with a timeout.
pub(super) async fn limited<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<T>
where
    StoreError: From<E>,
{
    match timeout(CALL, call).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(no_answer()),
    }
}

/// The server's statement timeout is shorter, so the statement has ended.
pub(super) fn no_answer() -> StoreError {
    StoreError::ConnectionLost("the database did not answer in time".to_owned())
}

/// Begins a transaction. It waits for no lock, so a timeout means that the connection is dead.
pub(super) async fn begun(
    conn: &mut PgConnection,
    by: AssertSqlSafe<Arc<str>>,
) -> Result<Transaction<'_, Postgres>> {
    match timeout(BEGIN, conn.begin_with(by)).await {
        Ok(transaction) => Ok(transaction?),
        Err(_) => Err(no_answer()),
    }
}

/// Why connecting failed, and what to do about it. The server's messages contain names of users and
/// databases, but no passwords.
fn advice(error: &sqlx::Error) -> String {
    const CHECK_TLS: &str = "check sslmode and sslrootcert in database.url, and the host's name";
    let (said, advice) = match error {
        sqlx::Error::Database(said) if is_of_settings(&**said) => (
            said.message().to_owned(),
            "remove session settings (`options` and the like) from database.url",
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
        // The error of a TLS handshake, for example an untrusted certificate.
        sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => {
            (error.to_string(), CHECK_TLS)
        }
        sqlx::Error::Io(io) if io.kind() == std::io::ErrorKind::NotFound => (
            error.to_string(),
            "a file that database.url refers to is missing: the one of sslrootcert, or the server's socket",
        ),
        sqlx::Error::Io(_) => (
            error.to_string(),
            "check the host and port in database.url, and whether the server is running",
        ),
        _ => (error.to_string(), ""),
    };
    if advice.is_empty() { said } else { format!("{said}; {advice}") }
}
