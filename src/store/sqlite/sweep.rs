//! Events nobody was there to receive: a failed attempt each, and delivered
//! all the same when the gateway comes back.

use sqlx::sqlite::SqliteConnection;

use super::record::Ledger;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason, Sequence};
use crate::store::{Range, Result};

/// See [`crate::store::Store::sweep_not_connected`].
pub(super) async fn sweep_not_connected(
    connection: &mut SqliteConnection,
    now: Timestamp,
    node: NodeId,
    gateways: Option<Vec<GatewayKey>>,
) -> Result<u64> {
    let named = gateways.map(|gateways| {
        let keys: Vec<i64> = gateways.iter().map(|gateway| gateway.0).collect();
        serde_json::Value::from(keys).to_string()
    });
    let missed = sqlx::query!(
        r#"select s.gateway, s.head,
                  max(s.missed, s.floor, coalesce((select received from cursors c
                       where c.gateway = s.gateway and c.instance = ''), 0)) as "answered!: i64"
           from streams s join gateways g on g.gateway = s.gateway
           where ($1 is null or s.gateway in (select value from json_each($1)))
             and s.head > s.missed and g.deleted_at is null
             and not exists (select 1 from connections k
                             where k.gateway = s.gateway and k.closed_at is null)"#,
        named
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut ledger = Ledger { connection, now, node: node.to_string() };
    let mut deliveries = 0;
    for row in missed {
        let gateway = GatewayKey(row.gateway);
        if row.head > row.answered {
            let range = Range { first: Sequence(row.answered + 1), last: Sequence(row.head) };
            ledger.fail(gateway, range, Reason::NotConnected, None, None, now, now).await?;
            deliveries += u64::try_from(row.head - row.answered).unwrap_or(0);
        }
        sqlx::query!("update streams set missed = head where gateway = $1", row.gateway)
            .execute(&mut *ledger.connection)
            .await?;
    }
    Ok(deliveries)
}
