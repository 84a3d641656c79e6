//! The inbox. Other programs commit to it; a reader looks, and the writer
//! moves, so that an event has its numbers from the same hand whichever way it
//! came.

use async_trait::async_trait;

use super::Backend;
use super::sides::{ask, read, write};
use crate::event::OrganisationKey;
use crate::store::{
    Drained, Inbox, InboxDepth, InboxRow, JudgedRow, RejectedFilter, RejectedRow, Result, Retried,
    RetrySelection,
};
use crate::wake::Hint;

mod drain;
mod page;
pub(crate) mod rejected;

/// A row whose size is known, and nothing else of it.
pub(crate) struct Sized {
    pub(crate) id: i64,
    pub(crate) inserted_at: crate::clock::Timestamp,
    pub(crate) bytes: i64,
}

/// A row that is where it can't be.
pub(crate) struct Misplaced {
    pub(crate) id: i64,
    pub(crate) event_type: Vec<u8>,
}

#[async_trait]
impl Inbox for Backend {
    async fn inbox_changed(&self) -> Result<()> {
        self.watch_inbox().await
    }

    async fn inbox_page(&self, limit: usize, max_bytes: usize) -> Result<Vec<InboxRow>> {
        read!(self, connection => page::page(connection, limit, max_bytes))
    }

    async fn drain_inbox(&self, rows: Vec<JudgedRow>) -> Result<Drained> {
        self.check_space()?;
        let wake = self.wake.clone();
        let (drained, _) = self
            .writer
            .run_then(
                move |connection, _| Box::pin(async move { drain::drain(connection, rows).await }),
                move |(_, grown)| {
                    for grown in grown {
                        let rows = grown.rows.clone().into();
                        wake.appended(grown.gateway, Hint { head: grown.head, rows });
                    }
                },
            )
            .await?;
        Ok(drained)
    }

    async fn inbox_depth(&self) -> Result<InboxDepth> {
        ask!(self, connection => page::depth(connection))
    }

    async fn rejected(
        &self,
        organisation: OrganisationKey,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<RejectedRow>> {
        let filter = filter.clone();
        ask!(self, connection => rejected::list(connection, organisation, &filter, before, limit))
    }

    async fn rejected_row(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_chars: usize,
    ) -> Result<Option<(RejectedRow, String)>> {
        ask!(self, connection => rejected::show(connection, organisation, id, max_chars))
    }

    async fn retry_rejected(
        &self,
        organisation: OrganisationKey,
        selection: RetrySelection,
    ) -> Result<Retried> {
        write!(self, connection, now => rejected::retry(connection, now, organisation, selection))
    }

    async fn delete_rejected(&self, organisation: OrganisationKey, id: i64) -> Result<()> {
        write!(self, connection, _now => rejected::delete(connection, organisation, id))
    }
}
