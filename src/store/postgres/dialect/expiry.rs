//! Expiry: deliveries whose event's time has passed while their gateway is away.

use super::batches::column;
use super::{Connection, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, Reason, Sequence};
use crate::store::postgres::sql::expiry::{DueEvent, Open};
use crate::store::postgres::sql::ledger::LONGEST_RANGE;
use crate::store::{Range, Result};

/// Events that have expired and may have open deliveries, after a place in
/// their order.
pub(in super::super) async fn due_events(
    connection: &mut Connection,
    now: Timestamp,
    after: (Timestamp, i64),
    limit: i64,
) -> Result<Vec<DueEvent>> {
    Ok(query_as!(
        DueEvent,
        r#"
        select event as "event!: i64", expires_at as "expires_at!: Timestamp" from events
        where expires_at is not null and not expiry_settled and expires_at <= $1
            and (expires_at, event) > ($2, $3)
        order by expires_at, event limit $4
        "#,
        now as _,
        after.0 as _,
        after.1,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Of these events, those without an open delivery.
pub(in super::super) async fn settled_events(
    connection: &mut Connection,
    events: &[i64],
) -> Result<Vec<i64>> {
    Ok(query_scalar!(
        r#"
        select due.event as "event!: i64" from unnest($1::bigint[]) as due (event)
        where not exists (
            select 1 from outbox o join gateways g using (gateway)
            where o.event = due.event and g.deleted_at is null
                and o.sequence > coalesce(
                    (select received from cursors u where u.gateway = o.gateway and u.instance = ''),
                    (select max(received) from cursors u where u.gateway = o.gateway), 0)
                and not exists (
                    select 1 from dead_letters d
                    where d.gateway = o.gateway and d.last_sequence >= o.sequence
                        and d.first_sequence between o.sequence - $2 and o.sequence
                )
        )
        "#,
        events as _,
        LONGEST_RANGE
    )
    .fetch_all(connection)
    .await?)
}

/// Open deliveries of these events whose gateways have no live connection.
pub(in super::super) async fn open_and_away(
    connection: &mut Connection,
    events: &[i64],
    limit: i64,
) -> Result<Vec<Open>> {
    Ok(query_as!(
        Open,
        r#"
        select o.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            g.name as "gateway_name!: String", o.sequence as "sequence!: Sequence"
        from outbox o join gateways g using (gateway)
        where o.event = any($1) and g.deleted_at is null
            and o.sequence > coalesce(
                (select received from cursors u where u.gateway = o.gateway and u.instance = ''),
                (select max(received) from cursors u where u.gateway = o.gateway), 0)
            and not exists (
                select 1 from dead_letters d
                where d.gateway = o.gateway and d.last_sequence >= o.sequence
                    and d.first_sequence between o.sequence - $2 and o.sequence
            )
            and not exists (
                select 1 from connections c where c.gateway = o.gateway and c.closed_at is null
            )
        order by o.event, o.gateway, o.sequence limit $3
        "#,
        events as _,
        LONGEST_RANGE,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Takes events out of the index of those that can expire.
pub(in super::super) async fn settle_expiry(
    connection: &mut Connection,
    events: &[i64],
) -> Result<()> {
    query!(
        r#"
        update events set expiry_settled = true
        where event = any($1) and not expiry_settled
        "#,
        events
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Dead letters for ranges that hold none, and what their streams say of them.
pub(in super::super) async fn insert_dead(
    connection: &mut Connection,
    now: Timestamp,
    reason: Reason,
    pieces: &[(GatewayKey, Range)],
) -> Result<()> {
    query!(
        r#"
        insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at)
        select gateway, first, last, $4, $5
        from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as piece (gateway, first, last)
        "#,
        &column(pieces, |it| it.0.0),
        &column(pieces, |it| it.1.first.0),
        &column(pieces, |it| it.1.last.0),
        reason as _,
        now as _
    )
    .execute(&mut *connection)
    .await?;
    query!(
        r#"
        update streams
        set failed_total = failed_total + m.count, dead_total = dead_total + m.count,
            last_failure_reason = case when last_failure_at > $4 then last_failure_reason else $3 end,
            last_failure_at = case when last_failure_at > $4 then last_failure_at else $4 end
        from (
            select gateway, cast(sum(count) as bigint) as count
            from unnest($1::bigint[], $2::bigint[]) as piece (gateway, count) group by gateway
        ) as m
        where streams.gateway = m.gateway
        "#,
        &column(pieces, |it| it.0.0),
        &column(pieces, |it| it.1.last.0 - it.1.first.0 + 1),
        reason as _,
        now as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
