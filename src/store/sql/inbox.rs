//! The inbox. Other programs insert into it. A reader selects rows, and the writer moves them, so
//! that sequences are assigned in one place however an event is published.

use async_trait::async_trait;

use super::Backend;
use super::access::{Access, run};
use super::audit::audited;
use super::dialect::InboxStatements as _;
use crate::event::OrganisationKey;
use crate::store::{
    Actor, Drained, EditedRow, Inbox, InboxDepth, InboxRow, NewEvent, RejectedContent,
    RejectedEdit, RejectedFilter, RejectedRow, Rejection, Result, Retried, RetrySelection,
    Retryable, ValidatedRow,
};
use crate::wake::Hint;

mod drain;
mod edit;
mod page;
pub(crate) mod rejected;

#[async_trait]
impl Inbox for Backend {
    async fn inbox_changed(&self) -> Result<()> {
        self.watch_inbox().await
    }

    async fn inbox_page(&self, limit: usize, max_bytes: usize) -> Result<Vec<InboxRow>> {
        run!(self.snapshot, |conn| page::page(conn, limit, max_bytes))
    }

    async fn drain_inbox(&self, rows: Vec<ValidatedRow>) -> Result<Drained> {
        self.check_space()?;
        let wake = self.wake.clone();
        let (drained, _) = self
            .writer
            .run_then(
                move |conn, _| Box::pin(async move { drain::drain(conn, rows).await }),
                move |(_, grown)| {
                    for grown in grown {
                        let rows = grown.rows.clone();
                        wake.appended(grown.gateway, Hint::new(grown.head, rows));
                    }
                },
            )
            .await?;
        Ok(drained)
    }

    async fn inbox_depth(&self, limit: u32) -> Result<InboxDepth> {
        run!(self.query, |conn| page::depth(conn, limit))
    }

    async fn rejected(
        &self,
        organisation: OrganisationKey,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<RejectedRow>> {
        let filter = filter.clone();
        run!(self.query, |conn| rejected::list(conn, organisation, &filter, before, limit))
    }

    async fn rejected_row(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_chars: usize,
    ) -> Result<Option<(RejectedRow, String)>> {
        run!(self.query, |conn| rejected::show(conn, organisation, id, max_chars))
    }

    async fn retry_rejected(&self, actor: &Actor, selection: RetrySelection) -> Result<Retried> {
        let organisation = actor.organisation;
        audited!(self, actor, |conn, now| rejected::retry(conn, now, organisation, selection))
    }

    async fn retryable(
        &self,
        organisation: OrganisationKey,
        selection: RetrySelection,
    ) -> Result<Retryable> {
        // The statement locks the rows, which only the writer may do.
        run!(self.write_tx, |conn, _now| rejected::retryable(conn, organisation, selection))
    }

    async fn would_publish(
        &self,
        organisation: OrganisationKey,
        event: NewEvent,
    ) -> Result<std::result::Result<usize, Rejection>> {
        run!(self.query, |conn| rejected::would_publish(conn, organisation, event))
    }

    async fn rejected_content(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_bytes: usize,
    ) -> Result<Option<RejectedContent>> {
        let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        self.query(move |conn| {
            Box::pin(async move { conn.rejected_content(organisation, id, max_bytes).await })
        })
        .await
    }

    async fn edit_rejected(
        &self,
        actor: &Actor,
        edit: RejectedEdit,
        dry_run: bool,
    ) -> Result<EditedRow> {
        self.check_space()?;
        let (wake, organisation) = (self.wake.clone(), actor.organisation);
        let (edited, _) = self
            .audited_tx_then(
                actor,
                move |conn, now| Box::pin(edit::edit(conn, now, organisation, edit, dry_run)),
                move |(_, grown)| {
                    for grown in grown {
                        let rows = grown.rows.clone();
                        wake.appended(grown.gateway, Hint::new(grown.head, rows));
                    }
                },
            )
            .await?;
        Ok(edited)
    }

    async fn delete_rejected(&self, actor: &Actor, id: i64) -> Result<()> {
        let organisation = actor.organisation;
        audited!(self, actor, |conn, _now| rejected::delete(conn, organisation, id))
    }
}
