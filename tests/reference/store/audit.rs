//! The audit log.

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::OrganisationKey;
use gateway_events::store::{
    Actor, Audit, AuditCursor, AuditEntry, AuditFilter, AuditRecord, Audited, Result,
};

use super::MemoryStore;
use super::tables::Tables;

#[async_trait]
impl Audit for MemoryStore {
    async fn audit(
        &self,
        organisation: OrganisationKey,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>> {
        self.read(|tables| Ok(tables.list_audit(organisation, filter, after, limit))).await
    }
}

impl MemoryStore {
    /// Runs an operation that writes, and records what it changed.
    pub(super) async fn audited<T>(
        &self,
        actor: &Actor,
        work: impl FnOnce(&mut Tables, Timestamp) -> Result<Audited<T>>,
    ) -> Result<T> {
        self.audited_then(actor, work, |_| ()).await
    }

    /// Likewise, and calls `then` right after the commit.
    pub(super) async fn audited_then<T>(
        &self,
        actor: &Actor,
        work: impl FnOnce(&mut Tables, Timestamp) -> Result<Audited<T>>,
        then: impl FnOnce(&T),
    ) -> Result<T> {
        self.write_then(
            |tables, now| {
                let Audited { value, entries } = work(tables, now)?;
                tables.record_audit(now, actor, entries);
                Ok(value)
            },
            then,
        )
        .await
    }
}

impl Tables {
    fn record_audit(&mut self, now: Timestamp, actor: &Actor, entries: Vec<AuditEntry>) {
        let records = self.audit_head.append(now, actor, entries);
        self.audit_head = records.last().map_or(self.audit_head, AuditRecord::head);
        self.audit.extend(records);
    }

    fn list_audit(
        &self,
        organisation: OrganisationKey,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Vec<AuditRecord> {
        let place = |record: &AuditRecord| (record.recorded_at, record.sequence);
        let is = |wanted: Option<&String>, id: &String, name: &String| {
            wanted.is_none_or(|wanted| wanted == id || wanted == name)
        };
        let matches = |record: &&AuditRecord| {
            record.organisation == organisation
                && filter.window.contains(record.recorded_at)
                && filter.action.is_none_or(|action| action.as_str() == record.action)
                && is(filter.principal.as_ref(), &record.principal.id, &record.principal.name)
                && is(filter.object.as_ref(), &record.object.id, &record.object.name)
                && after.is_none_or(|at| place(record) < (at.recorded_at, at.sequence))
        };
        let mut found: Vec<AuditRecord> = self.audit.iter().filter(matches).cloned().collect();
        found.sort_by_key(|record| std::cmp::Reverse(place(record)));
        found.truncate(limit);
        found
    }

    /// Removes the oldest records; returns how many.
    pub(super) fn trim_audit(&mut self, before: Timestamp, batch: usize) -> usize {
        let old = self.audit.iter().take(batch).take_while(|it| it.recorded_at < before).count();
        self.audit.drain(..old);
        old
    }
}
