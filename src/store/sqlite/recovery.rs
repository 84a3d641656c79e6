//! Creates an access token directly in the file, for an operator who has none. A server may be
//! running. Refuses a file whose schema is another version's.

use std::path::Path;

use sqlx::Connection as _;

use super::{OpenError, connect, migrations, sql};
use crate::clock::Timestamp;
use crate::store::{NewToken, Principal};

/// Creates an access token with all scopes in the organisation `default`. A running server accepts
/// it at once, because it looks tokens up in the file.
pub async fn add_admin_token(
    path: &Path,
    principal: Principal,
    name: &str,
    token: NewToken,
) -> Result<(), OpenError> {
    migrations::refuse_another_version(path).await?;
    let mut conn = connect::connect(path).await?;
    let mut transaction = conn.begin_with("begin immediate").await?;
    let now = Timestamp::now();
    sql::credentials::recover_admin_token(&mut transaction, now, principal, name, token).await?;
    transaction.commit().await?;
    conn.close().await?;
    Ok(())
}
