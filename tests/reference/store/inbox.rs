//! The inbox, and its rejected rows.

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::OrganisationKey;
use gateway_events::store::audit::entries;
use gateway_events::store::limits::{MAX_DELIVERIES, RETRIED};
use gateway_events::store::{
    Actor, Audited, Conflict, Drained, EditedRow, Inbox, InboxContent, InboxDepth, InboxRow,
    NewEvent, Publish, Published, RejectedContent, RejectedEdit, RejectedFilter, RejectedRow,
    Rejection, Result, Retried, RetrySelection, Retryable, StoreError, Unreadable, ValidatedRow,
};

use super::MemoryStore;
use super::append::{Growth, grown};
use super::tables::{Inserted, RejectedRow as Row, Tables, next};

/// The number of characters returned of a column.
const SHOWN: usize = 4096;

const MISSING: StoreError = StoreError::NotFound("rejected row");

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

impl Tables {
    pub(super) fn insert_into_inbox(&mut self, now: Timestamp, content: InboxContent) {
        let id = next(&mut self.last.inbox);
        self.inbox.insert(id, Inserted { content, inserted_at: now });
    }

    /// The oldest rows, up to `limit` and about `max_bytes`, but at least one.
    pub(super) fn inbox_page(&self, limit: usize, max_bytes: usize) -> Vec<InboxRow> {
        let mut rows = Vec::new();
        let mut left = max_bytes;
        for (id, row) in self.inbox.iter().take(limit) {
            let bytes = size(&row.content);
            let content = if bytes > max_bytes {
                Err(Unreadable::TooLarge(bytes as u64))
            } else if let Some(rest) = left.checked_sub(bytes) {
                left = rest;
                Ok(row.content.clone())
            } else {
                break;
            };
            rows.push(InboxRow { id: *id, inserted_at: row.inserted_at, content });
        }
        rows
    }

    pub(super) fn inbox_depth(&self, limit: u32) -> InboxDepth {
        InboxDepth {
            rows: u32::try_from(self.inbox.len()).unwrap_or(u32::MAX).min(limit),
            oldest: self.inbox.values().next().map(|row| row.inserted_at),
        }
    }

    /// Moves rows, in this order. Skips rows that no longer exist; rows that would exceed the
    /// limits of one transaction stay.
    pub(super) fn drain_inbox(
        &mut self,
        now: Timestamp,
        rows: Vec<ValidatedRow>,
    ) -> (Drained, Growth) {
        let mut drained = Drained::default();
        let mut growth = Growth::new();
        let mut deliveries = 0;
        let there: Vec<_> =
            rows.into_iter().filter(|row| self.inbox.contains_key(&row.id)).collect();
        for (nth, row) in there.into_iter().enumerate() {
            deliveries += row.result.as_ref().map_or(0, |(of, new)| self.count(*of, &new.target));
            if deliveries > MAX_DELIVERIES && nth > 0 {
                break;
            }
            let (organisation, event) = match row.result {
                Ok(good) => good,
                Err(rejection) => {
                    drained.rejected.push((row.id, rejection));
                    continue;
                }
            };
            let publish = Publish { organisation, events: vec![Ok(event)], idempotency: None };
            let result = match self.append(now, &publish, &mut growth) {
                Published::Done(mut results) => results.pop(),
                // Impossible: a row has no idempotency key and is a single event.
                Published::KeyReused | Published::TooMany { .. } => None,
            };
            if let Some(Err(refusal)) = result {
                drained.rejected.push((row.id, refusal.into()));
                continue;
            }
            drained.appended += 1;
            self.inbox.remove(&row.id);
            if result.is_some_and(|result| result.is_ok_and(|event| event.deliveries.is_empty())) {
                drained.unmatched.push(row.id);
            }
        }
        drained.rejected.sort_unstable_by_key(|(id, _)| *id);
        for (id, rejection) in &drained.rejected {
            if let Some(row) = self.inbox.remove(id) {
                let rejected = Row {
                    inbox_id: *id,
                    version: 1,
                    row,
                    rejection: rejection.clone(),
                    rejected_at: now,
                    retried_at: None,
                };
                self.rejected.insert(next(&mut self.last.rejected), rejected);
            }
        }
        (drained, growth)
    }

    /// Rejected rows of an organisation, oldest first.
    fn own_rejected(
        &self,
        organisation: OrganisationKey,
        filter: &RejectedFilter,
    ) -> impl DoubleEndedIterator<Item = (i64, &Row)> {
        let is_own = move |row: &Row| {
            self.organisations.get(&row.row.content.organisation) == Some(&organisation)
        };
        let (reason, window, retried) = (filter.reason, filter.window, filter.retried);
        let fits = move |row: &Row| {
            reason.is_none_or(|reason| reason == row.rejection.reason)
                && window.contains(row.rejected_at)
                && (retried || row.retried_at.is_none())
        };
        let own = self.rejected.iter().filter(move |(_, row)| is_own(row) && fits(row));
        own.map(|(id, row)| (*id, row))
    }

