//! Clocks, locks and the liveness of nodes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::sql::dialect::NodeStatements;
use super::super::sql::dialect::nodes::{ExclusiveTask, Locked, OrphanedConnection};
use super::super::sql::nodes::ORPHANS_PER_BATCH;
use super::{Connection, query_as};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, NodeId};
use crate::store::Result;

impl NodeStatements for Connection {
    /// Every process uses the clock of this machine.
    async fn now(&mut self) -> Result<Timestamp> {
        Ok(Timestamp::now())
    }

    fn database_time(now: Timestamp, at: Timestamp) -> Timestamp {
        at.min(now)
    }

    /// The write transaction has locked the whole file.
    async fn lock_streams(&mut self, _: &BTreeSet<GatewayKey>) -> Result<Locked> {
        Ok(Locked { now: Timestamp::now(), may_have_changed: false })
    }

    /// No other connection deletes between two statements of a transaction.
    async fn existing_gateways(
        &mut self,
        gateways: &BTreeSet<GatewayKey>,
    ) -> Result<BTreeSet<GatewayKey>> {
        Ok(gateways.clone())
    }

    /// There is one server.
    async fn try_lock_task(&mut self, _: ExclusiveTask) -> Result<bool> {
        Ok(true)
    }

    /// There is one server, so any other node is dead, whenever its last heartbeat was.
    fn dead_before(_: Timestamp, _: Duration) -> Timestamp {
        Timestamp::from_micros(i64::MAX)
    }

    /// There is one server, so every other node is dead.
    async fn connections_of_dead_nodes(
        &mut self,
        _: &RangeInclusive<Timestamp>,
        node: NodeId,
    ) -> Result<Vec<OrphanedConnection>> {
        Ok(query_as!(
            OrphanedConnection,
            r#"
            select c.id as "id!: ConnectionId", c.gateway as "gateway!: GatewayKey",
                g.id as "gateway_id!: GatewayId"
            from connections c join gateways g using (gateway)
            where c.closed_at is null and c.node <> $1
            order by c.gateway limit $2
            "#,
            node as _,
            ORPHANS_PER_BATCH
        )
        .fetch_all(self)
        .await?)
    }
}
