//! Resync requests: storing them, finding them when a connection opens, and ending them.

use super::super::dialect::{Connection, query, query_as, query_scalar};
use super::super::gateways::live::locked;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, NodeId, Sequence};
use crate::store::audit::entries;
use crate::store::{
    Actor, Audited, Conflict, Gap, GapReason, Gateway, NewConnection, ReplacedConnection, Result,
    Resync, ResyncChange, ResyncOutcome, ResyncRequest, StoreError,
};

/// Stores a request. `NotFound` if there is no such gateway or instance; `Conflict` if the gateway
/// has only used plain mode.
pub(crate) async fn request(
    conn: &mut Connection,
    now: Timestamp,
    actor: &Actor,
    id: GatewayId,
    request: &ResyncRequest,
    dry_run: bool,
) -> Result<Audited<ResyncChange>> {
    let gateway = locked(conn, actor.organisation, id).await?;
    let key = gateway.key;
    let targets = targets(conn, &gateway, request.instance.as_deref()).await?;
    let before = pending(conn, key).await?;
    let mut missing = targets.clone();
    for one in &before {
        if let Some(at) = missing.iter().position(|name| *name == one.instance) {
            missing.swap_remove(at);
        }
    }
    missing.sort_unstable();
    let of_targets = |one: &Resync| targets.contains(&one.instance);
    let mut all: Vec<Resync> = before.into_iter().filter(of_targets).collect();
    all.extend(missing.iter().map(|name| Resync {
        instance: name.clone(),
        requested_at: now,
        requested_by: actor.principal.name.clone(),
        reason: request.reason.clone(),
        started: None,
        resume_at: None,
        ended: None,
    }));
    let changed = !missing.is_empty();
    let mut done = ResyncChange { key, changed, pending: all, connections: Vec::new() };
    if dry_run || !changed {
        return Ok(Audited::new(done, []));
    }
    for name in &missing {
        insert(conn, now, key, name, actor, request.reason.as_deref()).await?;
    }
    missing.dedup();
    for name in &missing {
        done.connections.extend(end(conn, now, key, name).await?);
    }
    let entry = entries::resync_requested(&gateway, &missing, request.reason.as_deref());
    Ok(Audited::new(done, [entry]))
}

/// The instances that a request concerns; the empty name once for each unnamed connection.
async fn targets(
    conn: &mut Connection,
    gateway: &Gateway,
    only: Option<&str>,
) -> Result<Vec<String>> {
    let mut names = query_scalar!(
        r#"
        select instance as "instance!: String" from cursors
        where gateway = $1 and confirm is not null order by instance
        "#,
        gateway.key.0
    )
    .fetch_all(&mut *conn)
    .await?;
    if let Some(only) = only {
        names.retain(|name| name == only);
        return if names.is_empty() { Err(StoreError::NotFound("instance")) } else { Ok(names) };
    }
    let unnamed = query!(
        r#"
        select count(case when closed_at is null then 1 end) as "live!: i64", count(*) as "all!: i64"
        from connections where gateway = $1 and instance = '' and transport <> 'websocket'
        "#,
        gateway.key.0
    )
    .fetch_one(&mut *conn)
    .await?;
    let count = match unnamed.live {
        0 if names.is_empty() && unnamed.all > 0 => gateway.replicas,
        live => live,
    };
    names.extend((0..count).map(|_| String::new()));
    if names.is_empty() { Err(Conflict::PlainMode.into()) } else { Ok(names) }
}

