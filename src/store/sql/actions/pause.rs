//! Pauses and resumes the delivery to a gateway.

use super::super::dialect::{Connection, query};
use super::super::gateways::details::the_one;
use super::super::gateways::live::locked;
use super::revise;
use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};
use crate::store::audit::entries;
use crate::store::{Actor, Audited, PauseChange, Result};

pub(super) async fn pause(
    conn: &mut Connection,
    now: Timestamp,
    actor: &Actor,
    id: GatewayId,
    reason: Option<&str>,
    dry_run: bool,
) -> Result<Audited<PauseChange>> {
    let gateway = locked(conn, actor.organisation, id).await?;
    if gateway.paused.is_some() {
        return Ok(unchanged(PauseChange { changed: false, gateway, control: None }));
    }
    if dry_run {
        return Ok(unchanged(PauseChange { changed: true, gateway, control: None }));
    }
    query!(
        r#"
        update gateways set paused_at = $2, paused_by = $3, pause_reason = $4 where gateway = $1
        "#,
        gateway.key.0,
        now as _,
        actor.principal.name,
        reason
    )
    .execute(&mut *conn)
    .await?;
    let control = revise(conn, now, gateway.key).await?;
    let gateway = the_one(conn, gateway.key).await?;
    let entry = entries::gateway_paused(&gateway);
    Ok(Audited::new(PauseChange { changed: true, gateway, control: Some(control) }, [entry]))
}

pub(super) async fn resume(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    dry_run: bool,
) -> Result<Audited<PauseChange>> {
    let before = locked(conn, organisation, id).await?;
    let changed = before.paused.is_some();
    if dry_run || !changed {
        return Ok(unchanged(PauseChange { changed, gateway: before, control: None }));
    }
    query!(
        r#"
        update gateways set paused_at = null, paused_by = null, pause_reason = null
        where gateway = $1
        "#,
        before.key.0
    )
    .execute(&mut *conn)
    .await?;
    let control = revise(conn, now, before.key).await?;
    let gateway = the_one(conn, before.key).await?;
    let entry = entries::gateway_resumed(&before);
    Ok(Audited::new(PauseChange { changed: true, gateway, control: Some(control) }, [entry]))
}

fn unchanged(change: PauseChange) -> Audited<PauseChange> {
    Audited::new(change, [])
}
