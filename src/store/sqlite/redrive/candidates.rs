//! Which dead letters can be redriven: not redriven yet, and their event still
//! there. They are looked for among the dead letters, not in the ledger, so
//! that each call finds what the last one left.

use sqlx::SqliteConnection;

use crate::store::Result;
use crate::store::sqlite::deliveries::{Key, Matching, WORK};

/// A dead letter that can be redriven, and the range in which it is kept.
pub(super) struct Candidate {
    pub(super) gateway: i64,
    pub(super) gateway_id: String,
    pub(super) sequence: i64,
    pub(super) event: i64,
    pub(super) event_id: String,
    pub(super) range_first: i64,
}

/// Those with a failed attempt that matches; oldest first, as they were to be delivered.
pub(super) async fn matching(
    connection: &mut SqliteConnection,
    matching: &Matching,
    most: usize,
) -> Result<Vec<Candidate>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    Ok(sqlx::query_as!(
        Candidate,
        r#"
        select o.gateway as "gateway!: i64", g.id as "gateway_id!: String",
            o.sequence as "sequence!: i64", e.event as "event!: i64", e.id as "event_id!: String",
            d.first_sequence as "range_first!: i64"
        from dead_letters d
        cross join gateways g on g.gateway = d.gateway
        cross join outbox o on o.gateway = d.gateway
            and o.sequence between d.first_sequence and d.last_sequence
        cross join events e on e.event = o.event
        where d.redriven_at is null and g.organisation = $1 and g.deleted_at is null
          and ($2 is null or d.gateway = $2) and ($3 is null or e.type = $3)
          and ($4 is null or e.id = $4) and ($5 is null or e.correlation_id = $5)
          and exists (
              select 1 from attempts a indexed by attempts_by_sequence
              where a.gateway = o.gateway and a.first_sequence between o.sequence - 999 and o.sequence
                and a.last_sequence >= o.sequence and a.outcome = 'failed'
                and a.finished_at >= $6 and a.finished_at < $7 and ($8 is null or a.reason = $8))
        order by d.gateway, d.first_sequence, o.sequence
        limit $9
        "#,
        matching.organisation,
        matching.gateway,
        matching.event_type,
        matching.event_id,
        matching.correlation_id,
        matching.from,
        matching.to,
        matching.reason,
        most
    )
    .fetch_all(connection)
    .await?)
}

/// The dead letter at this key, whatever its attempts: the ledger may have forgotten them.
pub(super) async fn single(
    connection: &mut SqliteConnection,
    (gateway, sequence): Key,
) -> Result<Option<Candidate>> {
    Ok(sqlx::query_as!(
        Candidate,
        r#"
        select o.gateway as "gateway!: i64", g.id as "gateway_id!: String",
            o.sequence as "sequence!: i64", e.event as "event!: i64", e.id as "event_id!: String",
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
pub(super) async fn removed(connection: &mut SqliteConnection, matching: &Matching) -> Result<i64> {
    if matching.event_type.is_some() || matching.names_events() {
        return Ok(0);
    }
    let most = i64::try_from(WORK).unwrap_or(i64::MAX);
    let overlaps = sqlx::query!(
        r#"
        select d.gateway as "gateway!: i64", max(d.first_sequence, a.first_sequence) as "first!: i64",
            min(d.last_sequence, a.last_sequence, s.floor) as "last!: i64"
        from dead_letters d
        cross join gateways g on g.gateway = d.gateway
        cross join streams s on s.gateway = d.gateway
        cross join attempts a indexed by attempts_by_sequence on a.gateway = d.gateway
            and a.first_sequence between d.first_sequence - 999 and min(d.last_sequence, s.floor)
            and a.last_sequence >= d.first_sequence
        where d.redriven_at is null and g.organisation = $1 and g.deleted_at is null
          and d.first_sequence <= s.floor and ($2 is null or d.gateway = $2)
          and a.outcome = 'failed' and a.finished_at >= $3 and a.finished_at < $4
          and ($5 is null or a.reason = $5)
        order by 1, 2 limit $6
        "#,
        matching.organisation,
        matching.gateway,
        matching.from,
        matching.to,
        matching.reason,
        most
    )
    .fetch_all(connection)
    .await?;
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
