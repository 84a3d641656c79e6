//! The verbs: which connection, which transaction, which function.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::tokens::TokenKind;
use super::writer::{self, Command, Job};
use super::{
    SqliteStore, connections, deliveries, event_types, gateways, history, nodes, outbox, redrive,
    retention, sweep, tokens,
};
use crate::clock::Timestamp;
use crate::event::{EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence};
use crate::store::{
    AccessCredential, ConnectionInfo, DeliveryCursor, DeliveryFilter, DeliveryPage, DeploymentKey,
    EventHistory, EventTypeInfo, Gateway, GatewayChange, GatewayCredential, Labels, NewConnection,
    NewToken, Opened, OutboxPage, Publish, Published, Record, RedriveSelection, Redriven, Result,
    RetentionLimits, Scope, Store, StoreError, SummaryBy, SummaryRow, TokenInfo, Totals, Trimmed,
};

impl SqliteStore {
    /// Writes a token's use down, without making its bearer wait.
    async fn note_use(&self, kind: TokenKind, id: &str, noted: Option<Timestamp>) -> Result<()> {
        if noted.is_some_and(|noted| Timestamp::now().since(noted) < tokens::NOTED_EVERY) {
            return Ok(());
        }
        let id = id.to_owned();
        self.writer
            .send(Command::Exclusive(Box::new(move |connection| {
                Box::pin(async move {
                    let noted = writer::in_transaction(connection, move |connection, now| {
                        Box::pin(
                            async move { tokens::note_token_use(connection, now, kind, &id).await },
                        )
                    })
                    .await;
                    matches!(noted, Err(StoreError::Unknown(_)))
                })
            })))
            .await
    }
}

/// Runs a function on a reading connection, in one transaction.
macro_rules! reading {
    ($self:ident, $function:path $(, $argument:expr)*) => {{
        let mut transaction = $self.reader().await?;
        $function(&mut transaction $(, $argument)*).await
    }};
}

/// Runs a function on the writing connection, in a transaction of its own.
macro_rules! writing {
    ($self:ident, |$connection:ident, $now:ident| $work:expr) => {
        $self.write(move |$connection, $now| Box::pin(async move { $work.await })).await
    };
}

#[async_trait]
impl Store for SqliteStore {
    async fn check(&self) -> Result<()> {
        if *self.failed.borrow() {
            return Err(writer::stopped());
        }
        let mut transaction = self.reader().await?;
        sqlx::query("select 1").execute(&mut *transaction).await?;
        Ok(())
    }

    async fn close(&self) {
        self.writer.close();
        // A turn of the queue: what was taken before is done.
        let _ = self.write(|_, _| Box::pin(async { Ok(()) })).await;
        self.readers.close().await;
    }

    async fn organisation(&self, name: &str) -> Result<OrganisationKey> {
        reading!(self, tokens::organisation, name)
    }

    async fn has_access_tokens(&self) -> Result<bool> {
        reading!(self, tokens::has_access_tokens)
    }

    async fn create_access_token(
        &self,
        organisation: OrganisationKey,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo> {
        let (name, scopes) = (name.to_owned(), scopes.to_vec());
        writing!(self, |c, now| tokens::create_access_token(
            c,
            now,
            organisation,
            &name,
            &scopes,
            token
        ))
    }

    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>> {
        reading!(self, tokens::access_tokens, organisation)
    }

    async fn revoke_access_token(&self, organisation: OrganisationKey, id: &str) -> Result<()> {
        let id = id.to_owned();
        writing!(self, |c, now| tokens::revoke_access_token(c, now, organisation, &id))
    }

    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>> {
        let Some((credential, noted)) = reading!(self, tokens::access_credential, id)? else {
            return Ok(None);
        };
        self.note_use(TokenKind::Access, id, noted).await?;
        Ok(Some(credential))
    }

    async fn create_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        name: &str,
        labels: &Labels,
    ) -> Result<Gateway> {
        let (name, labels) = (name.to_owned(), labels.clone());
        writing!(self, |c, now| gateways::create_gateway(c, now, organisation, id, &name, &labels))
    }

    async fn gateways(
        &self,
        organisation: OrganisationKey,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        reading!(self, gateways::gateways, organisation, after, limit)
    }

    async fn gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<Gateway>> {
        reading!(self, gateways::gateway, organisation, id)
    }

