//! Nodes: their heartbeats, the list of nodes, and closing the connections of dead ones.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;

use super::super::migrations;
use super::Backend;
use super::access::{Access as _, run};
use super::connections::close::{self, End};
use super::dialect::nodes::{ExclusiveTask, OrphanedConnection};
use super::dialect::{Connection, NodeStatements, query, query_scalar};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, NodeId, Reason};
use crate::store::{AboutNode, NodeInfo, NodeStatus, Reaped, Reaping, Result, schema};
use crate::store::{Heartbeat, Nodes};

#[async_trait]
impl Nodes for Backend {
    async fn node_heartbeat(&self) -> Result<Heartbeat> {
        let node = self.node;
        let beat = self.urgent_tx(move |conn, now| {
            Box::pin(async move {
                let lost_at = heartbeat(conn, now, node).await?;
                let newer_schema = newer_schema(conn).await?;
                Ok(Heartbeat { at: now, lost_at, newer_schema })
            })
        });
        beat.await
    }

    async fn introduce_node(&self, about: AboutNode) -> Result<()> {
        let node = self.node;
        run!(self.write_tx, |conn, _now| introduce(conn, node, &about))
    }

    async fn nodes(&self, limit: usize) -> Result<Vec<NodeInfo>> {
        let (node, timeout) = (self.node, self.node_timeout());
        run!(self.query, |conn| list(conn, node, timeout, limit))
    }

    async fn reap_dead_nodes(&self) -> Result<Reaping> {
        let (node, timeout, wake) = (self.node, self.node_timeout(), self.wake.clone());
        let (reaped, _) = self
            .writer
            .run_then(
                move |conn, now| Box::pin(reap(conn, now, node, timeout)),
                move |(_, gateways)| {
                    for gateway in gateways {
                        wake.request_sweep(*gateway);
                    }
                },
            )
            .await?;
        Ok(reaped)
    }

    fn node(&self) -> NodeId {
        self.node
    }
}

/// The smallest difference between two timestamps.
const INSTANT: Duration = Duration::from_micros(1);
/// How long a stopped node stays in the list. Each start of a process adds a node.
const LISTED_FOR: Duration = Duration::from_hours(7 * 24);

impl Backend {
    /// What must be done right after the database is opened.
    pub(crate) async fn begin(&self) -> Result<()> {
        let node = self.node;
        run!(self.write_tx, |conn, now| register(conn, now, node))
    }
}