    pub(super) fn list_rejected(
        &self,
        organisation: OrganisationKey,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Vec<RejectedRow> {
        let newest = self.own_rejected(organisation, filter).rev();
        let behind = newest.filter(|(id, _)| before.is_none_or(|before| *id < before));
        behind.take(limit).map(|(id, row)| shown(id, row)).collect()
    }

    pub(super) fn rejected_row(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_chars: usize,
    ) -> Option<(RejectedRow, String)> {
        let any = RejectedFilter { retried: true, ..RejectedFilter::default() };
        let (_, row) = self.own_rejected(organisation, &any).find(|(found, _)| *found == id)?;
        Some((shown(id, row), row.row.content.payload.chars().take(max_chars).collect()))
    }

    /// Puts rows back at the end of the inbox, oldest first.
    pub(super) fn retry_rejected(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        selection: RetrySelection,
    ) -> Result<Audited<Retried>> {
        let Retryable { ids: chosen, more } = self.retryable(organisation, selection)?;
        for id in &chosen {
            let Some(rejected) = self.rejected.get_mut(id) else { continue };
            rejected.retried_at = Some(now);
            self.inbox.insert(next(&mut self.last.inbox), rejected.row.clone());
        }
        let retried = Retried { retried: chosen.len() as u64, more };
        Ok(Audited::new(retried, entries::rejected_retried(&chosen)))
    }

    pub(super) fn retryable(
        &self,
        organisation: OrganisationKey,
        selection: RetrySelection,
    ) -> Result<Retryable> {
        let (one, mut filter) = match selection {
            RetrySelection::One(id) => (Some(id), RejectedFilter::default()),
            RetrySelection::Filter(filter) => (None, filter),
        };
        filter.retried = false;
        let fit = self.own_rejected(organisation, &filter).map(|(id, _)| id);
        let mut chosen: Vec<i64> = fit.filter(|id| one.is_none_or(|one| one == *id)).collect();
        if let (Some(id), true) = (one, chosen.is_empty()) {
            let is_there = self.rejected_row(organisation, id, 0).is_some();
            return Err(if is_there { Conflict::PutBack(id).into() } else { MISSING });
        }
        let most = usize::try_from(RETRIED).unwrap_or(usize::MAX);
        let more = chosen.len() > most;
        chosen.truncate(most);
        Ok(Retryable { ids: chosen, more })
    }

    pub(super) fn delete_rejected(
        &mut self,
        organisation: OrganisationKey,
        id: i64,
    ) -> Result<Audited<()>> {
        let (row, _) = self.rejected_row(organisation, id, 0).ok_or(MISSING)?;
        self.rejected.remove(&id);
        Ok(Audited::new((), [entries::rejected_deleted(&row)]))
    }
}

fn size(content: &InboxContent) -> usize {
    let optional = [
        &content.gateway_id,
        &content.target,
        &content.event_id,
        &content.correlation_id,
        &content.user_id,
        &content.expires_at,
        &content.traceparent,
        &content.collapse_key,
    ];
    let optional = optional.into_iter().flatten().map(String::len).sum::<usize>();
    content.organisation.len() + content.event_type.len() + content.payload.len() + optional
}

fn shown(id: i64, row: &Row) -> RejectedRow {
    let cut = |text: &String| text.chars().take(SHOWN).collect::<String>();
    let content = &row.row.content;
    RejectedRow {
        id,
        inbox_id: row.inbox_id,
        version: row.version,
        reason: row.rejection.reason,
        detail: row.rejection.detail.clone(),
        rejected_at: row.rejected_at,
        retried_at: row.retried_at,
        inserted_at: row.row.inserted_at,
        event_type: cut(&content.event_type),
        gateway_id: content.gateway_id.as_ref().map(cut),
        target: content.target.as_ref().map(cut),
        event_id: content.event_id.as_ref().map(cut),
        correlation_id: content.correlation_id.as_ref().map(cut),
        user_id: content.user_id.as_ref().map(cut),
        expires_at: content.expires_at.as_ref().map(cut),
        traceparent: content.traceparent.as_ref().map(cut),
        collapse_key: content.collapse_key.as_ref().map(cut),
        payload_bytes: i64::try_from(content.payload.len()).unwrap_or(i64::MAX),
    }
}
