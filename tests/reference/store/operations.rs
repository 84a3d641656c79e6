//! The operations: each runs one function of [`Tables`](super::tables::Tables), under the lock.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{
    ConnectionId, EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence,
};
use gateway_events::store::limits::NOTED_EVERY;
use gateway_events::store::supersession::Supersession;
use gateway_events::store::{
    AboutNode, AccessCredential, Actor, ConnectionCursor, ConnectionPage, Connections, Credentials,
    Deleted, DeliveryCursor, DeliveryFilter, DeliveryKey, DeliveryPage, DeliveryState,
    DeploymentKey, DeploymentMatch, EventCursor, EventFilter, EventHistory, EventPage,
    EventTypeInfo, EventTypes, Expiries, ExpiryMark, Feed, FeedDetails, FeedEnds, FeedRows,
    FeedSpans, Fleet, Gateway, GatewayChange, GatewayCredential, GatewayFilter, Gateways, Health,
    Heartbeat, HighWater, KeptResult, Labels, Ledger, Log, LogPage, LogSpan, Maintenance,
    NewConnection, NewToken, NodeInfo, Nodes, NotedRefusal, Opened, OutboxPage, Publish, Published,
    PublishedCount, Reaping, Record, RedriveSelection, Redriven, Result, RetentionLimits,
    RevokedConnection, Rollout, RolloutOf, Scope, StatePage, SummaryBy, SummaryRow, SweepResult,
    TokenInfo, TokenKind, Totals, TrimMark, Trimmed,
};
use gateway_events::store::{bucket_start, bucket_width};

use super::append::{Growth, grown};
use super::{MemoryStore, PendingOpening};

#[async_trait]
impl Health for MemoryStore {
    async fn check(&self) -> Result<()> {
        self.read(|_| Ok(())).await
    }

    async fn has_room(&self) -> bool {
        self.check_space().is_ok()
    }

    async fn close(&self) {
        if !self.closed.is_cancelled() {
            self.database.tables().node_stopped((self.database.0.clock)(), self.node);
            self.database.nodes().remove(&self.node);
            self.closed.cancel();
        }
    }
}

#[async_trait]
impl Credentials for MemoryStore {
    async fn organisation(&self, name: &str) -> Result<OrganisationKey> {
        self.read(|tables| tables.organisation(name)).await
    }

    async fn has_access_tokens(&self) -> Result<bool> {
        self.read(|tables| Ok(!tables.access_tokens.is_empty())).await
    }

    async fn create_access_token(
        &self,
        actor: &Actor,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| {
            tables.create_access_token(now, organisation, name, scopes, token)
        })
        .await
    }

    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>> {
        self.read(|tables| Ok(tables.list_access_tokens(organisation))).await
    }

    async fn revoke_access_token(&self, actor: &Actor, id: &str) -> Result<()> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| tables.revoke_access_token(now, organisation, id)).await
    }

    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>> {
        self.read(|tables| Ok(tables.access_credential(id))).await
    }

    fn note_use(&self, kind: TokenKind, id: &str, last_used_at: Option<Timestamp>) {
        let now = (self.database.0.clock)();
        let is_noted = last_used_at.is_some_and(|at| now.since(at) < NOTED_EVERY);
        if !is_noted && self.check_open().is_ok() {
            self.database.tables().note_use(now, kind, id);
        }
    }

    async fn create_gateway_token(
        &self,
        actor: &Actor,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| tables.create_gateway_token(now, organisation, id, token))
            .await
    }

    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>> {
        self.read(|tables| tables.list_gateway_tokens(organisation, id)).await
    }

    async fn revoke_gateway_token(&self, actor: &Actor, id: GatewayId, token: &str) -> Result<()> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| tables.revoke_gateway_token(now, organisation, id, token))
            .await
    }

    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>> {
        self.read(|tables| Ok(tables.gateway_credential(token))).await
    }
}

#[async_trait]
impl Gateways for MemoryStore {
    async fn create_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        name: &str,
        labels: &Labels,
        replicas: i64,
    ) -> Result<Gateway> {
        self.audited(actor, |tables, now| {
            let done =
                tables.create_gateway(now, actor.organisation, id, name, labels, replicas)?;
            tables.note_state(now, done.value.key, &actor.principal.name);
            Ok(done)
        })
        .await
    }

    async fn gateways(
        &self,
        organisation: OrganisationKey,
        filter: &GatewayFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.list_gateways(now, organisation, filter, after, limit)).await
    }

    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.gateway(now, organisation, id)).await
    }

    async fn update_gateway(
        &self,
        actor: &Actor,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| {
            let done = tables.update_gateway(now, organisation, id, change)?;
            tables.note_state(now, done.value.key, &actor.principal.name);
            Ok(done)
        })
        .await
    }

    async fn delete_gateway(&self, actor: &Actor, id: GatewayId) -> Result<Deleted> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| {
            let done = tables.delete_gateway(now, organisation, id)?;
            tables.note_state(now, done.value.key, &actor.principal.name);
            Ok(done)
        })
        .await
    }

    async fn fleet(&self, furthest: usize) -> Result<Fleet> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.fleet(now, furthest)).await
    }

    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()> {
        self.write(|tables, now| tables.set_manifest(now, gateway, manifest)).await
    }

    fn note_refusal(&self, gateway: GatewayKey, refusal: NotedRefusal) {
        let now = (self.database.0.clock)();
        if self.check_open().is_ok() {
            self.database.tables().note_refusal(now, gateway, refusal);
        }
    }
}

