//! The history of one event, and the totals of an organisation.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::super::deliveries::details;
use super::super::dialect::{Connection, query};
use super::super::log::read::attributes;
use super::MAX_RANGE_LENGTH;
use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType, GatewayId, OrganisationKey, Reason};
use crate::store::supersession::BARRIER;
use crate::store::{DeliveryKey, EventHistory, PublishedTarget, Purge, Result, StoreError, Totals};
use crate::trace_context::TraceParent;

pub(crate) async fn event_history(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &EventId,
) -> Result<Option<EventHistory>> {
    let text = id.as_str();
    let row = query!(
        r#"
        select event as "event!: i64", type as "event_type!: EventType", payload as "payload!: String",
            correlation_id as "correlation_id!: CorrelationId", user_id as "user_id?: String",
            occurred_at as "occurred_at!: Timestamp", appended_at as "appended_at!: Timestamp",
            expires_at as "expires_at?: Timestamp",
            traceparent as "traceparent?: TraceParent", attributes as "attributes?: String",
            target as "target?: String",
            matched as "matched?: i64", purged_at as "purged_at?: Timestamp",
            purged_by as "purged_by?: String", purge_reason as "purge_reason?: String"
        from events where organisation = $1 and id = $2
        "#,
        organisation.0,
        text
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let rows = query!(
        r#"
        select d.gateway as "gateway!: i64", d.sequence as "sequence!: i64",
            g.id as "gateway_id!: GatewayId", d.appended_at is null as "is_published!: bool",
            d.collapse_key as "collapse_key?: String"
        from (
            select gateway, sequence, appended_at, collapse_key from outbox where event = $1
            union all
            select gateway, sequence, appended_at, null from trimmed where event = $1
        ) as d join gateways g on g.gateway = d.gateway
        where g.organisation = $2
        order by g.name, d.sequence
        "#,
        row.event,
        organisation.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let keys: Vec<DeliveryKey> =
        rows.iter().map(|row| DeliveryKey::new(row.gateway, row.sequence)).collect();
    // Not those that it was resent to.
    let gateways: BTreeSet<GatewayId> =
        rows.iter().filter(|row| row.is_published).map(|row| row.gateway_id).collect();
    let collapse_key = rows.into_iter().find_map(|row| row.collapse_key);
    let event = Event {
        id: id.clone(),
        event_type: row.event_type,
        payload: RawValue::from_string(row.payload)
            .map_err(|error| StoreError::Corrupt(format!("the payload of event {id}: {error}")))?,
        correlation_id: row.correlation_id,
        user_id: row.user_id,
        occurred_at: row.occurred_at,
        expires_at: row.expires_at,
        traceparent: row.traceparent,
        attributes: attributes(row.attributes.as_deref()).map_err(|error| {
            StoreError::Corrupt(format!("the attributes of event {id}: {error}"))
        })?,
    };
    let deliveries = details::deliveries(conn, &keys).await?;
    let matched = row.matched.unwrap_or(i64::try_from(gateways.len()).unwrap_or(i64::MAX));
    let target = row
        .target
        .and_then(|stored| PublishedTarget::read(&stored, gateways.into_iter().collect()));
    Ok(Some(EventHistory {
        event: Arc::new(event),
        appended_at: row.appended_at,
        target,
        matched,
        collapse_key: collapse_key.filter(|key| key != BARRIER),
        deliveries,
        purged: Purge::stored(row.purged_at, row.purged_by, row.purge_reason),
    }))
}

/// Confirmed and failed deliveries of deleted gateways are included; pending ones and dead letters
/// are not.
pub(crate) async fn totals(conn: &mut Connection, organisation: OrganisationKey) -> Result<Totals> {
    let streams = query!(
        r#"
        with cursor as materialized (
            select g.gateway, g.deleted_at, s.head, s.floor, s.confirmed_total, s.failed_total, s.dead_total,
                coalesce((select received from cursors c where c.gateway = g.gateway and c.instance = ''),
                         (select max(received) from cursors c where c.gateway = g.gateway), 0) as received
            from gateways g join streams s using (gateway)
            where g.organisation = $1
        ),
        positions as materialized (
            select gateway, deleted_at, head, confirmed_total, failed_total, dead_total,
                case when floor > received then floor else received end as position
            from cursor
        ),
        letters as materialized (
            select sum(case
                    when d.last_sequence <= p.position then 0
                    when d.first_sequence > p.position then d.last_sequence - d.first_sequence + 1
                    else d.last_sequence - p.position
                end) as ahead
            from positions p join dead_letters d
                on d.gateway = p.gateway and d.first_sequence > p.position - $2
            where p.deleted_at is null
        )
        select cast(coalesce(sum(confirmed_total), 0) as bigint) as "confirmed!: i64",
            cast(coalesce(sum(failed_total), 0) as bigint) as "failed!: i64",
            cast(coalesce(sum(case when deleted_at is null then dead_total else 0 end), 0) as bigint) as "dead!: i64",
            cast(
                coalesce(sum(case when deleted_at is null and head > position then head - position else 0 end), 0)
                - coalesce((select ahead from letters), 0) as bigint
            ) as "pending!: i64"
        from positions
        "#,
        organisation.0,
        MAX_RANGE_LENGTH
    )
    .fetch_one(&mut *conn)
    .await?;
    let last = query!(
        r#"
        select s.last_failure_at as "at!: Timestamp", s.last_failure_reason as "reason!: Reason"
        from streams s join gateways g using (gateway)
        where g.organisation = $1 and s.last_failure_at is not null and s.last_failure_reason is not null
        order by s.last_failure_at desc limit 1
        "#,
        organisation.0
    )
    .fetch_optional(conn)
    .await?;
    Ok(Totals {
        confirmed: streams.confirmed,
        failed_attempts: streams.failed,
        dead_letters: streams.dead,
        pending: streams.pending,
        last_failure: last.map(|row| (row.at, row.reason)),
    })
}
