//! A way in for whoever owns the file but has no token: made straight in the
//! database, beside a running server or without one. Refuses a file that this
//! version has not migrated.

use std::path::Path;

use sqlx::Connection as _;

use super::{OpenError, connect, migrations, sql};
use crate::clock::Timestamp;
use crate::store::NewToken;

/// Makes an access token with all scopes in the organisation `default`. A
/// running server knows it at once, since it looks tokens up in the file.
pub async fn add_admin_token(path: &Path, name: &str, token: NewToken) -> Result<(), OpenError> {
    migrations::refuse_another_version(path).await?;
    let mut conn = connect::connect(path).await?;
    let mut transaction = conn.begin_with("begin immediate").await?;
    sql::credentials::create_admin_token(&mut transaction, Timestamp::now(), name, token).await?;
    transaction.commit().await?;
    conn.close().await?;
    Ok(())
}
