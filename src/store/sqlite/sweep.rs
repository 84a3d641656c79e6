//! The sweep: what was appended while nobody was there is a failed attempt,
//! and is still delivered when the gateway comes back.

use sqlx::SqliteConnection;

use super::gateways::parsed;
use super::json;
use super::ledger::{self, Ended, How};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason, Sequence};
use crate::store::{Missed, Range, Result};

/// Records `not_connected` for gateways without a live connection; `None`
/// looks at all of them. Returns what was recorded.
pub(super) async fn sweep_not_connected(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
    gateways: Option<&[GatewayKey]>,
) -> Result<Vec<Missed>> {
    let wanted =
        gateways.map(|keys| json(&keys.iter().map(|key| key.0).collect::<Vec<_>>())).transpose()?;
    let missed = sqlx::query!(
        r#"
        select s.gateway as "gateway!: i64", g.id as "id!: String", s.head as "head!: i64",
            max(s.missed, coalesce(u.received, 0)) as "answered!: i64"
        from streams s join gateways g using (gateway)
            left join cursors u on u.gateway = s.gateway and u.instance = ''
        where s.head > max(s.missed, coalesce(u.received, 0))
            and ($1 is null or s.gateway in (select value from json_each($1)))
            and not exists (
                select 1 from connections c where c.gateway = s.gateway and c.closed_at is null
            )
        "#,
        wanted
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut recorded = Vec::with_capacity(missed.len());
    for row in missed {
        let range = Range { first: Sequence(row.answered + 1), last: Sequence(row.head) };
        let ended = Ended {
            gateway: GatewayKey(row.gateway),
            connection: None,
            range,
            how: How::Failed(Reason::NotConnected, ""),
            started_at: now,
            finished_at: now,
        };
        ledger::write(connection, node, &ended).await?;
        sqlx::query!("update streams set missed = head where gateway = $1", row.gateway)
            .execute(&mut *connection)
            .await?;
        recorded.push(Missed { gateway_id: parsed("gateway id", &row.id)?, range });
    }
    Ok(recorded)
}
