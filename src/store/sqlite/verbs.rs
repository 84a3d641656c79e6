//! The verbs, and which side of the file each one needs: a reader's moment or
//! the writer's next transaction.

use std::time::Duration;

use async_trait::async_trait;

use super::tokens::TokenKind;
use super::{
    OpenError, SqliteStore, connections, deliveries, event_types, gateways, history, now, open,
    redrive, retention, stream, sweep, tokens,
};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence};
use crate::store::{
    AccessCredential, ConnectionInfo, DeliveryCursor, DeliveryFilter, DeliveryPage, DeploymentKey,
    EventHistory, EventTypeInfo, Gateway, GatewayChange, GatewayCredential, Labels, Missed,
    NewConnection, NewToken, Opened, OutboxPage, Publish, Published, Reaped, Record,
    RedriveSelection, Redriven, Result, RetentionLimits, Scope, Store, StoreError, SummaryBy,
    SummaryRow, TokenInfo, Totals, Trimmed,
};
use crate::wake::Hint;

/// How often a token's use is noted.
const NOTED_EVERY: Duration = Duration::from_mins(1);

/// Runs a verb's statements as the writer's next transaction.
macro_rules! write {
    ($store:ident, $connection:ident => $work:expr) => {
        $store.writer.run(move |$connection| Box::pin(async move { $work.await })).await
    };
}

impl SqliteStore {
    /// What is due right after opening.
    pub(super) async fn begin(&self) -> std::result::Result<(), OpenError> {
        let begun = self.node_heartbeat().await;
        begun.map_err(|error| OpenError::Database(sqlx::Error::Protocol(error.to_string())))
    }

