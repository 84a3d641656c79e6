//! Counts a gateway's reports for its verdict, by their sequences, so that a late report changes
//! nothing.

use std::collections::BTreeSet;

use super::super::dialect::{Connection, query, query_scalar};

use crate::clock::Timestamp;
use crate::event::{GatewayKey, Reason, Sequence};
use crate::store::Result;

/// Records a failed report. A success for the same sequence takes precedence.
pub(crate) async fn failed(
    conn: &mut Connection,
    gateway: GatewayKey,
    sequence: Sequence,
    reason: Reason,
    at: Timestamp,
) -> Result<()> {
    query!(
        r#"
        update streams set reported = $2, failing_since = coalesce(failing_since, $4),
            failing_reason = $3, failing_count = failing_count + case when reported < $2 then 1 else 0 end
        where gateway = $1 and (reported < $2 or reported = $2 and failing_since is not null)
        "#,
        gateway.0,
        sequence.0,
        reason as _,
        at as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records a report of success.
pub(crate) async fn succeeded(
    conn: &mut Connection,
    gateway: GatewayKey,
    sequence: Sequence,
) -> Result<()> {
    query!(
        r#"
        update streams set reported = $2, failing_since = null, failing_reason = null, failing_count = 0
        where gateway = $1 and reported <= $2
        "#,
        gateway.0,
        sequence.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that deliveries were appended again. If the newest failed report was about one of them,
/// the outcome is open until the gateway reports again.
pub(crate) async fn redriven(
    conn: &mut Connection,
    gateway: GatewayKey,
    sequences: &BTreeSet<i64>,
) -> Result<()> {
    let failing = query_scalar!(
        r#"
        select reported as "reported!: i64" from streams
        where gateway = $1 and failing_since is not null
        "#,
        gateway.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    if failing.is_some_and(|reported| sequences.contains(&reported)) {
        query!(
            r#"
            update streams set failing_since = null, failing_reason = null, failing_count = 0
            where gateway = $1
            "#,
            gateway.0
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}
