//! A way in for whoever owns the database but has no token: made straight in
//! it, beside running nodes or without any. Refuses a database that this
//! version has not migrated.

use sqlx::Connection as _;

use super::connect::{self, OpenError};
use super::servers::Access;
use super::sql::dialect::NodeStatements as _;
use super::{Options, migrations, sql};
use crate::store::NewToken;

/// Makes an access token with all scopes in the organisation `default`.
/// Running nodes know it at once, since they look tokens up in the database.
pub async fn add_admin_token(
    options: &Options,
    name: &str,
    token: NewToken,
) -> Result<(), OpenError> {
    migrations::refuse_another_version(options).await?;
    let (mut conn, link) = connect::first(options, Access::Write).await?;
    let mut transaction = conn.begin_with(link.begin()).await?;
    let now = transaction.now().await?;
    sql::credentials::create_admin_token(&mut transaction, now, name, token).await?;
    transaction.commit().await?;
    conn.close().await?;
    Ok(())
}