async fn insert(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    instance: &str,
    actor: &Actor,
    reason: Option<&str>,
) -> Result<()> {
    query!(
        r#"
        insert into resyncs (gateway, instance, requested_at, requested_by, reason)
        values ($1, $2, $3, $4, $5)
        "#,
        gateway.0,
        instance,
        now as _,
        actor.principal.name,
        reason
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks the live connections of an instance: they are to end.
async fn end(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    instance: &str,
) -> Result<Vec<ReplacedConnection>> {
    Ok(query_as!(
        ReplacedConnection,
        r#"
        update connections set resync_at = $3
        where gateway = $1 and instance = $2 and closed_at is null and transport <> 'websocket'
        returning id as "id!: ConnectionId", node as "node!: NodeId"
        "#,
        gateway.0,
        instance,
        now as _
    )
    .fetch_all(conn)
    .await?)
}

/// Takes the pending request for the instance of a connection that is being opened. Returns whether
/// there is one. Of those for unnamed connections, it takes the one that was sent to another
/// connection last.
pub(super) async fn begin(
    conn: &mut Connection,
    now: Timestamp,
    new: &NewConnection,
) -> Result<bool> {
    let begun = query!(
        r#"
        update resyncs set connection = $3, started_at = $4
        where resync = (
            select resync from resyncs where gateway = $1 and instance = $2 and ended_at is null
            order by started_at is not null, started_at, resync limit 1
        )
        "#,
        new.gateway.0,
        new.instance,
        new.id as _,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(begun.rows_affected() > 0)
}

/// What a connection that starts after `position`, or with `gap`, is sent instead.
pub(super) fn gap(position: Sequence, gap: Option<Gap>, head: Sequence) -> Gap {
    let from = gap.map_or_else(|| position.next(), |gap| gap.from);
    Gap { reason: GapReason::Resync, from, to: head, resume_at: head }
}

/// Ends the request that a connection was sent: it has applied the snapshot.
pub(super) async fn done(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    connection: ConnectionId,
    resume_at: Sequence,
) -> Result<()> {
    let outcome = ResyncOutcome::Done.as_str();
    query!(
        r#"
        update resyncs set ended_at = $3, outcome = $4, resume_at = $5
        where gateway = $1 and connection = $2 and ended_at is null
        "#,
        gateway.0,
        connection as _,
        now as _,
        outcome,
        resume_at.0
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends the requests for an instance that is removed; `None` for all of the gateway.
pub(crate) async fn remove(
    conn: &mut Connection,
    now: Timestamp,
    gateway: GatewayKey,
    instance: Option<&str>,
) -> Result<()> {
    let outcome = ResyncOutcome::Removed.as_str();
    query!(
        r#"
        update resyncs set ended_at = $3, outcome = $4
        where gateway = $1 and ended_at is null and instance = coalesce($2, instance)
        "#,
        gateway.0,
        instance,
        now as _,
        outcome
    )
    .execute(conn)
    .await?;
    Ok(())
}

struct Row {
    instance: String,
    requested_at: Timestamp,
    requested_by: String,
    reason: Option<String>,
    connection: Option<ConnectionId>,
    started_at: Option<Timestamp>,
    resume_at: Option<i64>,
    ended_at: Option<Timestamp>,
    outcome: Option<String>,
}

impl From<Row> for Resync {
    fn from(row: Row) -> Self {
        let outcome = ResyncOutcome::stored(row.outcome.as_deref().unwrap_or_default());
        Self {
            instance: row.instance,
            requested_at: row.requested_at,
            requested_by: row.requested_by,
            reason: row.reason,
            started: row.connection.zip(row.started_at),
            resume_at: row.resume_at.map(Sequence),
            ended: row.ended_at.map(|at| (at, outcome)),
        }
    }
}

async fn pending(conn: &mut Connection, gateway: GatewayKey) -> Result<Vec<Resync>> {
    let rows = query_as!(
        Row,
        r#"
        select instance as "instance!: String", requested_at as "requested_at!: Timestamp",
            requested_by as "requested_by!: String", reason as "reason?: String",
            connection as "connection?: ConnectionId", started_at as "started_at?: Timestamp",
            resume_at as "resume_at?: i64", ended_at as "ended_at?: Timestamp",
            outcome as "outcome?: String"
        from resyncs where gateway = $1 and ended_at is null order by instance, resync
        "#,
        gateway.0
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// The requests of a gateway: pending ones first, then newest first.
pub(crate) async fn list(
    conn: &mut Connection,
    gateway: GatewayKey,
    limit: i64,
) -> Result<Vec<Resync>> {
    let mut all = pending(conn, gateway).await?;
    let ended = query_as!(
        Row,
        r#"
        select instance as "instance!: String", requested_at as "requested_at!: Timestamp",
            requested_by as "requested_by!: String", reason as "reason?: String",
            connection as "connection?: ConnectionId", started_at as "started_at?: Timestamp",
            resume_at as "resume_at?: i64", ended_at as "ended_at?: Timestamp",
            outcome as "outcome?: String"
        from resyncs where gateway = $1 and ended_at is not null order by resync desc limit $2
        "#,
        gateway.0,
        limit
    )
    .fetch_all(conn)
    .await?;
    all.extend(ended.into_iter().map(Into::into));
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(all)
}

/// Deletes a batch of the requests that ended before this; returns how many.
pub(crate) async fn forget(conn: &mut Connection, before: Timestamp, batch: i64) -> Result<u64> {
    let done = query!(
        r#"
        delete from resyncs where resync in (
            select resync from resyncs where ended_at < $1 order by ended_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
