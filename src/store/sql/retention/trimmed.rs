//! Deliveries that were trimmed from a log and whose record is kept with their events.

use super::super::dialect::{Connection, RetentionStatements, query};

use super::{SpentEvents, Stream};
use crate::clock::Timestamp;
use crate::store::{Result, RetentionLimits, TrimMark, Trimmed};

/// Deletes the record of a stream's trimmed deliveries beyond the hard limit, oldest first and one
/// batch at a time, with their events.
pub(crate) async fn forget(
    conn: &mut Connection,
    now: Timestamp,
    limits: &RetentionLimits,
    stream: &Stream,
    mark: &mut TrimMark,
    trimmed: &mut Trimmed,
) -> Result<()> {
    let last = stream.head - limits.hard_max_events;
    let rows = query!(
        r#"
        select t.sequence as "sequence!: i64", t.event as "event!: i64",
            e.appended_at as "appended_at!: Timestamp"
        from trimmed t join events e using (event)
        where t.gateway = $1 and t.sequence <= $2 order by t.sequence limit $3
        "#,
        stream.gateway.0,
        last,
        limits.batch
    )
    .fetch_all(&mut *conn)
    .await?;
    let spent = SpentEvents::of(now, limits);
    let gone: Vec<_> = rows.iter().take_while(|row| row.appended_at < spent.before).collect();
    let Some(last) = gone.last() else { return Ok(()) };
    query!(
        "delete from trimmed where gateway = $1 and sequence <= $2",
        stream.gateway.0,
        last.sequence
    )
    .execute(&mut *conn)
    .await?;
    let events: Vec<i64> = gone.iter().map(|row| row.event).collect();
    trimmed.events += conn.delete_spent_events(&events, spent, mark).await?;
    Ok(())
}