    async fn update_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        change: GatewayChange,
    ) -> Result<Gateway> {
        writing!(self, |c, now| gateways::update_gateway(c, now, organisation, id, change))
    }

    async fn delete_gateway(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<GatewayKey> {
        writing!(self, |c, now| gateways::delete_gateway(c, now, organisation, id))
    }

    async fn set_manifest(&self, gateway: GatewayKey, manifest: &str) -> Result<()> {
        let manifest = manifest.to_owned();
        writing!(self, |c, now| gateways::set_manifest(c, now, gateway, &manifest))
    }

    async fn create_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo> {
        writing!(self, |c, now| tokens::create_gateway_token(c, now, organisation, id, token))
    }

    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>> {
        reading!(self, tokens::gateway_tokens, organisation, id)
    }

    async fn revoke_gateway_token(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        token: &str,
    ) -> Result<()> {
        let token = token.to_owned();
        writing!(self, |c, now| tokens::revoke_gateway_token(c, now, organisation, id, &token))
    }

    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>> {
        let Some((credential, noted)) = reading!(self, tokens::gateway_credential, token)? else {
            return Ok(None);
        };
        self.note_use(TokenKind::Gateway, token, noted).await?;
        Ok(Some(credential))
    }

    async fn event_types(&self, organisation: OrganisationKey) -> Result<Vec<EventTypeInfo>> {
        reading!(self, event_types::event_types, organisation)
    }

    async fn event_type(
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> Result<Option<EventTypeInfo>> {
        reading!(self, event_types::event_type, organisation, name)
    }

    async fn put_event_type(
        &self,
        organisation: OrganisationKey,
        info: &EventTypeInfo,
    ) -> Result<bool> {
        let info = info.clone();
        writing!(self, |c, now| event_types::put_event_type(c, now, organisation, &info))
    }

    async fn append(&self, publish: Publish) -> Result<Published> {
        self.check_space()?;
        self.writer.append(publish).await
    }

    async fn read(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage> {
        reading!(self, outbox::read, gateway, after, limit, max_bytes)
    }

    async fn open_connection(&self, connection: NewConnection) -> Result<Opened> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(Command::Grouped(Job::Open { connection, reply })).await?;
        answer.await.map_err(|_| writer::stopped())?
    }

    async fn record(&self, records: Vec<Record>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(Command::Grouped(Job::Record { records, reply })).await?;
        answer.await.map_err(|_| writer::stopped())?
    }

    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<(Sequence, Option<Timestamp>)>> {
        reading!(self, outbox::find_deployment, gateway, key)
    }

    async fn connections(
        &self,
        organisation: OrganisationKey,
        gateway: Option<GatewayId>,
        live_only: bool,
        limit: usize,
    ) -> Result<Vec<ConnectionInfo>> {
        reading!(self, connections::connections, organisation, gateway, live_only, limit)
    }

    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals> {
        reading!(self, history::totals, organisation)
    }

    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>> {
        reading!(self, history::event_history, organisation, id)
    }

    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        reading!(self, deliveries::failed_deliveries, organisation, filter, cursor, limit)
    }

    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>> {
        reading!(self, deliveries::summary::failure_summary, organisation, from, to, bucket, by)
    }

    async fn redrive(
        &self,
        organisation: OrganisationKey,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        let (redriven, heads) =
            writing!(self, |c, now| redrive::redrive(c, now, organisation, selection, dry_run))?;
        for (gateway, head) in heads {
            self.wake.appended(gateway, crate::wake::Hint { head, rows: [].into() });
        }
        Ok(redriven)
    }

    async fn node_heartbeat(&self) -> Result<()> {
        let node = self.node;
        writing!(self, |c, now| nodes::node_heartbeat(c, now, node))
    }

    async fn reap_dead_nodes(&self) -> Result<u64> {
        let node = self.node;
        writing!(self, |c, now| nodes::reap_dead_nodes(c, now, node))
    }

    async fn sweep_not_connected(&self, gateways: Option<&[GatewayKey]>) -> Result<u64> {
        let (node, gateways) = (self.node, gateways.map(<[_]>::to_vec));
        writing!(self, |c, now| sweep::sweep_not_connected(c, now, node, gateways))
    }

    async fn trim(&self, limits: &RetentionLimits) -> Result<Trimmed> {
        let (node, limits) = (self.node, *limits);
        writing!(self, |c, now| retention::trim(c, now, node, limits))
    }

    fn node(&self) -> NodeId {
        self.node
    }
}
