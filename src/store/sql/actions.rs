//! Corrective actions on one gateway or one event. Each locks the streams that it changes before it
//! reads what it decides by.

use async_trait::async_trait;

use super::Backend;
use super::access::Access as _;
use super::audit::audited;
use super::dialect::{Connection, query};
use super::instances::resync;
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, GatewayKey, Sequence};
use crate::store::{
    Actions, Actor, PauseChange, Purged, Result, ResyncChange, ResyncRequest, Skipped,
    StreamChanges, TimedKey,
};
use crate::wake::Control;

mod pause;
mod purge;
mod skip;

#[async_trait]
impl Actions for Backend {
    async fn pause_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        reason: Option<&str>,
        dry_run: bool,
    ) -> Result<PauseChange> {
        let (wake, by, reason) = (self.wake.clone(), actor.clone(), reason.map(str::to_owned));
        self.audited_tx_then(
            actor,
            move |conn, now| {
                Box::pin(async move {
                    pause::pause(conn, now, &by, id, reason.as_deref(), dry_run).await
                })
            },
            move |done: &PauseChange| {
                if let Some(control) = done.control {
                    wake.changed(done.gateway.key, control);
                }
            },
        )
        .await
    }

    async fn resume_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        dry_run: bool,
    ) -> Result<PauseChange> {
        let (wake, organisation) = (self.wake.clone(), actor.organisation);
        self.audited_tx_then(
            actor,
            move |conn, now| Box::pin(pause::resume(conn, now, organisation, id, dry_run)),
            move |done: &PauseChange| {
                if let Some(control) = done.control {
                    wake.changed(done.gateway.key, control);
                    // While it was paused, nothing was recorded as `not_connected`.
                    wake.request_sweep(done.gateway.key);
                }
            },
        )
        .await
    }

    async fn skip_delivery(
        &self,
        actor: &Actor,
        id: GatewayId,
        sequence: Sequence,
        reason: &str,
        dry_run: bool,
    ) -> Result<Skipped> {
        let (wake, node) = (self.wake.clone(), self.node);
        let (by, reason) = (actor.clone(), reason.to_owned());
        self.audited_tx_then(
            actor,
            move |conn, now| {
                Box::pin(async move {
                    skip::skip(conn, now, node, &by, (id, sequence), &reason, dry_run).await
                })
            },
            move |done: &Skipped| {
                if let Some(control) = done.control {
                    wake.changed(done.key, control);
                }
            },
        )
        .await
    }

    async fn request_resync(
        &self,
        actor: &Actor,
        id: GatewayId,
        request: &ResyncRequest,
        dry_run: bool,
    ) -> Result<ResyncChange> {
        let (by, request) = (actor.clone(), request.clone());
        audited!(self, actor, |conn, now| resync::request(conn, now, &by, id, &request, dry_run))
    }

    async fn purge_event(
        &self,
        actor: &Actor,
        id: &EventId,
        reason: &str,
        dry_run: bool,
    ) -> Result<Purged> {
        let (wake, node) = (self.wake.clone(), self.node);
        let (by, id, reason) = (actor.clone(), id.clone(), reason.to_owned());
        let purged = self
            .audited_tx_then(
                actor,
                move |conn, now| {
                    Box::pin(async move {
                        purge::purge(conn, now, node, &by, &id, &reason, dry_run).await
                    })
                },
                move |done: &Purged| {
                    for (gateway, control) in &done.controls {
                        wake.changed(*gateway, *control);
                    }
                },
            )
            .await?;
        if purged.changed && !dry_run {
            self.erase_remains();
        }
        Ok(purged)
    }

    async fn stream_changes(&self, after: TimedKey, limit: usize) -> Result<StreamChanges> {
        // Urgent, so that a pause takes effect within a second.
        self.urgent_tx(move |conn, now| Box::pin(changes(conn, now, after, limit))).await
    }
}

async fn changes(
    conn: &mut Connection,
    now: Timestamp,
    after: TimedKey,
    limit: usize,
) -> Result<StreamChanges> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query!(
        r#"
        select s.gateway as "gateway!: GatewayKey", s.revision as "revision!: i64",
            s.revised_at as "revised_at!: Timestamp", (g.paused_at is not null) as "is_paused!: bool"
        from streams s join gateways g using (gateway)
        where s.revised_at >= $1 and (s.revised_at, s.gateway) > ($1, $2)
        order by s.revised_at, s.gateway limit $3
        "#,
        after.at as _,
        after.key,
        most
    )
    .fetch_all(conn)
    .await?;
    let last = rows.last().filter(|_| rows.len() == limit);
    let next = last.map(|last| TimedKey { at: last.revised_at, key: last.gateway.0 });
    let control = |revision, is_paused| Control { revision, is_paused };
    let changed = rows.into_iter().map(|it| (it.gateway, control(it.revision, it.is_paused)));
    Ok(StreamChanges { as_of: now, changed: changed.collect(), next })
}

/// Raises the revision of a stream, which is locked.
async fn revise(conn: &mut Connection, now: Timestamp, gateway: GatewayKey) -> Result<Control> {
    let row = query!(
        r#"
        update streams set revision = revision + 1, revised_at = $2 where gateway = $1
        returning revision as "revision!: i64", (
            select (g.paused_at is not null) from gateways g where g.gateway = streams.gateway
        ) as "is_paused!: bool"
        "#,
        gateway.0,
        now as _
    )
    .fetch_one(conn)
    .await?;
    Ok(Control { revision: row.revision, is_paused: row.is_paused })
}
