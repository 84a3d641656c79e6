//! The operations on the inbox.

use async_trait::async_trait;
use gateway_events::event::OrganisationKey;
use gateway_events::store::{
    Actor, Drained, EditedRow, Inbox, InboxDepth, InboxRow, NewEvent, RejectedContent,
    RejectedEdit, RejectedFilter, RejectedRow, Rejection, Result, Retried, RetrySelection,
    Retryable, StoreError, ValidatedRow,
};

use super::MemoryStore;
use super::append::grown;

#[async_trait]
impl Inbox for MemoryStore {
    async fn inbox_changed(&self) -> Result<()> {
        let waited = self.closed.run_until_cancelled(async {
            let mut seen = self.inbox.lock().await;
            match seen.as_mut() {
                // The sender lives as long as the database.
                Some(versions) => drop(versions.changed().await),
                None => *seen = Some(self.database.0.inbox.subscribe()),
            }
        });
        waited.await.ok_or_else(|| StoreError::Unavailable("the database is closed".to_owned()))
    }

    async fn inbox_page(&self, limit: usize, max_bytes: usize) -> Result<Vec<InboxRow>> {
        self.read(|tables| Ok(tables.inbox_page(limit, max_bytes))).await
    }

    async fn drain_inbox(&self, rows: Vec<ValidatedRow>) -> Result<Drained> {
        self.check_space()?;
        let (drained, _) = self
            .write_then(
                |tables, now| Ok(tables.drain_inbox(now, rows)),
                |(_, growth)| self.appended(grown(growth.clone())),
            )
            .await?;
        Ok(drained)
    }

    async fn inbox_depth(&self, limit: u32) -> Result<InboxDepth> {
        self.read(|tables| Ok(tables.inbox_depth(limit))).await
    }

    async fn rejected(
        &self,
        organisation: OrganisationKey,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<RejectedRow>> {
        self.read(|tables| Ok(tables.list_rejected(organisation, filter, before, limit))).await
    }

    async fn rejected_row(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_chars: usize,
    ) -> Result<Option<(RejectedRow, String)>> {
        self.read(|tables| Ok(tables.rejected_row(organisation, id, max_chars))).await
    }

    async fn retry_rejected(&self, actor: &Actor, selection: RetrySelection) -> Result<Retried> {
        let organisation = actor.organisation;
        self.audited_then(
            actor,
            |tables, now| tables.retry_rejected(now, organisation, selection),
            |_| self.database.0.inbox.send_modify(|version| *version += 1),
        )
        .await
    }

    async fn retryable(
        &self,
        organisation: OrganisationKey,
        selection: RetrySelection,
    ) -> Result<Retryable> {
        self.read(|tables| tables.retryable(organisation, selection)).await
    }

    async fn would_publish(
        &self,
        organisation: OrganisationKey,
        event: NewEvent,
    ) -> Result<std::result::Result<usize, Rejection>> {
        self.read(|tables| {
            let would = tables.would_append(organisation, &event);
            Ok(would.map(|(_, gateways)| gateways.len()).map_err(Rejection::from))
        })
        .await
    }

    async fn rejected_content(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_bytes: usize,
    ) -> Result<Option<RejectedContent>> {
        self.read(|tables| Ok(tables.rejected_content(organisation, id, max_bytes))).await
    }

    async fn edit_rejected(
        &self,
        actor: &Actor,
        edit: RejectedEdit,
        dry_run: bool,
    ) -> Result<EditedRow> {
        self.check_space()?;
        let organisation = actor.organisation;
        let (edited, _) = self
            .audited_then(
                actor,
                |tables, now| tables.edit_rejected(now, organisation, edit, dry_run),
                |(_, growth)| self.appended(grown(growth.clone())),
            )
            .await?;
        Ok(edited)
    }

    async fn delete_rejected(&self, actor: &Actor, id: i64) -> Result<()> {
        self.audited(actor, |tables, _| tables.delete_rejected(actor.organisation, id)).await
    }
}
