//! Opens the database that the settings select.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer};

use super::{
    AuditHead, NewToken, Principal, Restore, Restored, Result, Store, StoreError, VerifyReport,
};
use crate::defaults;
use crate::event::NodeId;
use crate::jobs::Supervisor;
use crate::wake::Wake;

/// Settings of the database (`[database]`).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The file of the SQLite database. Not a setting: derived from `data_dir`.
    #[serde(skip)]
    pub path: PathBuf,
    /// URL of a Postgres database that nodes share; empty for the SQLite database.
    #[serde(deserialize_with = "secret")]
    pub url: SecretString,
    /// Whether this node notifies other nodes of appends, and listens to their notifications.
    pub notify: bool,
    /// URL to listen on instead of `url`; empty for `url`.
    #[serde(deserialize_with = "secret")]
    pub listener_url: SecretString,
    /// Connections in the Postgres pool. The writer, the heartbeat and the listener have
    /// connections of their own.
    pub connections: u32,
    /// Connections that read the SQLite database for gateways and publishers.
    pub readers: u32,
    /// Connections for lists, statistics and failed deliveries. They have a pool of their own, so
    /// that slow queries delay neither gateways nor publishers.
    pub query_connections: u32,
    /// A query that takes longer is cancelled.
    #[serde(with = "humantime_serde")]
    pub query_timeout: Duration,
    /// A node of a shared Postgres whose last heartbeat is older is declared dead by the others.
    #[serde(with = "humantime_serde")]
    pub node_timeout: Duration,
    /// Events that may wait to be appended; additional ones are refused at once.
    pub queue_events: usize,
    /// Bytes of payload that may wait to be appended; additional ones are refused at once.
    pub queue_bytes: ByteSize,
    /// With less free space beside the SQLite database, publishing is refused.
    pub min_free_bytes: ByteSize,
    /// Size of the ballast file beside the SQLite database; 0 for none.
    pub ballast_bytes: ByteSize,
    /// The write-ahead log of SQLite is checkpointed and truncated beyond this size.
    pub max_wal_bytes: ByteSize,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

/// How much may wait to be appended; more is refused at once.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// The maximum number of events.
    pub events: usize,
    /// The maximum number of bytes of payload.
    pub bytes: usize,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The SQLite database could not be opened.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Sqlite(super::sqlite::OpenError),
    /// The Postgres database could not be opened.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] super::postgres::OpenError),
    /// The database was opened, but an operation failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The SQLite database could not be backed up.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Backup(#[from] super::sqlite::BackupError),
    /// A backup of the SQLite database could not be restored.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Restore(#[from] super::sqlite::RestoreError),
    /// Backups of Postgres are made and restored by its own tools.
    #[error(
        "database.url names a Postgres database: back it up and restore it with its own tools, such as pg_dump or pg_basebackup, and run `gateway-events epoch renew` after a restore (docs/BACKUPS.md)"
    )]
    OwnTools,
    /// The program was built without support for this database.
    #[error("this program was built without support for {0}")]
    LeftOut(&'static str),
}

/// An open store with its failure signal and its jobs.
pub struct Open {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Completes when the process should end because only a restart can help.
    pub failure: BoxFuture<'static, ()>,
    /// The store's own background jobs.
    pub jobs: Supervisor,
}

enum Database {
    #[cfg(feature = "sqlite")]
    Sqlite(super::sqlite::Options),
    #[cfg(feature = "postgres")]
    Postgres(super::postgres::Options),
}

/// An error of the SQLite database, with its file.
#[cfg(feature = "sqlite")]
fn in_file(error: super::sqlite::OpenError, path: &Path) -> OpenError {
    OpenError::Sqlite(error.at(path))
}

impl Default for Options {
    fn default() -> Self {
        defaults::section("database")
    }
}

impl Options {
    /// The settings of the SQLite database.
    #[cfg(feature = "sqlite")]
    pub(super) fn sqlite(&self) -> super::sqlite::Options {
        super::sqlite::Options {
            path: self.path.clone(),
            readers: self.readers,
            query_connections: self.query_connections,
            query_timeout: self.query_timeout,
            queue: self.queue(),
            min_free_bytes: self.min_free_bytes.as_u64(),
            ballast_bytes: self.ballast_bytes.as_u64(),
            max_wal_bytes: self.max_wal_bytes.as_u64(),
        }
    }

    /// The settings of Postgres.
    #[cfg(feature = "postgres")]
    pub(super) fn postgres(&self) -> super::postgres::Options {
        super::postgres::Options {
            url: self.url.clone(),
            notify: self.notify,
            listener_url: self.listener_url.clone(),
            connections: self.connections,
            query_connections: self.query_connections,
            query_timeout: self.query_timeout,
            node_timeout: self.node_timeout,
            queue: self.queue(),
        }
    }

    fn queue(&self) -> Queue {
        let bytes = usize::try_from(self.queue_bytes.as_u64()).unwrap_or(usize::MAX);
        Queue { events: self.queue_events, bytes }
    }

