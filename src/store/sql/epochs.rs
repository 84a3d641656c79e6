//! The epochs of all logs: how far the logs have come under them, and new ones after a restore.

use super::audit;
use super::credentials::organisation;
use super::dialect::{Connection, query, query_as, query_scalar};
use crate::event::{Epoch, GatewayKey};
use crate::store::audit::entries;
use crate::store::{HighWater, Principal, RenewalReason, Result};

/// How far the logs have come.
pub(crate) async fn high_water(conn: &mut Connection) -> Result<HighWater> {
    Ok(query_as!(
        HighWater,
        r#"
        select (select epoch from streams order by gateway limit 1) as "epoch?: Epoch",
            cast(coalesce(sum(head), 0) as bigint) as "sequences!: i64"
        from streams
        "#
    )
    .fetch_one(conn)
    .await?)
}

/// Gives every log a new epoch, and records that in the audit log of the organisation `default`.
/// Returns the number of logs. No node may be running: a connection keeps the epoch with which it
/// was opened.
pub(crate) async fn renew(
    conn: &mut Connection,
    principal: Principal,
    reason: RenewalReason,
) -> Result<u64> {
    let before = high_water(conn).await?;
    let gateways =
        query_scalar!(r#"select gateway as "gateway!: GatewayKey" from streams order by gateway"#)
            .fetch_all(&mut *conn)
            .await?;
    for gateway in &gateways {
        // What a gateway was sent after the copy was made is not known, so nothing is superseded.
        query!(
            "update streams set epoch = $2, attended = head where gateway = $1",
            gateway.0,
            Epoch::new() as _
        )
        .execute(&mut *conn)
        .await?;
    }
    let logs = u64::try_from(gateways.len()).unwrap_or(u64::MAX);
    let organisation = organisation(conn, "default").await?;
    let entry = entries::epochs_renewed(reason, logs, before.sequences);
    audit::record(conn, &principal.in_organisation(organisation), vec![entry]).await?;
    Ok(logs)
}
