//! A database made beside the one that a URL names, and dropped again: for
//! measuring, which must leave the named one as it is.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::Options;
use super::connect::{self, OpenError};
use super::hosts;
use super::servers::Access;
use crate::store::Queue;

/// An empty database. Nothing drops it but [`Temporary::remove`].
pub struct Temporary {
    server_url: SecretString,
    name: String,
    url: SecretString,
    is_encrypted: bool,
}

impl Temporary {
    /// Makes one on the server of this URL, whose role needs the right to.
    pub async fn create(server_url: &SecretString) -> Result<Self, OpenError> {
        let name = format!("gateway_events_bench_{}", Uuid::new_v4().simple());
        let url = hosts::with_database(server_url, &name);
        let server_url = server_url.clone();
        let mut temporary = Self { server_url, name, url, is_encrypted: false };
        temporary.run("create database", "template template0 encoding 'UTF8'").await?;
        temporary.is_encrypted = temporary.check_encryption().await?;
        Ok(temporary)
    }

    /// Whether connections to it use TLS.
    pub const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    async fn check_encryption(&self) -> Result<bool, OpenError> {
        let (mut connection, _) = connect::first(&options(self.url.clone()), Access::Write).await?;
        let asked =
            "select coalesce(bool_or(ssl), false) from pg_stat_ssl where pid = pg_backend_pid()";
        let row = sqlx::raw_sql(asked).fetch_one(&mut connection).await?;
        let is_encrypted = row.try_get(0)?;
        connection.close().await?;
        Ok(is_encrypted)
    }

    /// How it is reached.
    pub const fn url(&self) -> &SecretString {
        &self.url
    }

    /// Drops it, whoever is connected.
    pub async fn remove(&self) -> Result<(), OpenError> {
        self.run("drop database if exists", "with (force)").await
    }

    async fn run(&self, verb: &str, rest: &str) -> Result<(), OpenError> {
        let (mut connection, _) =
            connect::first(&options(self.server_url.clone()), Access::Write).await?;
        // The name is made here, of letters and digits; it can't be a parameter.
        let statement = sqlx::AssertSqlSafe(format!("{verb} {} {rest}", self.name));
        sqlx::query(statement).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

/// What matters for migrating and connecting.
pub(super) fn options(url: SecretString) -> Options {
    let queue = Queue { events: 1, bytes: 1 };
    Options {
        url,
        notify: false,
        listener_url: SecretString::default(),
        connections: 1,
        askers: 1,
        answer_timeout: Duration::from_secs(10),
        node_timeout: Duration::from_secs(30),
        queue,
    }
}
