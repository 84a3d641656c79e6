//! Resends: an event is appended to the logs of more gateways.

use std::collections::{BTreeMap, BTreeSet};

use super::super::dialect::log::Repeat;
use super::super::dialect::{BulkStatements, Connection, LogStatements, NodeStatements, query};
use super::super::log::append::raise_heads;
use super::super::log::targets;
use super::super::redrive::mark_appended;
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayKey, OrganisationKey, Sequence};
use crate::store::audit::{Audited, entries};
use crate::store::{
    AppendedDelivery, Conflict, DeliveryKey, Refusable, Refusal, Resent, Result, StoreError, Target,
};

/// The result, and the new heads.
type Done = (Refusable<Resent>, Vec<(GatewayKey, Sequence)>);

/// Appends an event to the logs of the gateways that the target selects. A dry run only reports.
pub(super) async fn resend(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &EventId,
    target: &Target,
    force: bool,
    dry_run: bool,
) -> Result<Audited<Done>> {
    if !dry_run {
        conn.lock_event_actions().await?;
    }
    let mut targets = targets::resolve_one(conn, organisation, target).await?;
    let streams: BTreeSet<GatewayKey> = targets.gateways().collect();
    let now = if dry_run { conn.now().await? } else { targets.lock(conn, &streams).await? };
    let event = query!(
        r#"
        select event as "event!: i64", type as "event_type!: String",
            expires_at as "expires_at?: Timestamp", (purged_at is not null) as "is_purged!: bool"
        from events where organisation = $1 and id = $2
        "#,
        organisation.0,
        id as _
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(StoreError::NotFound("event"))?;
    // Each reason for which an event can't be delivered is a conflict of its own.
    if event.is_purged {
        return Err(Conflict::Purged(id.clone()).into());
    }
    if let Some(at) = event.expires_at.filter(|at| *at <= now) {
        return Err(Conflict::EventExpired { event: id.clone(), at }.into());
    }
    let selected = match targets.of(organisation, target) {
        Ok(selected) => selected,
        Err(unknown) => {
            return Ok(Audited::new((Err(Refusal::UnknownGateways(unknown)), Vec::new()), []));
        }
    };
    let known = last_sequences(conn, event.event).await?;
    let (mut resent, mut chosen) =
        (Resent { deliveries: Vec::new(), present: Vec::new() }, Vec::new());
    for (gateway, gateway_id) in selected {
        match known.get(&gateway) {
            Some(sequence) if !force => {
                resent.present.push(AppendedDelivery { gateway_id, sequence: *sequence });
            }
            _ => chosen.push((gateway, gateway_id)),
        }
    }
    if dry_run || chosen.is_empty() {
        resent.deliveries = chosen.into_iter().map(|(_, id)| (id, None)).collect();
        return Ok(Audited::new((Ok(resent), Vec::new()), []));
    }
    let counts: BTreeMap<GatewayKey, i64> =
        chosen.iter().map(|(gateway, _)| (*gateway, 1)).collect();
    let heads = raise_heads(conn, &counts).await?;
    let sequences: BTreeMap<GatewayKey, Sequence> = heads.iter().copied().collect();
    let (mut rows, mut again) = (Vec::with_capacity(chosen.len()), BTreeMap::new());
    for (gateway, gateway_id) in chosen {
        let sequence = sequences.get(&gateway).copied().unwrap_or_default();
        let repeats = known.get(&gateway).copied();
        let appended_at = Some(now);
        rows.push(Repeat { gateway, sequence, event: event.event, repeats, appended_at });
        again.extend(repeats.map(|old| (DeliveryKey { gateway, sequence: old }, sequence)));
        resent.deliveries.push((gateway_id, Some(sequence)));
    }
    conn.insert_repeats(&rows).await?;
    mark_appended(conn, &again, now).await?;
    let entry = entries::event_resent(id, &event.event_type, &resent, force);
    Ok(Audited::new((Ok(resent), heads), [entry]))
}

/// The last sequence of an event in each log, also where it was trimmed.
async fn last_sequences(
    conn: &mut Connection,
    event: i64,
) -> Result<BTreeMap<GatewayKey, Sequence>> {
    let rows = query!(
        r#"
        select gateway as "gateway!: GatewayKey", max(sequence) as "sequence!: Sequence" from (
            select gateway, sequence from outbox where event = $1
            union all
            select gateway, sequence from trimmed where event = $1
        ) as deliveries
        group by gateway
        "#,
        event
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.gateway, row.sequence)).collect())
}
