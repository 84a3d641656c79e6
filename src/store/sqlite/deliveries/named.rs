//! Failed deliveries of a named event or correlation id: from the event to its
//! outbox rows to the attempts that cover them, however old they are.

use sqlx::SqliteConnection;

use super::{Keys, Matching, Place};
use crate::store::Result;

pub(super) async fn keys(
    connection: &mut SqliteConnection,
    matching: &Matching,
    as_of: i64,
    start: Place,
    limit: usize,
) -> Result<Keys> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        r#"
        with chosen as materialized (
            select event from events
            where organisation = $1 and id = $2 and ($3 is null or correlation_id = $3)
              and ($4 is null or type = $4)
            union
            select event from events
            where organisation = $1 and correlation_id = $3 and ($2 is null or id = $2)
              and ($4 is null or type = $4)
        ),
        failures as (
            select o.gateway, o.sequence, a.attempt, a.finished_at,
                row_number() over (partition by o.gateway, o.sequence
                                   order by a.finished_at desc, a.attempt desc) as nth
            from chosen c
            cross join outbox o indexed by outbox_by_event on o.event = c.event
            cross join gateways g on g.gateway = o.gateway and g.organisation = $1
            cross join attempts a indexed by attempts_by_sequence
                on a.gateway = o.gateway and a.first_sequence between o.sequence - 999 and o.sequence
               and a.last_sequence >= o.sequence
            where ($5 is null or o.gateway = $5) and a.outcome = 'failed'
              and ($6 is null or a.reason = $6)
              and a.finished_at >= $7 and a.finished_at < $8 and a.attempt <= $9
        )
        select gateway as "gateway!: i64", sequence as "sequence!: i64",
            attempt as "attempt!: i64", finished_at as "finished_at!: i64"
        from failures
        where nth = 1 and (finished_at, attempt, sequence) < ($10, $11, $12)
        order by finished_at desc, attempt desc, sequence desc
        limit $13
        "#,
        matching.organisation,
        matching.event_id,
        matching.correlation_id,
        matching.event_type,
        matching.gateway,
        matching.reason,
        matching.from,
        matching.to,
        as_of,
        start.finished_at,
        start.attempt,
        start.sequence,
        most
    )
    .fetch_all(connection)
    .await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|row| Place {
        finished_at: row.finished_at,
        attempt: row.attempt,
        sequence: row.sequence,
    });
    Ok(Keys { keys: rows.iter().map(|row| (row.gateway, row.sequence)).collect(), next })
}
