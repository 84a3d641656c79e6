//! Reads and small removals that name many rows, or that stop half-way.

use futures_util::stream::BoxStream;

use super::{Connection, keys, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, Epoch, EventId, EventType, GatewayId, GatewayKey, NodeId,
    OrganisationKey, Reason, Sequence,
};
use crate::store::Result;
use crate::store::deployments::CANDIDATES;
use crate::store::limits::LONGEST_RANGE;
use crate::store::postgres::sql::connections::list::Row as ConnectionRow;
use crate::store::postgres::sql::gateways::details::Row as GatewayRow;
use crate::store::postgres::sql::retention::SpentEvents;
use crate::store::postgres::sql::stream::Row as OutboxRow;
use crate::trace_context::TraceParent;

/// A log and its rows. The server sends all that it is asked for, so that it is told
/// where to stop: with the row that goes beyond the bytes. There is no gap above the
/// floor, so that a page's numbers are known, and events are looked up one by one,
/// which the limit makes sure of: a plan that was made while nobody knew how many
/// rows there are would read all of them for a page.
pub(in super::super) fn outbox_rows(
    connection: &mut Connection,
    gateway: GatewayKey,
    after: Sequence,
    limit: i64,
    max_bytes: usize,
) -> BoxStream<'_, sqlx::Result<OutboxRow>> {
    let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
    // Far more than anybody asks for, and not too much for a sum.
    let limit = limit.min(i32::MAX.into());
    query_as!(
        OutboxRow,
        r#"
        select s.head as "head!: Sequence", s.floor as "floor!: Sequence",
            sequence as "sequence?: Sequence", id as "id?: EventId",
            type as "event_type?: EventType", payload as "payload?: String",
            correlation_id as "correlation_id?: CorrelationId", user_id as "user_id?: String",
            occurred_at as "occurred_at?: Timestamp", expires_at as "expires_at?: Timestamp",
            traceparent as "traceparent?: TraceParent"
        from streams s left join lateral (
            select o.sequence, e.id, e.type, e.payload, e.correlation_id, e.user_id,
                e.occurred_at, e.expires_at, e.traceparent,
                sum(octet_length(e.payload)) over (order by o.sequence)
                    - octet_length(e.payload) as before
            from outbox o
            cross join lateral (select * from events where event = o.event limit 1) as e
            where o.gateway = s.gateway and o.sequence > greatest($2, s.floor)
                and o.sequence <= least(greatest($2, s.floor), s.head) + $3::bigint
        ) as page on before < $4::bigint or before = 0
        where s.gateway = $1
        order by sequence
        "#,
        gateway.0,
        after.0,
        limit,
        max_bytes
    )
    .fetch(connection)
}

/// Everything about these gateways, by name.
pub(in super::super) async fn gateway_details(
    connection: &mut Connection,
    gateways: &[GatewayKey],
) -> Result<Vec<GatewayRow>> {
    Ok(query_as!(
        GatewayRow,
        r#"
        with chosen as materialized (
            select g.*, s.epoch, s.head, s.floor, s.failing_since, s.failing_reason, s.failing_count,
                s.left_at, s.left_reason, s.last_failure_at, s.last_failure_reason,
                coalesce((select received from cursors c where c.gateway = g.gateway and c.instance = ''),
                         (select max(received) from cursors c where c.gateway = g.gateway), 0) as confirmed
            from gateways g join streams s using (gateway)
            where g.gateway = any($1)
        ),
        placed as materialized (
            select *, case when floor > confirmed then floor else confirmed end as position from chosen
        )
        select gateway as "gateway!: GatewayKey", id as "id!: GatewayId", name as "name!: String",
            labels as "labels!: String", replicas as "replicas!: i64",
            created_at as "created_at!: Timestamp", disabled_at as "disabled_at?: Timestamp", manifest as "manifest?: String",
            manifest_at as "manifest_at?: Timestamp", epoch as "epoch!: Epoch",
            head as "head!: Sequence", floor as "floor!: Sequence",
            confirmed as "confirmed!: Sequence",
            cast(head - position - coalesce((
                select sum(case when d.first_sequence > p.position then d.last_sequence - d.first_sequence + 1
                    else d.last_sequence - p.position end)
                from dead_letters d
                where d.gateway = p.gateway and d.first_sequence > p.position - 1000
                    and d.last_sequence > p.position
            ), 0) as bigint) as "pending!: i64",
            (
                select coalesce(
                    (
                        select case when d.redriven_first + d.last_sequence - d.first_sequence >= o.sequence
                            then d.redriven_at end
                        from dead_letters d
                        where d.gateway = o.gateway and d.redriven_first <= o.sequence
                        order by d.redriven_first desc limit 1
                    ),
                    e.appended_at
                )
                from outbox o join events e using (event)
                where o.gateway = p.gateway and o.sequence = (
                    -- What follows the position or a dead letter and is none.
                    select min(next) from (
                        select p.position + 1 as next
                        union all
                        select d.last_sequence + 1 from dead_letters d
                        where d.gateway = p.gateway and d.first_sequence > p.position - 1000
                            and d.last_sequence > p.position
                    ) as ends
                    where not exists (
                        select 1 from dead_letters d
                        where d.gateway = p.gateway and d.last_sequence >= ends.next
                            and d.first_sequence <= ends.next and d.first_sequence > ends.next - 1000
                    )
                )
            ) as "oldest_pending_at?: Timestamp",
            (select count(*) from connections n
             where n.gateway = p.gateway and n.closed_at is null) as "live!: i64",
            (select min(n.connected_at) from connections n
             where n.gateway = p.gateway and n.closed_at is null) as "connected_since?: Timestamp",
            left_at as "left_at?: Timestamp", left_reason as "left_reason?: Reason",
            failing_since as "failing_since?: Timestamp", failing_reason as "failing_reason?: Reason",
            failing_count as "failing_count!: i64",
            last_failure_at as "last_failure_at?: Timestamp",
            last_failure_reason as "last_failure_reason?: Reason",
            (select max(c.updated_at) from cursors c
             where c.gateway = p.gateway and c.instance = '') as "last_receipt_at?: Timestamp",
            last_refusal_at as "refused_at?: Timestamp",
            last_refusal_code as "refused_code?: String",
            last_refusal_address as "refused_address?: String"
        from placed p order by name
        "#,
        &keys(gateways)
    )
    .fetch_all(connection)
    .await?)
}