/// Registers this node, and deletes nodes that stopped long ago.
pub(super) async fn register(conn: &mut Connection, now: Timestamp, node: NodeId) -> Result<()> {
    let before = now.minus(LISTED_FOR);
    query!(
        r#"
        delete from nodes where heartbeat_at < $1 and not exists (
            select 1 from connections c where c.node = nodes.id and c.closed_at is null
        )
        "#,
        before as _
    )
    .execute(&mut *conn)
    .await?;
    query!(
        "insert into nodes (id, started_at, heartbeat_at) values ($1, $2, $2)",
        node as _,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores a heartbeat; returns when another node last declared this one dead.
pub(super) async fn heartbeat(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
) -> Result<Option<Timestamp>> {
    let known = query_scalar!(
        r#"
        update nodes set stopped_at = null, heartbeat_at = $2 where id = $1
        returning lost_at as "lost_at?: Timestamp"
        "#,
        node as _,
        now as _
    )
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(lost_at) = known {
        return Ok(lost_at);
    }
    // The node was unavailable for so long that its row was deleted.
    query!(
        "insert into nodes (id, started_at, heartbeat_at, lost_at) values ($1, $2, $2, $2)",
        node as _,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(Some(now))
}

/// The newest migration, if a newer version has migrated the database; an error if this version
/// can't use the schema any more.
pub(super) async fn newer_schema(conn: &mut Connection) -> Result<Option<i64>> {
    // Not checked at compile time: the first table belongs to the migrator.
    let row = sqlx::query_as::<_, (Option<i64>, i64)>(
        "select (select max(version) from _sqlx_migrations where success),
            (select coalesce(max(oldest), 0) from schema_compatibility)",
    );
    let (newest, oldest) = row.fetch_one(conn).await?;
    schema::check(migrations::newest(), newest, oldest)
}

/// Stores this node's description of itself.
pub(super) async fn introduce(
    conn: &mut Connection,
    node: NodeId,
    about: &AboutNode,
) -> Result<()> {
    query!(
        "update nodes set version = $2, host = $3, address = $4, max_connections = $5 where id = $1",
        node as _,
        about.version,
        about.host,
        about.address,
        about.max_connections
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that this node shut down cleanly.
pub(super) async fn stopped(conn: &mut Connection, now: Timestamp, node: NodeId) -> Result<()> {
    query!("update nodes set stopped_at = $2 where id = $1", node as _, now as _)
        .execute(conn)
        .await?;
    Ok(())
}

/// Live nodes, then others, newest first.
pub(crate) async fn list(
    conn: &mut Connection,
    node: NodeId,
    timeout: Duration,
    limit: usize,
) -> Result<Vec<NodeInfo>> {
    let now = conn.now().await?;
    let since = Connection::dead_before(now, timeout);
    let until = now.plus(timeout);
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query!(
        r#"
        select n.id as "id!: NodeId", n.version as "version?: String", n.host as "host?: String",
            n.address as "address?: String", n.max_connections as "max_connections?: i64",
            n.started_at as "started_at!: Timestamp", n.heartbeat_at as "heartbeat_at!: Timestamp",
            n.stopped_at as "stopped_at?: Timestamp", n.lost_at as "lost_at?: Timestamp",
            coalesce(c.connections, 0) as "connections!: i64",
            (n.id = $1 or n.heartbeat_at between $2 and $4) as "is_live!: bool"
        from nodes n left join (
            select node, count(*) as connections from connections
            where closed_at is null group by node
        ) as c on c.node = n.id
        order by (n.stopped_at is null and (n.id = $1 or n.heartbeat_at between $2 and $4)) desc,
            n.started_at desc, n.id
        limit $3
        "#,
        node as _,
        since as _,
        most,
        until as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| NodeInfo {
            id: row.id,
            status: match (row.stopped_at, row.is_live) {
                (Some(_), _) => NodeStatus::Stopped,
                (None, true) => NodeStatus::Live,
                (None, false) => NodeStatus::Lost,
            },
            host: row.host,
            address: row.address,
            version: row.version,
            started_at: row.started_at,
            last_heartbeat: row.heartbeat_at,
            connections: row.connections,
            max_connections: row.max_connections,
            stopped_at: row.stopped_at,
            lost_at: row.lost_at,
        })
        .collect())
}

/// Connections that one transaction closes, at most. The streams of their gateways stay locked
/// until its end.
pub(crate) const ORPHANS_PER_BATCH: i64 = 500;

/// Closes some of the connections that dead nodes left open. Returns them with the keys of their
/// gateways. An empty result means that none are left.
pub(super) async fn reap(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    timeout: Duration,
) -> Result<(Reaping, Vec<GatewayKey>)> {
    if !conn.try_lock_task(ExclusiveTask::Reaping).await? {
        return Ok((Reaping::default(), Vec::new()));
    }
    // A heartbeat in the future was stored before the clock was set back, by a node that died
    // before it could store another one.
    let recent = Connection::dead_before(now, timeout)..=now.plus(timeout);
    let left = conn.connections_of_dead_nodes(&recent, node).await?;
    let gateways: BTreeSet<GatewayKey> = left.iter().map(|row| row.gateway).collect();
    conn.lock_streams(&gateways).await?;
    // A node that has stored a heartbeat meanwhile is not marked. A node that is marked stores its
    // next heartbeat after this transaction, and then finds the mark.
    let nodes = mark(conn, now, &recent, timeout, node).await?;
    let mut left = conn.connections_of_dead_nodes(&recent, node).await?;
    // Connections of streams that are not locked wait for the next call.
    left.retain(|row| gateways.contains(&row.gateway));
    for row in &left {
        let end = End {
            gateway: row.gateway,
            connection: row.id,
            reason: Reason::NodeLost,
            detail: "",
            unconfirmed: &[],
            is_in_progress: false,
            give_up_after: None,
            alive_at: None,
            at: now,
        };
        close::close(conn, now, node, &end).await?;
    }
    let closed =
        |row: &OrphanedConnection| Reaped { gateway_id: row.gateway_id, connection_id: row.id };
    let connections = left.iter().map(closed).collect();
    let gateways: BTreeSet<GatewayKey> = left.iter().map(|row| row.gateway).collect();
    Ok((Reaping { nodes, connections }, gateways.into_iter().collect()))
}

/// Marks nodes without a recent heartbeat as lost, once, and again if they have opened connections
/// since. Returns them.
async fn mark(
    conn: &mut Connection,
    now: Timestamp,
    recent: &RangeInclusive<Timestamp>,
    timeout: Duration,
    node: NodeId,
) -> Result<Vec<NodeId>> {
    let silent = now.minus(timeout + INSTANT);
    Ok(query_scalar!(
        r#"
        update nodes set lost_at = $3,
            heartbeat_at = case when heartbeat_at > $4 then $5 else heartbeat_at end
        where id <> $1 and stopped_at is null and (heartbeat_at < $2 or heartbeat_at > $4) and (
            lost_at is null or lost_at < heartbeat_at
            or exists (select 1 from connections c where c.node = nodes.id and c.closed_at is null)
        )
        returning id as "id!: NodeId"
        "#,
        node as _,
        *recent.start() as _,
        now as _,
        *recent.end() as _,
        silent as _
    )
    .fetch_all(conn)
    .await?)
}
