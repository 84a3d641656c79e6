//! The inbox in the file. Another process commits to it; a connection of its
//! own notices, a reader looks, and the one writer moves, so that an event has
//! its numbers from the same hand whichever way it came.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Options, SqliteStore, now, open};
use crate::event::OrganisationKey;
use crate::store::{
    Drained, Inbox as Verbs, InboxDepth, InboxRow, JudgedRow, RejectedFilter, RejectedRow, Result,
    Retried, RetrySelection, StoreError,
};
use crate::wake::Hint;

mod drain;
mod page;
mod rejected;
mod watch;

pub(super) use rejected::forget_rejected;

/// What the inbox needs besides the connections of all verbs.
#[derive(Debug)]
pub(super) struct Inbox {
    path: PathBuf,
    min_free_bytes: u64,
    watch: watch::Watch,
}

impl Inbox {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            path: options.path.clone(),
            min_free_bytes: options.min_free_bytes,
            watch: watch::Watch::new(options.path.clone()),
        }
    }

    /// Ends the watching, so that the writer's connection is the last to close.
    pub(super) async fn close(&self) {
        self.watch.close().await;
    }

    /// Moving is publishing: rows wait in the inbox until there is space.
    fn check_space(&self) -> Result<()> {
        match open::free_bytes(&self.path) {
            Some(free) if free < self.min_free_bytes => Err(StoreError::StorageFull),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Verbs for SqliteStore {
    async fn inbox_changed(&self) -> Result<()> {
        self.inbox.watch.changed().await
    }

    async fn inbox_page(&self, limit: usize, max_bytes: usize) -> Result<Vec<InboxRow>> {
        page::page(&mut *self.reading().await?, limit, max_bytes).await
    }

    async fn drain_inbox(&self, rows: Vec<JudgedRow>) -> Result<Drained> {
        self.inbox.check_space()?;
        let wake = self.wake.clone();
        let (drained, _) = self
            .writer
            .run_then(
                move |connection| {
                    Box::pin(async move { drain::drain(connection, now(), rows).await })
                },
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
        page::depth(&mut *self.reading().await?).await
    }

    async fn rejected(
        &self,
        organisation: OrganisationKey,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<RejectedRow>> {
        rejected::list(&mut *self.reading().await?, organisation, filter, before, limit).await
    }

    async fn rejected_row(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_chars: usize,
    ) -> Result<Option<(RejectedRow, String)>> {
        rejected::show(&mut *self.reading().await?, organisation, id, max_chars).await
    }

    async fn retry_rejected(
        &self,
        organisation: OrganisationKey,
        selection: RetrySelection,
    ) -> Result<Retried> {
        self.writer
            .run(move |connection| {
                Box::pin(async move {
                    rejected::retry(connection, now(), organisation, selection).await
                })
            })
            .await
    }

    async fn delete_rejected(&self, organisation: OrganisationKey, id: i64) -> Result<()> {
        self.writer
            .run(move |connection| {
                Box::pin(async move { rejected::delete(connection, organisation, id).await })
            })
            .await
    }
}
