//! Gateways: registering, listing, changing and deleting them. Every statement filters by the
//! organisation. Deleted gateways are not found here; only the ledger refers to them.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::audit::audited;
use super::cursors;
use super::dialect::{Connection, Manifests, NodeStatements, query, query_scalar};
use super::instances::resync;
use super::ledger::logged::{Failed, named};
use super::ledger::{self, Ended, How};
use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence};
use crate::store::audit::entries;
use crate::store::{
    Actor, Audited, Confirmation, Conflict, Deleted, Fleet, Gateway, GatewayChange, GatewayFilter,
    Gateways, KeyFault, Labels, NotedRefusal, Range, Result, StoreError,
};

pub(crate) mod details;
mod fleet;
pub(crate) mod history;
pub(crate) mod live;
#[cfg(test)]
mod tests;

use details::{details, the_one};
use live::{gateway, live_key};

#[async_trait]
impl Gateways for Backend {
    async fn create_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        name: &str,
        labels: &Labels,
        replicas: i64,
    ) -> Result<Gateway> {
        let (organisation, name, labels) = (actor.organisation, name.to_owned(), labels.clone());
        let by = actor.principal.name.clone();
        audited!(self, actor, |conn, now| async {
            let done =
                create_gateway(conn, now, organisation, id, &name, &labels, replicas).await?;
            history::note(conn, now, done.value.key, &by).await?;
            Ok(done)
        })
    }

    async fn gateways(
        &self,
        organisation: OrganisationKey,
        filter: &GatewayFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        let (filter, after) = (filter.clone(), after.map(str::to_owned));
        run!(self.query, |conn| gateways(conn, organisation, &filter, after.as_deref(), limit))
    }

    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>> {
        run!(self.query, |conn| gateway(conn, organisation, id))
    }

    async fn update_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway> {
        let (organisation, by) = (actor.organisation, actor.principal.name.clone());
        audited!(self, actor, |conn, now| async {
            let done = update_gateway(conn, now, organisation, id, change).await?;
            history::note(conn, now, done.value.key, &by).await?;
            Ok(done)
        })
    }

    async fn delete_gateway(&self, actor: &Actor, id: GatewayId) -> Result<Deleted> {
        let (node, organisation) = (self.node, actor.organisation);
        let by = actor.principal.name.clone();
        audited!(self, actor, |conn, now| async {
            let done = delete_gateway(conn, now, node, organisation, id).await?;
            history::note(conn, now, done.value.key, &by).await?;
            Ok(done)
        })
    }

    async fn fleet(&self, furthest: usize) -> Result<Fleet> {
        run!(self.query, |conn| fleet::fleet(conn, furthest))
    }

    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()> {
        let manifest = manifest.to_owned();
        run!(self.write_tx, |conn, now| set_manifest(conn, now, gateway, &manifest))
    }

    fn note_refusal(&self, gateway: GatewayKey, refusal: NotedRefusal) {
        self.writer.run_detached(move |conn, now| {
            Box::pin(async move { note_refusal(conn, now, gateway, &refusal).await })
        });
    }
}