    /// The files that the URLs name (certificates and keys for TLS to Postgres), each with its
    /// parameter. Leaves out percent-encoded paths.
    pub fn files(&self) -> Vec<(String, PathBuf)> {
        const PARAMETERS: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];
        let urls = [self.url.expose_secret(), self.listener_url.expose_secret()];
        let queries = urls.into_iter().filter_map(|url| Some(url.split_once('?')?.1));
        let pairs = queries.flat_map(|query| query.split('&')).filter_map(|it| it.split_once('='));
        pairs
            .filter(|(name, path)| {
                let name = name.replace('-', "");
                PARAMETERS.contains(&name.as_str()) && !path.is_empty() && !path.contains('%')
            })
            .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
            .collect()
    }

    /// Whether nodes share the database.
    pub fn is_shared(&self) -> bool {
        !self.url.expose_secret().is_empty()
    }

    #[cfg_attr(
        all(feature = "sqlite", feature = "postgres"),
        expect(clippy::unnecessary_wraps, reason = "a build with one database has the other arm")
    )]
    fn database(&self) -> Result<Database, OpenError> {
        if self.is_shared() {
            #[cfg(feature = "postgres")]
            return Ok(Database::Postgres(self.postgres()));
            #[cfg(not(feature = "postgres"))]
            return Err(OpenError::LeftOut("Postgres"));
        }
        #[cfg(feature = "sqlite")]
        return Ok(Database::Sqlite(self.sqlite()));
        #[cfg(not(feature = "sqlite"))]
        return Err(OpenError::LeftOut("SQLite; set database.url"));
    }

    /// Checks what [`open`](Self::open) checks before it connects: whether this program can
    /// use the database, and whether the URLs can be parsed.
    pub fn check(&self) -> Result<(), OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(_) => {}
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => super::postgres::check_urls(&options)?,
        }
        Ok(())
    }

    /// Opens the database, and applies pending migrations.
    pub async fn open(&self, node: NodeId, wake: Wake) -> Result<Open, OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => {
                let opened = super::sqlite::SqliteStore::open(&options, node, wake).await;
                let store = opened.map_err(|error| in_file(error, &options.path))?;
                let failing = Arc::clone(&store);
                let failure = Box::pin(async move { failing.failure().await });
                Ok(Open { store, failure, jobs: Supervisor::default() })
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => {
                let store = super::postgres::PostgresStore::open(&options, node, wake).await?;
                let (failing, jobs) = (Arc::clone(&store), store.jobs());
                let failure = Box::pin(async move { failing.failure().await });
                Ok(Open { store, failure, jobs })
            }
        }
    }

    /// Brings the schema up to date.
    pub async fn migrate(&self) -> Result<(), OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => {
                let migrated = super::sqlite::migrate(&options.path).await;
                migrated.map_err(|error| in_file(error, &options.path))
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => Ok(super::postgres::migrate(&options).await?),
        }
    }

    /// The migrations that have not been applied, oldest first. Changes nothing.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => {
                let pending = super::sqlite::pending_migrations(&options.path).await;
                pending.map_err(|error| in_file(error, &options.path))
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => Ok(super::postgres::pending_migrations(&options).await?),
        }
    }

    /// Creates an access token with all scopes in the organisation `default`, for an operator who
    /// has none, and records that in the audit log. The service may be running.
    pub async fn add_admin_token(
        &self,
        principal: Principal,
        name: &str,
        token: NewToken,
    ) -> Result<(), OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => {
                let added =
                    super::sqlite::add_admin_token(&options.path, principal, name, token).await;
                added.map_err(|error| in_file(error, &options.path))
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => {
                Ok(super::postgres::add_admin_token(&options, principal, name, token).await?)
            }
        }
    }

    /// Copies the SQLite database to a new file, and returns its size in bytes. The service may be
    /// running.
    pub async fn backup(&self, to: &Path) -> Result<u64, OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => Ok(super::sqlite::backup(&options, to).await?),
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => {
                let _ = to;
                Err(OpenError::OwnTools)
            }
        }
    }

    /// Replaces the SQLite database with a backup, with new epochs for all logs. The service
    /// must not be running.
    pub async fn restore(&self, restore: Restore) -> Result<Restored, OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => Ok(super::sqlite::restore(&options.path, restore).await?),
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => {
                drop(restore);
                Err(OpenError::OwnTools)
            }
        }
    }

    /// Fails if [`renew_epochs`](Self::renew_epochs) would fail because of the database's state: it does not
    /// exist, or a node is running. Changes nothing.
    pub async fn check_renewal(&self) -> Result<(), OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => {
                let checked = super::sqlite::check_renewal(&options.path).await;
                checked.map_err(|error| in_file(error, &options.path))
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => Ok(super::postgres::check_renewal(&options).await?),
        }
    }

    /// Gives every log a new epoch, and records that in the audit log. Returns the number of logs.
    /// The service must not be running, on any node.
    pub async fn renew_epochs(&self, principal: Principal) -> Result<u64, OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => {
                let renewed = super::sqlite::renew_epochs(&options.path, principal).await;
                renewed.map_err(|error| in_file(error, &options.path))
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => {
                Ok(super::postgres::renew_epochs(&options, principal).await?)
            }
        }
    }

    /// Verifies the database's contents, if its schema is this version's. Writes nothing. If
    /// `anchor` is given, the record of the audit log with that sequence must have that hash.
    pub async fn verify(&self, anchor: Option<AuditHead>) -> Result<VerifyReport, OpenError> {
        match self.database()? {
            #[cfg(feature = "sqlite")]
            Database::Sqlite(options) => {
                let checked = super::sqlite::refuse_another_version(&options.path).await;
                checked.map_err(|error| in_file(error, &options.path))?;
                let verified = super::sqlite::verify::verify_against(&options.path, anchor).await;
                verified.map_err(|error| match error {
                    StoreError::Corrupt(error) => {
                        OpenError::Sqlite(super::sqlite::OpenError::Damaged {
                            path: options.path,
                            error,
                        })
                    }
                    error => error.into(),
                })
            }
            #[cfg(feature = "postgres")]
            Database::Postgres(options) => {
                super::postgres::refuse_another_version(&options).await?;
                Ok(super::postgres::verify_against(&options, anchor).await?)
            }
        }
    }
}
