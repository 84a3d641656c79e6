//! Changes that an operator makes directly in the file: an access token for an operator who has none,
//! while a server may be running, and new epochs for all logs, while none is. Both refuse a file
//! whose schema is another version's.

use std::fs::File;
use std::path::Path;

use sqlx::{Connection as _, SqliteConnection};

use super::{OpenError, backup_mark, connect, migrations, sql};
use crate::clock::Timestamp;
use crate::store::{NewToken, Principal, RenewalReason};

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

/// Fails if [`renew_epochs`] can't be done because of the database's state. Changes nothing.
pub async fn check_renewal(path: &Path) -> Result<(), OpenError> {
    lock_existing(path).await.map(drop)
}

/// Locks a database with the schema of this version.
async fn lock_existing(path: &Path) -> Result<File, OpenError> {
    // Locking would create the directory of a database that does not exist.
    migrations::refuse_another_version(path).await?;
    let lock = connect::lock(path)?;
    // A server may have migrated it meanwhile.
    migrations::refuse_another_version(path).await?;
    Ok(lock)
}

/// Gives every log a new epoch; returns the number of logs. Fails while a server has the file open.
pub async fn renew_epochs(path: &Path, principal: Principal) -> Result<u64, OpenError> {
    let _lock = lock_existing(path).await?;
    let mut conn = connect::connect(path).await?;
    let logs = renew(&mut conn, principal, RenewalReason::Requested).await?;
    backup_mark::clear(&mut conn).await?;
    conn.close().await?;
    Ok(logs)
}

/// Gives every log a new epoch, in one transaction.
pub(super) async fn renew(
    conn: &mut SqliteConnection,
    principal: Principal,
    reason: RenewalReason,
) -> Result<u64, OpenError> {
    let mut transaction = conn.begin_with("begin immediate").await?;
    let logs = sql::epochs::renew(&mut transaction, principal, reason).await?;
    transaction.commit().await?;
    Ok(logs)
}