pub(super) async fn create_gateway(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    name: &str,
    labels: &Labels,
    replicas: i64,
) -> Result<Audited<Gateway>> {
    let labels = labels_text(labels)?;
    refuse_taken_name(conn, organisation, name, None).await?;
    let inserted = query_scalar!(
        r#"
        insert into gateways (id, organisation, name, labels, replicas, created_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (id) do nothing
        returning gateway as "gateway!: GatewayKey"
        "#,
        id as _,
        organisation.0,
        name,
        labels,
        replicas,
        now as _
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(gateway) = inserted else {
        return Err(Conflict::GatewayId(id).into());
    };
    let epoch = Epoch::new();
    query!("insert into streams (gateway, epoch) values ($1, $2)", gateway.0, epoch as _)
        .execute(&mut *conn)
        .await?;
    let gateway = the_one(conn, gateway).await?;
    let entry = entries::gateway_registered(&gateway);
    Ok(Audited::new(gateway, [entry]))
}

pub(super) async fn gateways(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &GatewayFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Gateway>> {
    // The empty string sorts before every name.
    let after = after.unwrap_or_default();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let keys = match &filter.id_prefix {
        Some(prefix) => {
            let (first, last) = prefix.range();
            query_scalar!(
                r#"
                select gateway as "gateway!: GatewayKey" from gateways
                where organisation = $1 and deleted_at is null and name > $2
                    and name = coalesce($3, name) and id between $4 and $5
                order by name limit $6
                "#,
                organisation.0,
                after,
                filter.name,
                first as _,
                last as _,
                limit
            )
            .fetch_all(&mut *conn)
            .await?
        }
        None => {
            query_scalar!(
                r#"
                select gateway as "gateway!: GatewayKey" from gateways
                where organisation = $1 and deleted_at is null and name > $2
                    and name = coalesce($3, name)
                order by name limit $4
                "#,
                organisation.0,
                after,
                filter.name,
                limit
            )
            .fetch_all(&mut *conn)
            .await?
        }
    };
    details(conn, &keys, Manifests::Read).await
}

pub(super) async fn update_gateway(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: GatewayId,
    change: GatewayChange,
) -> Result<Audited<Gateway>> {
    let key = live_key(conn, organisation, id).await?;
    // Locks the stream, so that concurrent changes can't overwrite each other.
    conn.lock_streams(&BTreeSet::from([key])).await?;
    // Another node may have deleted it before the stream was locked.
    live_key(conn, organisation, id).await?;
    let before = the_one(conn, key).await?;
    if let Some(name) = &change.name {
        refuse_taken_name(conn, organisation, name, Some(key)).await?;
    }
    let mut labels = None;
    if let Some(change) = change.labels {
        labels = Some(labels_text(&change.apply(before.labels.clone())?)?);
    }
    // Disabling again keeps the time at which it was disabled first.
    query!(
        r#"
        update gateways
        set name        = coalesce($2, name),
            labels      = coalesce($3, labels),
            replicas    = coalesce($6, replicas),
            disabled_at = case
                when $4 is true then coalesce(disabled_at, $5)
                when $4 is false then null
                else disabled_at
            end
        where gateway = $1
        "#,
        key.0,
        change.name,
        labels,
        change.disabled,
        now as _,
        change.replicas
    )
    .execute(&mut *conn)
    .await?;
    if let Some(confirmation) = change.confirmation
        && confirmation != before.confirmation
    {
        confirm_by(conn, key, confirmation).await?;
    }
    let after = the_one(conn, key).await?;
    let entries = entries::gateway_updated(&before, &after);
    Ok(Audited::new(after, entries))
}

/// Changes which instances must confirm. The gateway's position never moves back; if one confirmation
/// is enough from now on, it catches up.
async fn confirm_by(
    conn: &mut Connection,
    gateway: GatewayKey,
    confirmation: Confirmation,
) -> Result<()> {
    let confirmation = confirmation.as_str();
    query!("update streams set confirmation = $2 where gateway = $1", gateway.0, confirmation)
        .execute(&mut *conn)
        .await?;
    cursors::follow_instances(conn, gateway).await
}

/// Records undelivered events as failed. The stream and the gateway's position stay, because rows
/// of the ledger refer to them and the states of deliveries are derived from them. Retention
/// removes the log, as it does with any other.
pub(super) async fn delete_gateway(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Audited<Deleted>> {
    let key = live_key(conn, organisation, id).await?;
    let gateway = key.0;
    conn.lock_streams(&BTreeSet::from([key])).await?;
    // Another node may have deleted it before the stream was locked.
    live_key(conn, organisation, id).await?;
    let before = the_one(conn, key).await?;
    query!("update gateways set deleted_at = $2 where gateway = $1", gateway, now as _)
        .execute(&mut *conn)
        .await?;
    let revoked = query!(
        "update gateway_tokens set revoked_at = $2 where gateway = $1 and revoked_at is null",
        gateway,
        now as _
    )
    .execute(&mut *conn)
    .await?;
    let undelivered = give_up_undelivered(conn, now, node, key).await?;
    query!("delete from cursors where gateway = $1 and instance <> ''", gateway)
        .execute(&mut *conn)
        .await?;
    resync::remove(conn, now, key, None).await?;
    query!("update streams set missed = head where gateway = $1", gateway)
        .execute(&mut *conn)
        .await?;
    let entry = entries::gateway_deleted(&before, &undelivered, revoked.rows_affected());
    let undelivered = undelivered.into_iter().map(|range| {
        let gateway_name = before.name.clone();
        Failed { gateway: key, gateway_id: id, gateway_name, range }
    });
    let undelivered = named(conn, undelivered.collect()).await?;
    Ok(Audited::new(Deleted { key, undelivered }, [entry]))
}

/// Records deliveries that the gateway being deleted has not confirmed as failed, one row per range
/// of the log.
async fn give_up_undelivered(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    gateway: GatewayKey,
) -> Result<Vec<Range>> {
    let log = query!(
        r#"
        select head as "head!: Sequence", floor as "floor!: Sequence" from streams
        where gateway = $1
        "#,
        gateway.0
    )
    .fetch_one(&mut *conn)
    .await?;
    // A gateway that has only named replicas (see `store::positions`) has no position of its own
    // yet.
    query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at)
        select $1, '', coalesce(max(received), 0), $2 from cursors where gateway = $1
        on conflict (gateway, instance) do nothing
        "#,
        gateway.0,
        now as _
    )
    .execute(&mut *conn)
    .await?;
    let confirmed = cursors::confirmed(conn, gateway).await?;
    let range = Range { first: confirmed.max(log.floor).next(), last: log.head };
    let reason = Reason::GatewayDeleted;
    let undelivered = ledger::not_dead(conn, gateway, range).await?;
    for range in undelivered.iter().copied() {
        let how = How::Failed(reason, "");
        let ended =
            Ended { gateway, connection: None, range, how, started_at: now, finished_at: now };
        ledger::insert_attempts(conn, node, &ended).await?;
    }
    ledger::dead_letter(conn, gateway, range, reason, now).await?;
    Ok(undelivered)
}

pub(super) async fn set_manifest(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    manifest: &str,
) -> Result<()> {
    let done = query!(
        "update gateways set manifest = $2, manifest_at = $3 where gateway = $1 and deleted_at is null",
        gateway.0,
        manifest,
        now as _
    )
    .execute(conn)
    .await?;
    if done.rows_affected() == 0 { Err(StoreError::NotFound("gateway")) } else { Ok(()) }
}

/// Records the last refused connection attempt, replacing an older one.
pub(super) async fn note_refusal(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    refusal: &NotedRefusal,
) -> Result<()> {
    let cause = refusal.cause.map(KeyFault::as_str);
    query!(
        r#"
        update gateways
        set last_refusal_at = $2, last_refusal_code = $3, last_refusal_address = $4,
            last_refusal_cause = $5
        where gateway = $1
        "#,
        gateway.0,
        now as _,
        refusal.code,
        refusal.address,
        cause
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn refuse_taken_name(
    conn: &mut Connection,
    organisation: OrganisationKey,
    name: &str,
    except: Option<GatewayKey>,
) -> Result<()> {
    let except = except.map(|key| key.0);
    let taken = query_scalar!(
        r#"
        select id as "id!: GatewayId" from gateways
        where organisation = $1 and name = $2 and deleted_at is null and gateway is distinct from $3
        "#,
        organisation.0,
        name,
        except
    )
    .fetch_optional(conn)
    .await?;
    match taken {
        None => Ok(()),
        Some(id) => Err(Conflict::GatewayName { name: name.to_owned(), by: id }.into()),
    }
}

fn labels_text(labels: &Labels) -> Result<String> {
    serde_json::to_string(labels).map_err(|error| StoreError::Corrupt(format!("labels: {error}")))
}
