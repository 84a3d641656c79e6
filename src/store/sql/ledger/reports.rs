//! Counts a gateway's reports for its verdict, by their sequences, so that a late report changes
//! nothing.

use std::collections::BTreeSet;

use super::super::dialect::{Connection, CursorStatements as _, query, query_scalar};

use crate::clock::Timestamp;
use crate::event::{GatewayKey, Reason, Sequence};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{Range, Result};

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

/// Records a report of success. It ends the failing if the event that failed last is of the same
/// type, or not on record any more.
pub(crate) async fn succeeded(
    conn: &mut Connection,
    gateway: GatewayKey,
    sequence: Sequence,
) -> Result<()> {
    query!(
        r#"
        update streams set reported = $2, failing_since = null, failing_reason = null, failing_count = 0
        where gateway = $1 and reported <= $2 and (failing_since is null or not exists (
            select 1 from outbox f join events fe on fe.event = f.event
            join outbox s on s.gateway = f.gateway and s.sequence = $2 join events se on se.event = s.event
            where f.gateway = $1 and f.sequence = streams.reported and fe.type <> se.type
        ))
        "#,
        gateway.0,
        sequence.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records what gateways acknowledged at the level that confirms. Of a long range, which only a
/// gateway's own position can cover, the newest part counts.
pub(crate) async fn acknowledged(
    conn: &mut Connection,
    ranges: impl Iterator<Item = (GatewayKey, Range)>,
) -> Result<()> {
    let newest = ranges.filter(|(_, it)| it.first <= it.last).map(|(gateway, it)| {
        let first = it.first.max(Sequence(it.last.0 - MAX_RANGE_LENGTH + 1));
        (gateway, Range { first, ..it })
    });
    let newest: Vec<_> = newest.collect();
    if newest.is_empty() { Ok(()) } else { conn.end_failing(&newest).await }
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
