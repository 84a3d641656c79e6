//! A way in for whoever owns the file but has no token: made straight in the
//! database, beside a running server or without one. Refuses a file that this
//! version has not migrated.

use std::path::Path;

use sqlx::Connection as _;

use super::{OpenError, migrations, now, open, tokens};
use crate::store::{NewToken, Result, Scope, StoreError};

/// Makes an access token with all scopes in the organisation `default`. A
/// running server knows it at once, since it looks tokens up in the file.
pub async fn add_admin_token(path: &Path, name: &str, token: NewToken) -> Result<(), OpenError> {
    if !migrations::pending_migrations(path).await?.is_empty() {
        return Err(OpenError::Behind(path.to_owned()));
    }
    let mut connection = open::connect(path).await?;
    let mut transaction = connection.begin_with("begin immediate").await?;
    let added: Result<()> = async {
        let organisation = tokens::organisation(&mut transaction, "default").await?;
        let scopes = [Scope::Publish, Scope::Read, Scope::Admin];
        let transaction = &mut transaction;
        tokens::create_access_token(transaction, now(), organisation, name, &scopes, token).await?;
        Ok(())
    }
    .await;
    added.map_err(|error: StoreError| {
        OpenError::Database(sqlx::Error::Protocol(error.to_string()))
    })?;
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}
