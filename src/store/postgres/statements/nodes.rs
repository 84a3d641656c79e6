//! Clocks, locks and the liveness of nodes.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::sql::dialect::NodeStatements;
use super::super::sql::dialect::nodes::{ExclusiveTask, Locked, OrphanedConnection};
use super::super::sql::nodes::ORPHANS_PER_BATCH;
use super::{Connection, LOCK_SPACE, keys, locks, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, NodeId};
use crate::store::Result;

impl NodeStatements for Connection {
    /// The clocks of nodes differ.
    async fn now(&mut self) -> Result<Timestamp> {
        Ok(query_scalar!(r#"select clock_timestamp() as "now!: Timestamp""#)
            .fetch_one(self)
            .await?)
    }

    /// If the clocks differ by more than a few seconds, only the age of `at` is used.
    fn database_time(now: Timestamp, at: Timestamp) -> Timestamp {
        const CLOSE: Duration = Duration::from_secs(5);
        if at <= now && now.since(at) < CLOSE { at } else { now.minus(Timestamp::now().since(at)) }
    }

    async fn lock_streams(&mut self, gateways: &BTreeSet<GatewayKey>) -> Result<Locked> {
        if gateways.is_empty() {
            return Ok(Locked { now: self.now().await?, may_have_changed: false });
        }
        let keys = keys(gateways);
        // As a subquery, the keys don't influence the plan, so Postgres keeps one plan per connection after
        // a few transactions, instead of planning the statement for each. The clock is read for each row
        // after it was locked.
        let times = query_scalar!(
            r#"
            select clock_timestamp() as "now!: Timestamp" from (
                select gateway from streams where gateway = any((select $1::bigint[])::bigint[])
                order by gateway for no key update
            ) as locked
            "#,
            &keys
        )
        .fetch_all(&mut *self)
        .await?;
        let now = match times.last() {
            Some(now) => *now,
            None => self.now().await?,
        };
        Ok(Locked { now, may_have_changed: true })
    }

    async fn existing_gateways(
        &mut self,
        gateways: &BTreeSet<GatewayKey>,
    ) -> Result<BTreeSet<GatewayKey>> {
        let keys = keys(gateways);
        let found = query_scalar!(
            r#"
            select gateway as "gateway!: GatewayKey" from gateways
            where gateway = any($1) and deleted_at is null
            "#,
            &keys
        )
        .fetch_all(self)
        .await?;
        Ok(found.into_iter().collect())
    }

    async fn try_lock_task(&mut self, chore: ExclusiveTask) -> Result<bool> {
        let chore = match chore {
            ExclusiveTask::Retention => locks::RETENTION,
            ExclusiveTask::Reaping => locks::REAPING,
            ExclusiveTask::Expiry => locks::EXPIRY,
        };
        Ok(query_scalar!(
            r#"select pg_try_advisory_xact_lock($1, $2) as "taken!: bool""#,
            LOCK_SPACE,
            chore
        )
        .fetch_one(self)
        .await?)
    }

    fn dead_before(now: Timestamp, timeout: Duration) -> Timestamp {
        now.minus(timeout)
    }

    async fn connections_of_dead_nodes(
        &mut self,
        heartbeats: &RangeInclusive<Timestamp>,
        node: NodeId,
    ) -> Result<Vec<OrphanedConnection>> {
        Ok(query_as!(
            OrphanedConnection,
            r#"
            select c.id as "id!: ConnectionId", c.gateway as "gateway!: GatewayKey",
                g.id as "gateway_id!: GatewayId"
            from connections c join gateways g using (gateway)
            where c.closed_at is null and c.node <> $1 and not exists (
                select 1 from nodes n
                where n.id = c.node and n.stopped_at is null and n.heartbeat_at between $2 and $4
            )
            order by c.gateway limit $3
            "#,
            node as _,
            *heartbeats.start() as _,
            ORPHANS_PER_BATCH,
            *heartbeats.end() as _
        )
        .fetch_all(self)
        .await?)
    }
}
