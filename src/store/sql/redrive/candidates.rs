//! Which dead letters can be redriven: not redriven yet, and their event still
//! there. They are looked for among the dead letters, not in the ledger, so
//! that each call finds what the last one left.

use super::super::dialect::{self, Connection, query_as};

use super::super::deliveries::{Key, Matching, WORK};
use crate::event::{EventId, GatewayId, GatewayKey};
use crate::store::Result;

/// A dead letter that can be redriven, and the range in which it is kept.
pub(crate) struct Candidate {
    pub(crate) gateway: GatewayKey,
    pub(crate) gateway_id: GatewayId,
    pub(crate) sequence: i64,
    pub(crate) event: i64,
    pub(crate) event_id: EventId,
    pub(crate) range_first: i64,
}

/// Those with a failed attempt that matches; oldest first, as they were to be delivered.
pub(super) async fn matching(
    connection: &mut Connection,
    matching: &Matching,
    most: usize,
) -> Result<Vec<Candidate>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    dialect::redrivable(connection, matching, most).await
}

/// The dead letter at this key, whatever its attempts: the ledger may have forgotten them.
pub(super) async fn single(
    connection: &mut Connection,
    (gateway, sequence): Key,
) -> Result<Option<Candidate>> {
    Ok(query_as!(
        Candidate,
        r#"
        select o.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            o.sequence as "sequence!: i64", e.event as "event!: i64", e.id as "event_id!: EventId",
            d.first_sequence as "range_first!: i64"
        from dead_letters d
        join gateways g using (gateway)
        join outbox o on o.gateway = d.gateway and o.sequence = $2
        join events e using (event)
        where d.gateway = $1 and d.first_sequence <= $2 and d.last_sequence >= $2
          and d.redriven_at is null
        "#,
        gateway,
        sequence
    )
    .fetch_optional(connection)
    .await?)
}

/// How many matching dead letters have lost their event to retention: those
/// trimmed from the log. A filter that looks into the event can't match them.
pub(super) async fn removed(connection: &mut Connection, matching: &Matching) -> Result<i64> {
    if matching.event_type.is_some() || matching.names_events() {
        return Ok(0);
    }
    let most = i64::try_from(WORK).unwrap_or(i64::MAX);
    let overlaps = dialect::removed_overlaps(connection, matching, most).await?;
    // Attempts overlap, and each delivery counts once: the union of sorted ranges.
    let (mut count, mut of, mut reached) = (0, 0, 0);
    for row in overlaps {
        if row.gateway != of {
            (of, reached) = (row.gateway, 0);
        }
        count += (row.last - row.first.max(reached + 1) + 1).max(0);
        reached = reached.max(row.last);
    }
    Ok(count)
}

/// The part of a dead letter's range that is gone from the log and that a
/// matching attempt covers.
pub(crate) struct Overlap {
    pub(crate) gateway: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
}