#[async_trait]
impl EventTypes for MemoryStore {
    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>> {
        self.read(|tables| Ok(tables.list_event_types(organisation))).await
    }

    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>> {
        self.read(|tables| Ok(tables.event_type(organisation, name))).await
    }

    async fn put_event_type(&self, actor: &Actor, info: &EventTypeInfo) -> Result<bool> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, _| Ok(tables.put_event_type(organisation, info))).await
    }

    async fn delete_event_type(&self, actor: &Actor, name: &EventType) -> Result<()> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, _| tables.delete_event_type(organisation, name)).await
    }
}

#[async_trait]
impl Feed for MemoryStore {
    async fn feed_ends(&self) -> Result<FeedEnds> {
        self.read(|tables| Ok(tables.feed_ends())).await
    }

    async fn feed_rows(&self, spans: &FeedSpans, details: &FeedDetails) -> Result<FeedRows> {
        self.read(|tables| Ok(tables.feed_rows(spans, details))).await
    }

    fn feed_has_gaps(&self) -> bool {
        false
    }
}

#[async_trait]
impl Log for MemoryStore {
    async fn append(&self, publish: Publish) -> Result<Published> {
        self.check_space()?;
        let (mut published, _) = self
            .write_then(
                |tables, now| {
                    let mut growth = Growth::new();
                    Ok((tables.append(now, &publish, &mut growth), growth))
                },
                |(_, growth)| self.appended(grown(growth.clone())),
            )
            .await?;
        self.database.fault_hook().appended(&mut published);
        Ok(published)
    }

    async fn read(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage> {
        let mut page = self.read(|tables| tables.page(gateway, after, limit, max_bytes)).await?;
        self.database.fault_hook().page(&mut page);
        Ok(page)
    }

    async fn supersede(&self, backlog: Supersession) -> Result<Supersession> {
        self.write(|tables, now| tables.supersede(now, backlog)).await
    }

    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<DeploymentMatch>> {
        self.read(|tables| Ok(tables.find_deployment(gateway, key))).await
    }

    async fn events(
        &self,
        organisation: OrganisationKey,
        filter: &EventFilter,
        cursor: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage> {
        self.read(|tables| tables.browse_events(organisation, filter, cursor.as_ref(), limit)).await
    }

    async fn gateway_log(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.gateway_log(now, organisation, id, span)).await
    }

    async fn count_published(&self, _: i64) -> Result<bool> {
        Ok(false)
    }

    async fn published_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
    ) -> Result<Vec<PublishedCount>> {
        self.read(|tables| {
            let width = bucket_width(bucket);
            let mut buckets = BTreeMap::<i64, i64>::new();
            for row in tables.events.values().filter(|row| row.organisation == organisation) {
                if window.contains(row.appended_at) {
                    *buckets.entry(bucket_start(row.appended_at, width)).or_default() += 1;
                }
            }
            let count =
                |(begin, count)| PublishedCount { from: Timestamp::from_micros(begin), count };
            Ok(buckets.into_iter().map(count).collect())
        })
        .await
    }

    async fn high_water(&self) -> Result<HighWater> {
        self.read(|tables| {
            let epoch = tables.gateways.values().next().map(|row| row.stream.epoch);
            let sequences = tables.gateways.values().map(|row| row.stream.head).sum();
            Ok(HighWater { epoch, sequences })
        })
        .await
    }
}

#[async_trait]
impl Connections for MemoryStore {
    async fn open_connection(&self, connection: NewConnection) -> Result<Opened> {
        let node = self.node;
        let opened =
            self.commit(|tables, now| tables.open_connection(now, node, &connection), |_| ());
        let mut opening =
            PendingOpening { store: self, opened: opened.is_ok().then_some(connection) };
        tokio::task::yield_now().await;
        opening.opened = None;
        opened
    }

