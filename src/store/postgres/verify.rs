//! Verification of a shared database. Writes nothing, and may run beside nodes.

use sqlx::Connection as _;

use super::connect::{self, OpenError};
use super::servers::Access;
use super::{Options, sql};
use crate::store::VerifyReport;

/// Verifies the database; a standby will do.
pub async fn verify(options: &Options) -> Result<VerifyReport, OpenError> {
    let (mut conn, link) = connect::first(options, Access::Read).await?;
    // One transaction, so that all checks see one moment although nodes may be writing.
    let mut snapshot = conn.begin_with(link.begin_reading()).await?;
    let report = sql::verify::check(&mut snapshot).await?;
    snapshot.rollback().await?;
    conn.close().await?;
    Ok(report)
}
