//! The sweep: what nobody was there to receive. The streams are locked.

use super::batches::column;
use super::{Connection, keys, query, query_as};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::postgres::sql::ledger::LONGEST_RANGE;
use crate::store::postgres::sql::sweep::{Missing, Unserved};
use crate::store::{LoggedEvent, Range, Result};

/// Streams with rows that nobody was there to receive; `None` looks at all.
pub(in super::super) async fn unserved(
    connection: &mut Connection,
    gateways: Option<&[GatewayKey]>,
) -> Result<Vec<Unserved>> {
    let wanted = gateways.map(keys);
    Ok(query_as!(
        Unserved,
        r#"
        select s.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            g.name as "gateway_name!: String", s.head as "head!: Sequence",
            greatest(s.missed, coalesce(u.received, 0)) as "answered!: Sequence",
            (
                select c.closed_at from connections c
                where c.gateway = s.gateway and c.closed_at is not null
                order by c.closed_at desc limit 1
            ) as "left_at?: Timestamp",
            exists (
                select 1 from dead_letters d where d.gateway = s.gateway
                    and d.first_sequence > greatest(s.missed, coalesce(u.received, 0)) - $2
                    and d.last_sequence > greatest(s.missed, coalesce(u.received, 0))
            ) as "has_dead!: bool"
        from streams s join gateways g using (gateway)
            left join cursors u on u.gateway = s.gateway and u.instance = ''
        where s.head > greatest(s.missed, coalesce(u.received, 0))
            and (s.gateway = any($1) or $1 is null)
            and not exists (
                select 1 from connections c where c.gateway = s.gateway and c.closed_at is null
            )
        "#,
        wanted as _,
        LONGEST_RANGE
    )
    .fetch_all(connection)
    .await?)
}

/// What the log says of the events of these deliveries, in their order.
pub(in super::super) async fn logged_events(
    connection: &mut Connection,
    deliveries: &[(GatewayKey, Sequence)],
) -> Result<Vec<(GatewayKey, LoggedEvent)>> {
    let rows = query!(
        r#"
        select o.gateway as "gateway!: GatewayKey", o.sequence as "sequence!: Sequence",
            e.id as "id!: EventId", e.type as "event_type!: EventType"
        from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
        cross join lateral (
            select * from outbox where gateway = k.gateway and sequence = k.sequence limit 1
        ) as o
        cross join lateral (select * from events where event = o.event limit 1) as e
        order by o.gateway, o.sequence
        "#,
        &column(deliveries, |it| it.0.0),
        &column(deliveries, |it| it.1.0)
    )
    .fetch_all(connection)
    .await?;
    let event = |sequence, id, event_type| LoggedEvent { sequence, id, event_type };
    let rows = rows.into_iter();
    Ok(rows.map(|row| (row.gateway, event(row.sequence, row.id, row.event_type))).collect())
}

/// Failed attempts that no connection made.
pub(in super::super) async fn insert_failed(
    connection: &mut Connection,
    now: Timestamp,
    node: NodeId,
    reason: Reason,
    pieces: &[(GatewayKey, Range)],
) -> Result<()> {
    query!(
        r#"
        insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
            node, started_at, finished_at)
        select gateway, first, last, 'failed', $4, '', $5, $6, $6
        from unnest($1::bigint[], $2::bigint[], $3::bigint[])
            with ordinality as piece (gateway, first, last, nth)
        order by nth
        "#,
        &column(pieces, |it| it.0.0),
        &column(pieces, |it| it.1.first.0),
        &column(pieces, |it| it.1.last.0),
        reason as _,
        node as _,
        now as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What the streams say of events that their gateways missed.
pub(in super::super) async fn count_missed(
    connection: &mut Connection,
    now: Timestamp,
    missed: &[Missing],
) -> Result<()> {
    query!(
        r#"
        update streams
        set missed = m.head, failed_total = failed_total + m.count,
            last_failure_reason = case when last_failure_at > $4 or m.count = 0
                then last_failure_reason else $5 end,
            last_failure_at = case when last_failure_at > $4 or m.count = 0
                then last_failure_at else $4 end
        from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as m (gateway, head, count)
        where streams.gateway = m.gateway
        "#,
        &column(missed, |it| it.gateway.0),
        &column(missed, |it| it.head.0),
        &column(missed, |it| it.count),
        now as _,
        Reason::NotConnected as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
