//! A database made beside the one that a URL names, and dropped again: for
//! measuring, which must leave the named one as it is.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::{ConnectOptions as _, Connection as _};
use uuid::Uuid;

use super::Options;
use super::connect::{self, OpenError};
use crate::store::Queue;

/// An empty database. Nothing drops it but [`Temporary::remove`].
pub struct Temporary {
    server_url: SecretString,
    name: String,
    url: SecretString,
}

impl Temporary {
    /// Makes one on the server of this URL, whose role needs the right to.
    pub async fn create(server_url: &SecretString) -> Result<Self, OpenError> {
        let server = connect::settings("the database's URL", server_url)?;
        let name = format!("gateway_events_bench_{}", Uuid::new_v4().simple());
        let url = SecretString::from(server.database(&name).to_url_lossy().to_string());
        let temporary = Self { server_url: server_url.clone(), name, url };
        temporary.run("create database", "template template0 encoding 'UTF8'").await?;
        Ok(temporary)
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
        let (mut connection, _) = connect::first(&options(self.server_url.clone())).await?;
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
