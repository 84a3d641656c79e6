//! A database created on the Postgres server of a URL and dropped after the
//! measurement. The database that the URL names is not used.

use gateway_events::store::postgres::{self, Options};
use secrecy::SecretString;
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

/// An empty database. It is only dropped by [`TemporaryDatabase::remove`].
pub(crate) struct TemporaryDatabase {
    server_url: SecretString,
    name: String,
    url: SecretString,
    is_encrypted: bool,
}

impl TemporaryDatabase {
    /// Creates one; the role in the URL needs the right to.
    pub(crate) async fn create(server_url: &SecretString) -> anyhow::Result<Self> {
        let name = format!("gateway_events_bench_{}", Uuid::new_v4().simple());
        let url = postgres::with_database(server_url, &name);
        let server_url = server_url.clone();
        let mut database = Self { server_url, name, url, is_encrypted: false };
        database.run("create database", "template template0 encoding 'UTF8'").await?;
        database.is_encrypted = database.check_encryption().await?;
        Ok(database)
    }

    /// Whether connections to it use TLS.
    pub(crate) const fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// Its URL.
    pub(crate) const fn url(&self) -> &SecretString {
        &self.url
    }

    /// Drops it, even while clients are connected.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        self.run("drop database if exists", "with (force)").await
    }

    async fn check_encryption(&self) -> anyhow::Result<bool> {
        let mut conn =
            postgres::connect(&Options { url: self.url.clone(), ..Options::default() }).await?;
        let query =
            "select coalesce(bool_or(ssl), false) from pg_stat_ssl where pid = pg_backend_pid()";
        let row = sqlx::raw_sql(query).fetch_one(&mut conn).await?;
        let is_encrypted = row.try_get(0)?;
        conn.close().await?;
        Ok(is_encrypted)
    }

    async fn run(&self, command: &str, rest: &str) -> anyhow::Result<()> {
        let options = Options { url: self.server_url.clone(), ..Options::default() };
        let mut conn = postgres::connect(&options).await?;
        // A large database may take longer to drop than the service's limit for a statement.
        sqlx::query("set statement_timeout = 0").execute(&mut conn).await?;
        // The name was generated above from letters and digits; an identifier can't be
        // a bind parameter.
        let statement = sqlx::AssertSqlSafe(format!("{command} {} {rest}", self.name));
        sqlx::query(statement).execute(&mut conn).await?;
        conn.close().await?;
        Ok(())
    }
}
