//! Creates an access token directly in the database, for an operator who has none. Nodes may be
//! running. Refuses a database whose schema is another version's.

use sqlx::Connection as _;

use super::connect;
use super::errors::OpenError;
use super::servers::Access;
use super::sql::dialect::NodeStatements as _;
use super::{Options, migrations, sql};
use crate::store::{NewToken, Principal};

/// Creates an access token with all scopes in the organisation `default`. Running nodes accept it
/// at once, because they look tokens up in the database.
pub async fn add_admin_token(
    options: &Options,
    principal: Principal,
    name: &str,
    token: NewToken,
) -> Result<(), OpenError> {
    migrations::refuse_another_version(options).await?;
    let (mut conn, link) = connect::first(options, Access::Write).await?;
    let mut transaction = conn.begin_with(link.begin()).await?;
    let now = transaction.now().await?;
    sql::credentials::recover_admin_token(&mut transaction, now, principal, name, token).await?;
    transaction.commit().await?;
    conn.close().await?;
    Ok(())
}