    async fn peak_connections(&self, gateway: GatewayKey, within: Duration) -> Result<usize> {
        let since = (self.database.0.clock)().minus(within);
        self.read(|tables| Ok(tables.peak_connections(gateway, since))).await
    }

    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        after: Option<ConnectionCursor>,
        limit: usize,
    ) -> Result<ConnectionPage> {
        let after = after.as_ref();
        self.read(|tables| {
            Ok(tables.list_connections(organisation, gateway, live_only, after, limit))
        })
        .await
    }

    async fn not_on_record(&self, connections: &[ConnectionId]) -> Result<Vec<ConnectionId>> {
        self.read(|tables| Ok(tables.not_on_record(connections))).await
    }

    async fn revoked_connections(&self) -> Result<Vec<RevokedConnection>> {
        self.read(|tables| Ok(tables.revoked_connections(self.node))).await
    }
}

#[async_trait]
impl Ledger for MemoryStore {
    async fn record(&self, records: Vec<Record>) -> Result<()> {
        let ended = |record: &Record| match record {
            Record::Closed { gateway, .. } => Some(*gateway),
            _ => None,
        };
        if records.is_empty() {
            return Ok(());
        }
        let hook = self.database.fault_hook();
        let records = hook.record(records);
        let recorded = self
            .write_then(
                |tables, now| tables.record(now, &records),
                |()| self.request_sweep(records.iter().filter_map(ended)),
            )
            .await;
        if hook.hides_failures() { Ok(()) } else { recorded }
    }

    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals> {
        self.read(|tables| tables.totals(organisation)).await
    }

    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>> {
        self.read(|tables| tables.event_history(organisation, id)).await
    }

    async fn rollout(&self, organisation: OrganisationKey, of: &RolloutOf) -> Result<Rollout> {
        self.read(|tables| tables.rollout(organisation, of)).await
    }

    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        self.read(|tables| tables.failed_deliveries(organisation, filter, cursor, limit)).await
    }

    async fn deliveries_by_outcome(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        self.read(|tables| tables.deliveries_by_outcome(organisation, filter, state, cursor, limit))
            .await
    }

    async fn deliveries_in_state(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryKey>,
        limit: usize,
    ) -> Result<StatePage> {
        self.read(|tables| tables.deliveries_in_state(organisation, filter, state, cursor, limit))
            .await
    }

    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>> {
        let width = bucket_width(bucket);
        self.read(|tables| tables.failure_summary(organisation, window, width, by)).await
    }

    async fn redrive(
        &self,
        actor: &Actor,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        let organisation = actor.organisation;
        let (redriven, _) = self
            .audited_then(
                actor,
                |tables, now| {
                    tables.check_key(actor)?;
                    let done = tables.redrive(now, organisation, &selection, dry_run)?;
                    let kept = KeptResult::Redriven(done.value.0.clone());
                    tables.keep_result(now, actor, kept);
                    Ok(done)
                },
                // Without rows: each lane reads them from the log.
                |(_, growth)| {
                    let mut grown = grown(growth.clone());
                    for one in &mut grown {
                        one.rows.clear();
                    }
                    self.appended(grown);
                },
            )
            .await?;
        Ok(redriven)
    }
}

#[async_trait]
impl Nodes for MemoryStore {
    async fn node_heartbeat(&self) -> Result<Heartbeat> {
        self.write(|tables, now| {
            let lost_at = tables.node_heartbeat(now, self.node);
            Ok(Heartbeat { at: now, lost_at, newer_schema: None })
        })
        .await
    }

    async fn introduce_node(&self, about: AboutNode) -> Result<()> {
        self.write(|tables, _| {
            tables.introduce_node(self.node, about);
            Ok(())
        })
        .await
    }

    async fn nodes(&self, limit: usize) -> Result<Vec<NodeInfo>> {
        let now = (self.database.0.clock)();
        self.read(|tables| Ok(tables.list_nodes(now, self.node, limit))).await
    }

    async fn reap_dead_nodes(&self) -> Result<Reaping> {
        let (reaping, _) = self
            .write_then(
                |tables, now| tables.reap_dead_nodes(now, self.node),
                |(_, gateways)| self.request_sweep(gateways.iter().copied()),
            )
            .await?;
        Ok(reaping)
    }

    fn node(&self) -> NodeId {
        self.node
    }
}

#[async_trait]
impl Maintenance for MemoryStore {
    async fn sweep_not_connected(
        &self,
        gateways: Option<&[GatewayKey]>,
        grace: Duration,
    ) -> Result<SweepResult> {
        self.write(|tables, now| tables.sweep(now, gateways, grace)).await
    }

    async fn expire(&self, mark: &mut ExpiryMark) -> Result<Expiries> {
        let mut next = *mark;
        let expired = self.write(|tables, now| tables.expire(now, &mut next)).await?;
        *mark = next;
        Ok(expired)
    }

    async fn trim(&self, limits: &RetentionLimits, mark: &mut TrimMark) -> Result<Trimmed> {
        let mut next = *mark;
        let trimmed = self.write(|tables, now| tables.trim(now, limits, &mut next)).await?;
        *mark = next;
        Ok(trimmed)
    }
}
