//! The verbs: each one's statements, by the side of the database that it needs.

use std::time::Duration;

use async_trait::async_trait;

use super::sides::{ask, look, read, write};
use super::{
    Backend, browse, connections, deliveries, dialect, event_types, expiry, gateways, history,
    nodes, retention, stream, sweep, tokens,
};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence,
};
use crate::store::{
    AboutNode, AccessCredential, ConnectionCursor, ConnectionPage, Deleted, DeliveryCursor,
    DeliveryFilter, DeliveryPage, DeploymentKey, DeploymentMatch, EventHistory, EventTypeInfo,
    Expiries, ExpiryMark, Gateway, GatewayChange, GatewayCredential, Heartbeat, Labels, LogPage,
    LogSpan, NewConnection, NewToken, NodeInfo, Opened, OutboxPage, Publish, Published, Reaping,
    Record, RedriveSelection, Redriven, Result, RetentionLimits, Scope, ShutOut, Store, StoreError,
    SummaryBy, SummaryRow, Swept, TokenInfo, TokenKind, Totals, TrimMark, Trimmed,
};

#[async_trait]
impl Store for Backend {
    async fn check(&self) -> Result<()> {
        if let Some(reason) = self.writer.failure().borrow().as_ref() {
            return Err(StoreError::Unavailable(format!(
                "a commit failed ({reason}); restart the service"
            )));
        }
        if !self.writer.is_running() {
            return Err(StoreError::Unavailable("the database is closed".to_owned()));
        }
        self.writer.check_progress()?;
        self.check_health().await
    }

    async fn has_room(&self) -> bool {
        self.check_space().is_ok()
    }

    async fn close(&self) {
        let node = self.node;
        let stopped: Result<()> =
            write!(self, connection, now => nodes::stopped(connection, now, node));
        if let Err(error) = stopped {
            tracing::warn!(%error, "this node's end could not be put on record");
        }
        self.shut().await;
    }

    async fn organisation(&self, name: &str) -> Result<OrganisationKey> {
        let name = name.to_owned();
        look!(self, connection => tokens::organisation(connection, &name))
    }

    async fn has_access_tokens(&self) -> Result<bool> {
        look!(self, connection => tokens::has_access_tokens(connection))
    }

    async fn create_access_token(
        &self,
        organisation: OrganisationKey,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo> {
        let (name, scopes) = (name.to_owned(), scopes.to_vec());
        write!(self, connection, now => tokens::create_access_token(connection, now, organisation, &name, &scopes, token))
    }

    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>> {
        ask!(self, connection => tokens::access_tokens(connection, organisation))
    }

    async fn revoke_access_token(&self, organisation: OrganisationKey, id: &str) -> Result<()> {
        let id = id.to_owned();
        write!(self, connection, now => tokens::revoke_access_token(connection, now, organisation, &id))
    }

    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>> {
        let id = id.to_owned();
        look!(self, connection => tokens::access_credential(connection, &id))
    }

    fn note_use(&self, kind: TokenKind, id: &str, last_used_at: Option<Timestamp>) {
        if last_used_at.is_some_and(|at| Timestamp::now().since(at) < tokens::NOTED_EVERY) {
            return;
        }
        let id = id.to_owned();
        self.writer.run_unheard(move |connection, now| {
            Box::pin(async move { tokens::note_token_use(connection, now, kind, &id).await })
        });
    }

    async fn create_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        name: &str,
        labels: &Labels,
        replicas: i64,
    ) -> Result<Gateway> {
        let (name, labels) = (name.to_owned(), labels.clone());
        write!(self, connection, now => gateways::create_gateway(connection, now, organisation, id, &name, &labels, replicas))
    }

    async fn gateways(
        &self,
        organisation: OrganisationKey,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        let after = after.map(str::to_owned);
        ask!(self, connection => gateways::gateways(connection, organisation, after.as_deref(), limit))
    }

    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>> {
        ask!(self, connection => gateways::gateway(connection, organisation, id))
    }

    async fn update_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway> {
        write!(self, connection, now => gateways::update_gateway(connection, now, organisation, id, change))
    }

    async fn delete_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Deleted> {
        let node = self.node;
        write!(self, connection, now => gateways::delete_gateway(connection, now, node, organisation, id))
    }

    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()> {
        let manifest = manifest.to_owned();
        write!(self, connection, now => gateways::set_manifest(connection, now, gateway, &manifest))
    }

    fn note_refusal(&self, gateway: GatewayKey, code: &str, address: &str) {
        let (code, address) = (code.to_owned(), address.to_owned());
        self.writer.run_unheard(move |connection, now| {
            Box::pin(async move {
                gateways::note_refusal(connection, now, gateway, &code, &address).await
            })
        });
    }

    async fn create_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo> {
        write!(self, connection, now => tokens::create_gateway_token(connection, now, organisation, id, token))
    }

    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>> {
        ask!(self, connection => tokens::gateway_tokens(connection, organisation, id))
    }

