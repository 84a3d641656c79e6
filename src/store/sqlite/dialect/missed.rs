//! The sweep: what nobody was there to receive.

use super::batches::json;
use super::{Connection, query, query_as};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::sqlite::sql::ledger::LONGEST_RANGE;
use crate::store::sqlite::sql::sweep::{Missing, Unserved};
use crate::store::{LoggedEvent, Range, Result};

/// Streams with rows that nobody was there to receive; `None` looks at all.
pub(in super::super) async fn unserved(
    connection: &mut Connection,
    gateways: Option<&[GatewayKey]>,
) -> Result<Vec<Unserved>> {
    let wanted =
        gateways.map(|keys| json(&keys.iter().map(|key| key.0).collect::<Vec<_>>())).transpose()?;
    Ok(query_as!(
        Unserved,
        r#"
        select s.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            g.name as "gateway_name!: String", s.head as "head!: Sequence",
            max(s.missed, coalesce(u.received, 0)) as "answered!: Sequence",
            (
                select c.closed_at from connections c
                where c.gateway = s.gateway and c.closed_at is not null
                order by c.closed_at desc limit 1
            ) as "left_at?: Timestamp",
            exists (
                select 1 from dead_letters d where d.gateway = s.gateway
                    and d.first_sequence > max(s.missed, coalesce(u.received, 0)) - $2
                    and d.last_sequence > max(s.missed, coalesce(u.received, 0))
            ) as "has_dead!: bool"
        from streams s join gateways g using (gateway)
            left join cursors u on u.gateway = s.gateway and u.instance = ''
        where s.head > max(s.missed, coalesce(u.received, 0))
            and ($1 is null or s.gateway in (select value from json_each($1)))
            and not exists (
                select 1 from connections c where c.gateway = s.gateway and c.closed_at is null
            )
        "#,
        wanted,
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
    let keys = json(&deliveries.iter().map(|(key, nth)| (key.0, nth.0)).collect::<Vec<_>>())?;
    let rows = query!(
        r#"
        select o.gateway as "gateway!: GatewayKey", o.sequence as "sequence!: Sequence",
            e.id as "id!: EventId", e.type as "event_type!: EventType"
        from json_each($1) k
        cross join outbox o on o.gateway = k.value ->> 0 and o.sequence = k.value ->> 1
        cross join events e on e.event = o.event
        order by o.gateway, o.sequence
        "#,
        keys
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
    let pieces = pieces.iter().map(|(gateway, range)| (gateway.0, range.first, range.last));
    let pieces = json(&pieces.collect::<Vec<_>>())?;
    query!(
        r#"
        insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
            node, started_at, finished_at)
        select value ->> 0, value ->> 1, value ->> 2, 'failed', $2, '', $3, $4, $4
        from jsonb_each($1) where true order by key
        "#,
        pieces,
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
    let missed =
        json(&missed.iter().map(|it| (it.gateway.0, it.head, it.count)).collect::<Vec<_>>())?;
    query!(
        r#"
        update streams
        set missed = m.value ->> 1, failed_total = failed_total + (m.value ->> 2),
            last_failure_reason = case when last_failure_at > $2 or (m.value ->> 2) = 0
                then last_failure_reason else $3 end,
            last_failure_at = case when last_failure_at > $2 or (m.value ->> 2) = 0
                then last_failure_at else $2 end
        from jsonb_each($1) as m where streams.gateway = m.value ->> 0
        "#,
        missed,
        now as _,
        Reason::NotConnected as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
