//! What earlier connections of a gateway were sent.

use super::super::dialect::{Connection, query};
use crate::event::{GatewayKey, Reason, Sequence};
use crate::store::Result;

/// The last sequence after `position` that an earlier connection was sent, and the last one whose
/// attempt failed for a reason that the event may have caused. Examines at most a window
/// reaches.
pub(crate) async fn sent_behind(
    conn: &mut Connection,
    gateway: GatewayKey,
    position: Sequence,
) -> Result<(Sequence, Sequence)> {
    const WINDOW: i64 = 1000;
    let (first, last) = (position.0 + 1, position.0 + WINDOW);
    let attempts = query!(
        r#"
        select reason as "reason?: Reason", max(last_sequence) as "last!: Sequence"
        from attempts
        where gateway = $1 and first_sequence between $2 and $3 and connection is not null
        group by reason
        "#,
        gateway.0,
        first,
        last
    )
    .fetch_all(conn)
    .await?;
    let (mut sent, mut suspect) = (position, position);
    for row in attempts {
        sent = sent.max(row.last);
        if row.reason.is_some_and(Reason::is_attributed_to_the_event) {
            suspect = suspect.max(row.last);
        }
    }
    Ok((sent, suspect))
}