    async fn revoke_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: &str,
    ) -> Result<()> {
        let token = token.to_owned();
        write!(self, connection, now => tokens::revoke_gateway_token(connection, now, organisation, id, &token))
    }

    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>> {
        let token = token.to_owned();
        look!(self, connection => tokens::gateway_credential(connection, &token))
    }

    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>> {
        ask!(self, connection => event_types::event_types(connection, organisation))
    }

    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>> {
        let name = name.clone();
        look!(self, connection => event_types::event_type(connection, organisation, &name))
    }

    async fn put_event_type(
        &self,
        organisation: OrganisationKey,
        info: &EventTypeInfo,
    ) -> Result<bool> {
        let info = info.clone();
        write!(self, connection, now => event_types::put_event_type(connection, now, organisation, &info))
    }

    async fn append(&self, publish: Publish) -> Result<Published> {
        self.writer.append(publish).await
    }

    async fn read(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage> {
        look!(self, connection => stream::read(connection, gateway, after, limit, max_bytes))
    }

    async fn open_connection(&self, connection: NewConnection) -> Result<Opened> {
        self.writer.open(connection).await
    }

    async fn peak_connections(&self, gateway: GatewayKey, within: Duration) -> Result<usize> {
        look!(self, connection => connections::peak(connection, gateway, within))
    }

    async fn record(&self, records: Vec<Record>) -> Result<()> {
        self.writer.record(records).await
    }

    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<DeploymentMatch>> {
        let key = key.clone();
        look!(self, connection => stream::find_deployment(connection, gateway, &key))
    }

    async fn gateway_log(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>> {
        ask!(self, connection => browse::gateway_log(connection, organisation, id, span))
    }

    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        after: Option<ConnectionCursor>,
        limit: usize,
    ) -> Result<ConnectionPage> {
        ask!(self, connection => connections::list(connection, organisation, gateway, live_only, after, limit))
    }

    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals> {
        ask!(self, connection => history::totals(connection, organisation))
    }

    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>> {
        let id = id.clone();
        ask!(self, connection => history::event_history(connection, organisation, &id))
    }

    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let filter = filter.clone();
        ask!(self, connection => deliveries::failed_deliveries(connection, organisation, &filter, cursor, limit))
    }

    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>> {
        ask!(self, connection => deliveries::summary::failure_summary(connection, organisation, from, to, bucket, by))
    }

    async fn redrive(
        &self,
        organisation: OrganisationKey,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        self.run_redrive(organisation, selection, dry_run).await
    }

    async fn node_heartbeat(&self) -> Result<Heartbeat> {
        let node = self.node;
        let beat = self.promptly(move |connection, now| {
            Box::pin(async move {
                let lost_at = nodes::heartbeat(connection, now, node).await?;
                let newer_schema = nodes::newer_schema(connection).await?;
                Ok(Heartbeat { at: now, lost_at, newer_schema })
            })
        });
        beat.await
    }

    async fn introduce_node(&self, about: AboutNode) -> Result<()> {
        let node = self.node;
        write!(self, connection, _now => nodes::introduce(connection, node, &about))
    }

    async fn nodes(&self, limit: usize) -> Result<Vec<NodeInfo>> {
        let (node, timeout) = (self.node, self.node_timeout());
        ask!(self, connection => nodes::list(connection, node, timeout, limit))
    }

    async fn reap_dead_nodes(&self) -> Result<Reaping> {
        let (node, timeout, wake) = (self.node, self.node_timeout(), self.wake.clone());
        let (reaped, _) = self
            .writer
            .run_then(
                move |connection, now| Box::pin(nodes::reap(connection, now, node, timeout)),
                move |(_, gateways)| gateways.iter().for_each(|gateway| wake.unserved(*gateway)),
            )
            .await?;
        Ok(reaped)
    }

    async fn not_on_record(&self, connections: &[ConnectionId]) -> Result<Vec<ConnectionId>> {
        let ids = connections.to_vec();
        let asked = self.promptly(move |connection, _| {
            Box::pin(async move { dialect::not_on_record(connection, &ids).await })
        });
        asked.await
    }

    async fn shut_out(&self) -> Result<Vec<ShutOut>> {
        let node = self.node;
        // Not behind others: who is shut out must be gone within a second.
        self.promptly(move |connection, _| Box::pin(connections::shut_out(connection, node))).await
    }

    async fn sweep_not_connected(
        &self,
        gateways: Option<&[GatewayKey]>,
        grace: Duration,
    ) -> Result<Swept> {
        let (node, gateways) = (self.node, gateways.map(<[GatewayKey]>::to_vec));
        write!(self, connection, now => sweep::sweep_not_connected(connection, now, node, gateways.as_deref(), grace))
    }

    async fn expire(&self, mark: &mut ExpiryMark) -> Result<Expiries> {
        let (node, from) = (self.node, *mark);
        let due = read!(self, connection => expiry::due(connection, from))?;
        let next = due.next;
        let answer = if due.is_nothing() {
            Expiries { expired: Vec::new(), more: due.more }
        } else {
            write!(self, connection, now => expiry::expire(connection, now, node, due))?
        };
        *mark = next;
        Ok(answer)
    }

    async fn trim(&self, limits: &RetentionLimits, mark: &mut TrimMark) -> Result<Trimmed> {
        let (node, limits, from) = (self.node, *limits, *mark);
        let (trimmed, next) =
            write!(self, connection, now => retention::trim(connection, now, node, &limits, from))?;
        *mark = next;
        Ok(trimmed)
    }

    fn node(&self) -> NodeId {
        self.node
    }
}
