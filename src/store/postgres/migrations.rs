//! The schema's history, compiled in and shared with sqlx-cli. It only goes
//! forward, and a database whose history is not a prefix of ours is refused.

use sqlx::migrate::{Migrate as _, Migrator};
use sqlx::{Connection as _, PgConnection};

use super::Options;
use super::connect::{self, OpenError};
use crate::store::schema;

static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// Brings the database up to date. Nodes may be running: each migration is one
/// transaction, and what the nodes do waits for it.
pub async fn migrate(options: &Options) -> Result<(), OpenError> {
    let mut connection = connect::first(&connect::settings(options)?).await?;
    run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// The migrations that the database lacks, oldest first. Changes nothing.
pub async fn pending_migrations(options: &Options) -> Result<Vec<String>, OpenError> {
    let mut connection = connect::first(&connect::settings(options)?).await?;
    let table = "select to_regclass('_sqlx_migrations') is not null";
    let applied = if sqlx::query_scalar::<_, bool>(table).fetch_one(&mut connection).await? {
        connection.list_applied_migrations(&MIGRATOR.table_name).await.map_err(schema::refused)?
    } else {
        Vec::new()
    };
    connection.close().await?;
    Ok(schema::pending(&MIGRATOR, &applied)?)
}

/// Refuses a database that lacks migrations, or has others than this version.
pub async fn refuse_another_version(options: &Options) -> Result<(), OpenError> {
    if pending_migrations(options).await?.is_empty() { Ok(()) } else { Err(OpenError::Behind) }
}

/// Applies what is missing, one node at a time.
pub(super) async fn run(connection: &mut PgConnection) -> Result<(), OpenError> {
    Ok(MIGRATOR.run(connection).await.map_err(schema::refused)?)
}