    /// Notes a token's use, if that is due, without making its user wait.
    fn note_use(&self, kind: TokenKind, id: &str, last: Option<Timestamp>) {
        let now = now();
        if last.is_some_and(|last| now.since(last) < NOTED_EVERY) {
            return;
        }
        let id = id.to_owned();
        self.writer.run_unheard(move |connection| {
            Box::pin(async move { tokens::note_token_use(connection, now, kind, &id).await })
        });
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn check(&self) -> Result<()> {
        if let Some(reason) = self.writer.failure().borrow().as_ref() {
            return Err(StoreError::Unavailable(format!(
                "a commit failed ({reason}); restart the service"
            )));
        }
        if !self.writer.is_running() {
            return Err(StoreError::Unavailable("the database is closed".to_owned()));
        }
        let mut moment = self.reading().await?;
        sqlx::query!(r#"select 1 as "one!: i64""#).fetch_one(&mut *moment).await?;
        Ok(())
    }

    async fn has_room(&self) -> bool {
        let free = open::free_bytes(&self.options.path);
        free.is_none_or(|free| free >= self.options.min_free_bytes)
    }

    async fn close(&self) {
        let node = self.node;
        let stopped: Result<()> =
            write!(self, connection => connections::node_stopped(connection, now(), node));
        if let Err(error) = stopped {
            tracing::warn!(%error, "this node's end could not be put on record");
        }
        self.readers.close().await;
        self.writer.stop().await;
    }

    async fn organisation(&self, name: &str) -> Result<OrganisationKey> {
        tokens::organisation(&mut *self.reading().await?, name).await
    }

    async fn has_access_tokens(&self) -> Result<bool> {
        tokens::has_access_tokens(&mut *self.reading().await?).await
    }

    async fn create_access_token(
        &self,
        organisation: OrganisationKey,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo> {
        let (name, scopes) = (name.to_owned(), scopes.to_vec());
        write!(self, connection => tokens::create_access_token(connection, now(), organisation, &name, &scopes, token))
    }

    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>> {
        tokens::access_tokens(&mut *self.reading().await?, organisation).await
    }

    async fn revoke_access_token(&self, organisation: OrganisationKey, id: &str) -> Result<()> {
        let id = id.to_owned();
        write!(self, connection => tokens::revoke_access_token(connection, now(), organisation, &id))
    }

    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>> {
        let found = tokens::access_credential(&mut *self.reading().await?, id).await?;
        Ok(found.map(|(credential, last)| {
            self.note_use(TokenKind::Access, id, last);
            credential
        }))
    }

    async fn create_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        name: &str,
        labels: &Labels,
    ) -> Result<Gateway> {
        let (name, labels) = (name.to_owned(), labels.clone());
        write!(self, connection => gateways::create_gateway(connection, now(), organisation, id, &name, &labels))
    }

    async fn gateways(
        &self,
        organisation: OrganisationKey,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        gateways::gateways(&mut *self.reading().await?, organisation, after, limit).await
    }

    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>> {
        gateways::gateway(&mut *self.reading().await?, organisation, id).await
    }

    async fn update_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway> {
        write!(self, connection => gateways::update_gateway(connection, now(), organisation, id, change))
    }

    async fn delete_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<GatewayKey> {
        write!(self, connection => gateways::delete_gateway(connection, now(), organisation, id))
    }

    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()> {
        let manifest = manifest.to_owned();
        write!(self, connection => gateways::set_manifest(connection, now(), gateway, &manifest))
    }

    async fn create_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo> {
        write!(self, connection => tokens::create_gateway_token(connection, now(), organisation, id, token))
    }

    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>> {
        tokens::gateway_tokens(&mut *self.reading().await?, organisation, id).await
    }

    async fn revoke_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: &str,
    ) -> Result<()> {
        let token = token.to_owned();
        write!(self, connection => tokens::revoke_gateway_token(connection, now(), organisation, id, &token))
    }

    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>> {
        let found = tokens::gateway_credential(&mut *self.reading().await?, token).await?;
        Ok(found.map(|(credential, last)| {
            self.note_use(TokenKind::Gateway, token, last);
            credential
        }))
    }

    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>> {
        event_types::event_types(&mut *self.reading().await?, organisation).await
    }

    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>> {
        event_types::event_type(&mut *self.reading().await?, organisation, name).await
    }

    async fn put_event_type(
        &self,
        organisation: OrganisationKey,
        info: &EventTypeInfo,
    ) -> Result<bool> {
        let info = info.clone();
        write!(self, connection => event_types::put_event_type(connection, now(), organisation, &info))
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
        stream::read(&mut *self.reading().await?, gateway, after, limit, max_bytes).await
    }

    async fn open_connection(&self, connection: NewConnection) -> Result<Opened> {
        self.writer.open(connection).await
    }

    async fn record(&self, records: Vec<Record>) -> Result<()> {
        self.writer.record(records).await
    }

    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<(Sequence, Option<Timestamp>)>> {
        stream::find_deployment(&mut *self.reading().await?, gateway, key).await
    }

    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        limit: usize,
    ) -> Result<Vec<ConnectionInfo>> {
        let moment = &mut *self.reading().await?;
        connections::connections(moment, organisation, gateway, live_only, limit).await
    }

    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals> {
        history::totals(&mut *self.reading().await?, organisation).await
    }

    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>> {
        history::event_history(&mut *self.reading().await?, organisation, id).await
    }

    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let moment = &mut *self.reading().await?;
        deliveries::failed_deliveries(moment, organisation, filter, cursor, limit).await
    }

    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>> {
        let moment = &mut *self.reading().await?;
        deliveries::summary::failure_summary(moment, organisation, from, to, bucket, by).await
    }

    async fn redrive(
        &self,
        organisation: OrganisationKey,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        let wake = self.wake.clone();
        let (redriven, _) = self
            .writer
            .run_then(
                move |connection| {
                    Box::pin(async move {
                        redrive::redrive(connection, now(), organisation, selection, dry_run).await
                    })
                },
                move |(_, heads)| {
                    // Without rows: each lane reads them from the log.
                    for (gateway, head) in heads {
                        wake.appended(*gateway, Hint { head: *head, rows: [].into() });
                    }
                },
            )
            .await?;
        Ok(redriven)
    }

    async fn node_heartbeat(&self) -> Result<()> {
        let node = self.node;
        write!(self, connection => connections::node_heartbeat(connection, now(), node))
    }

    async fn reap_dead_nodes(&self) -> Result<Vec<Reaped>> {
        let (node, wake) = (self.node, self.wake.clone());
        let (reaped, _) = self
            .writer
            .run_then(
                move |connection| {
                    Box::pin(
                        async move { connections::reap_dead_nodes(connection, now(), node).await },
                    )
                },
                move |(_, gateways)| gateways.iter().for_each(|gateway| wake.unserved(*gateway)),
            )
            .await?;
        Ok(reaped)
    }

    async fn sweep_not_connected(&self, gateways: Option<&[GatewayKey]>) -> Result<Vec<Missed>> {
        let (node, gateways) = (self.node, gateways.map(<[GatewayKey]>::to_vec));
        write!(self, connection => sweep::sweep_not_connected(connection, now(), node, gateways.as_deref()))
    }

    async fn trim(&self, limits: &RetentionLimits) -> Result<Trimmed> {
        let (node, limits) = (self.node, *limits);
        write!(self, connection => retention::trim(connection, now(), node, &limits))
    }

    fn node(&self) -> NodeId {
        self.node
    }
}