/// These connections of an organisation as they are shown, newest first.
pub(in super::super) async fn connection_details(
    connection: &mut Connection,
    organisation: OrganisationKey,
    ids: &[ConnectionId],
) -> Result<Vec<ConnectionRow>> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    Ok(query_as!(
        ConnectionRow,
        r#"
        select c.id as "id!: ConnectionId", g.id as "gateway_id!: GatewayId", g.name as "name!: String",
            c.transport as "transport!: String", c.node as "node!: NodeId",
            c.remote_address as "remote_address!: String", c.connected_at as "connected_at!: Timestamp",
            c.last_heartbeat_at as "last_heartbeat_at!: Timestamp",
            c.closed_at as "closed_at?: Timestamp", c.close_reason as "close_reason?: Reason",
            coalesce(
                c.confirmed,
                (
                    select received from cursors u where u.gateway = c.gateway
                        and u.instance = coalesce(nullif(c.instance, ''), c.id::text)
                ),
                (select received from cursors u where u.gateway = c.gateway and u.instance = ''),
                0
            ) as "confirmed!: Sequence"
        from connections c join gateways g on g.gateway = c.gateway
        where c.id = any($1::text[]::uuid[]) and g.organisation = $2
        order by c.connected_at desc, c.id desc
        "#,
        &ids,
        organisation.0
    )
    .fetch_all(connection)
    .await?)
}

/// Of these connections, those that are not live on record.
pub(in super::super) async fn not_on_record(
    connection: &mut Connection,
    ids: &[ConnectionId],
) -> Result<Vec<ConnectionId>> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    Ok(query_scalar!(
        r#"
        select asked.id as "id!: ConnectionId" from unnest($1::uuid[]) as asked (id)
        where not exists (
            select 1 from connections c where c.id = asked.id and c.closed_at is null
        )
        "#,
        &ids
    )
    .fetch_all(connection)
    .await?)
}

/// Positions that were left behind and that nobody took over in time. One that
/// is being taken over now is passed over.
pub(in super::super) async fn forget_positions(
    connection: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let done = query!(
        r#"
        delete from cursors where (gateway, instance) in (
            select gateway, instance from cursors where left_at < $1
            order by left_at limit $2 for update skip locked
        )
        "#,
        before as _,
        batch
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Removes these events, but for those that an outbox row names, that are too
/// young or that are kept for a dead letter; and what is kept of their deliveries.
/// One that is being appended again now is passed over.
pub(in super::super) async fn forget_trimmed_events(
    connection: &mut Connection,
    events: &[i64],
    spent: SpentEvents,
) -> Result<u64> {
    let done = query!(
        r#"
        with gone as materialized (
            select e.event from events e
            where e.event = any($1) and e.appended_at < $2 and case
                when exists (select 1 from outbox o where o.event = e.event) then false
                else not exists (
                    select 1 from trimmed t
                    join streams s on s.gateway = t.gateway join gateways g on g.gateway = t.gateway
                    where t.event = e.event and g.deleted_at is null and (
                        select d.last_sequence >= t.sequence and d.last_sequence > s.head - $3
                            and d.redriven_at is null and d.reason <> 'retention'
                        from dead_letters d
                        where d.gateway = t.gateway and d.first_sequence <= t.sequence
                        order by d.first_sequence desc limit 1
                    )
                )
            end
            for update of e skip locked
        ),
        deliveries as (delete from trimmed where event in (select event from gone))
        delete from events where event in (select event from gone)
        "#,
        events,
        spent.before as _,
        spent.most_events
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The newest sent events with these ids, and their `performedAt`. What expired or
/// was trimmed before it was sent is none of them.
pub(in super::super) async fn deployments(
    connection: &mut Connection,
    gateway: GatewayKey,
    deployment_id: &str,
    artifact_id: &str,
    suffix: &str,
    sent: Sequence,
) -> Result<Vec<(Sequence, Option<String>)>> {
    let rows = query!(
        r#"
        select o.sequence as "sequence!: Sequence",
            e.payload::json ->> 'performedAt' as "performed_at?: String"
        from events e join outbox o on o.event = e.event and o.gateway = $1
        where substr(e.deployment_id, 1, 512) = substr($2, 1, 512)
            and e.deployment_id = $2 and e.artifact_id = $3 and e.type like '%.' || $4
            and o.sequence <= $5
            and not exists (
                select 1 from dead_letters d
                where d.gateway = $1 and d.reason in ('expired', 'retention')
                    and d.first_sequence between o.sequence - $6 and o.sequence
                    and d.last_sequence >= o.sequence
                    and not exists (
                        select 1 from attempts a
                        where a.gateway = $1 and a.connection is not null
                            and a.first_sequence between o.sequence - $6 and o.sequence
                            and a.last_sequence >= o.sequence
                            and (a.reason is null or a.reason not in ('expired', 'retention'))
                    )
            )
        order by o.sequence desc limit $7
        "#,
        gateway.0,
        deployment_id,
        artifact_id,
        suffix,
        sent.0,
        LONGEST_RANGE,
        CANDIDATES
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.sequence, row.performed_at)).collect())
}
