//! Verifies a Postgres database. Writes nothing, and may run while nodes are running.

use sqlx::Connection as _;

use super::connect;
use super::errors::OpenError;
use super::servers::Access;
use super::{Options, sql};
use crate::store::{AuditHead, VerifyReport};

/// Verifies the database, on any server, including a standby.
pub async fn verify(options: &Options) -> Result<VerifyReport, OpenError> {
    verify_against(options, None).await
}

/// The same, and compares the audit log with a position of it that was kept elsewhere.
pub async fn verify_against(
    options: &Options,
    anchor: Option<AuditHead>,
) -> Result<VerifyReport, OpenError> {
    let (mut conn, link) = connect::first(options, Access::Read).await?;
    // One transaction, so that all checks read the same snapshot while nodes write.
    let mut snapshot = conn.begin_with(link.begin_reading()).await?;
    let report = sql::verify::check(&mut snapshot, anchor).await?;
    snapshot.rollback().await?;
    conn.close().await?;
    Ok(report)
}
