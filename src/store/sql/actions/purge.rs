//! Purges an event's payload. The event, its deliveries and its digest stay.

use std::collections::BTreeSet;

use super::super::dialect::{
    BulkStatements, Connection, LedgerStatements, NodeStatements, query, query_scalar,
};
use super::super::ledger::logged::{Failed, named};
use crate::clock::Timestamp;
use crate::event::{
    EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
};
use crate::store::audit::entries;
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{Actor, Audited, Purge, Purged, Range, Result, StoreError};
use crate::wake::Control;

/// An event, and its purge if it was purged.
struct Found {
    event: i64,
    event_type: EventType,
    purge: Option<Purge>,
}

pub(super) async fn purge(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    actor: &Actor,
    id: &EventId,
    reason: &str,
    dry_run: bool,
) -> Result<Audited<Purged>> {
    if !dry_run {
        conn.lock_event_actions().await?;
    }
    let found = find(conn, actor.organisation, id).await?;
    let gateways = gateways(conn, found.event).await?;
    conn.lock_streams(&gateways).await?;
    // Another node may have purged it before the streams were locked.
    let found = find(conn, actor.organisation, id).await?;
    if let Some(purge) = found.purge {
        return Ok(unchanged(purge));
    }
    let by = actor.principal.name.clone();
    let purge = Purge { at: now, by, reason: reason.to_owned() };
    let pending = pending(conn, found.event).await?;
    if dry_run {
        let given_up = named(conn, pending).await?;
        let purged = Purged { changed: true, purge, given_up, controls: Vec::new() };
        return Ok(Audited::new(purged, []));
    }
    let done = query!(
        r#"
        update events
        set payload = '{}', attributes = null, artifact_id = null, deployment_id = null,
            purged_at = $2, purged_by = $3, purge_reason = $4
        where event = $1 and purged_at is null
        "#,
        found.event,
        now as _,
        purge.by,
        purge.reason
    )
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        // An event without deliveries has no stream to lock.
        let purge = find(conn, actor.organisation, id).await?.purge;
        return purge.map(unchanged).ok_or(StoreError::NotFound("event"));
    }
    forget_rejected(conn, actor.organisation, id).await?;
    let pieces: Vec<(GatewayKey, Range)> =
        pending.iter().map(|failed| (failed.gateway, failed.range)).collect();
    if !pieces.is_empty() {
        conn.insert_failed(now, node, Reason::Purged, &pieces).await?;
        conn.insert_dead_letters(now, Reason::Purged, &pieces).await?;
    }
    let controls = revise_all(conn, now, found.event).await?;
    let given_up = named(conn, pending).await?;
    let entry = entries::event_purged(id, &found.event_type, reason, pieces.len());
    Ok(Audited::new(Purged { changed: true, purge, given_up, controls }, [entry]))
}

fn unchanged(purge: Purge) -> Audited<Purged> {
    let purged = Purged { changed: false, purge, given_up: Vec::new(), controls: Vec::new() };
    Audited::new(purged, [])
}

async fn find(conn: &mut Connection, organisation: OrganisationKey, id: &EventId) -> Result<Found> {
    let text = id.as_str();
    let row = query!(
        r#"
        select event as "event!: i64", type as "event_type!: EventType",
            purged_at as "purged_at?: Timestamp", purged_by as "purged_by?: String",
            purge_reason as "purge_reason?: String"
        from events where organisation = $1 and id = $2
        "#,
        organisation.0,
        text
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("event"))?;
    let purge = Purge::stored(row.purged_at, row.purged_by, row.purge_reason);
    Ok(Found { event: row.event, event_type: row.event_type, purge })
}

/// The gateways that have or had the event in their logs.
async fn gateways(conn: &mut Connection, event: i64) -> Result<BTreeSet<GatewayKey>> {
    let keys = query_scalar!(
        r#"
        select gateway as "gateway!: GatewayKey" from outbox where event = $1
        union
        select gateway from trimmed where event = $1
        "#,
        event
    )
    .fetch_all(conn)
    .await?;
    Ok(keys.into_iter().collect())
}

/// The event's pending deliveries.
async fn pending(conn: &mut Connection, event: i64) -> Result<Vec<Failed>> {
    let rows = query!(
        r#"
        select o.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            g.name as "gateway_name!: String", o.sequence as "sequence!: Sequence"
        from outbox o join gateways g using (gateway)
        where o.event = $1 and g.deleted_at is null and o.withheld is distinct from 'superseded'
            and o.sequence > coalesce(
                (select received from cursors u where u.gateway = o.gateway and u.instance = ''),
                (select max(received) from cursors u where u.gateway = o.gateway), 0)
            and not exists (
                select 1 from dead_letters d
                where d.gateway = o.gateway and d.last_sequence >= o.sequence
                    and d.first_sequence between o.sequence - $2 and o.sequence
            )
        order by o.gateway, o.sequence
        "#,
        event,
        MAX_RANGE_LENGTH
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| Failed {
        gateway: row.gateway,
        gateway_id: row.gateway_id,
        gateway_name: row.gateway_name,
        range: Range { first: row.sequence, last: row.sequence },
    });
    Ok(rows.collect())
}

/// Removes the payload from rejected rows with the event's id, and what the reason quotes of it: a row
/// that was put back into the inbox is kept with its payload.
async fn forget_rejected(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &EventId,
) -> Result<()> {
    let text = id.as_str();
    query!(
        r#"
        update inbox_rejected set payload = '{}', version = version + 1,
            detail = case when detail like 'payload%' then $3 else detail end
        where event_id = $2
            and organisation = (select name from organisations where organisation = $1)
        "#,
        organisation.0,
        text,
        Purge::DETAIL
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Raises the revisions of all logs that contain the event: a connection that is behind the
/// gateway's position may hold the payload in memory, too.
async fn revise_all(
    conn: &mut Connection,
    now: Timestamp,
    event: i64,
) -> Result<Vec<(GatewayKey, Control)>> {
    let rows = query!(
        r#"
        update streams set revision = revision + 1, revised_at = $2
        where gateway in (select gateway from outbox where event = $1)
        returning gateway as "gateway!: GatewayKey", revision as "revision!: i64", (
            select (g.paused_at is not null) from gateways g where g.gateway = streams.gateway
        ) as "is_paused!: bool"
        "#,
        event,
        now as _
    )
    .fetch_all(conn)
    .await?;
    let control = |revision, is_paused| Control { revision, is_paused };
    let mut controls: Vec<_> =
        rows.into_iter().map(|it| (it.gateway, control(it.revision, it.is_paused))).collect();
    controls.sort_unstable_by_key(|(gateway, _)| *gateway);
    Ok(controls)
}
