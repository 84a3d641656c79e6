//! The audit log: written by the transactions that change something, listed, and trimmed.
//!
//! The head of the chain is one row. A transaction locks it by updating it, so that concurrent
//! writers, on any node, get consecutive sequences. It is the last lock that any transaction takes,
//! and the records are the last statements, so that the row is locked for a short time and can't be
//! part of a deadlock.

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::dialect::{AuditStatements, Connection, NodeStatements, query, query_as};
use super::writer::Work;
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::audit::{
    Actor, Audit, AuditCursor, AuditEntry, AuditFilter, AuditHash, AuditHead, AuditObject,
    AuditRecord, Audited, Principal,
};
use crate::store::{Result, StoreError};

#[async_trait]
impl Audit for Backend {
    async fn audit(
        &self,
        organisation: OrganisationKey,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>> {
        let filter = filter.clone();
        run!(self.query, |conn| list(conn, organisation, &filter, after, limit))
    }
}

impl Backend {
    /// Runs a transaction of the writer, and records at its end what it changed.
    pub(crate) async fn audited_tx<T: Send + 'static>(
        &self,
        actor: &Actor,
        work: impl Work<Audited<T>>,
    ) -> Result<T> {
        self.audited_tx_then(actor, work, |_| ()).await
    }

    /// The same, and calls `then` right after the commit, even if the caller stopped waiting.
    pub(crate) async fn audited_tx_then<T: Send + 'static>(
        &self,
        actor: &Actor,
        work: impl Work<Audited<T>>,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let actor = actor.clone();
        self.writer
            .run_then(
                move |conn, now| {
                    Box::pin(async move {
                        let Audited { value, entries } = work(&mut *conn, now).await?;
                        record(conn, &actor, entries).await?;
                        Ok(value)
                    })
                },
                then,
            )
            .await
    }
}

/// Runs an audited transaction: `audited!(self, actor, |conn, now| create(conn, now, name))`.
macro_rules! audited {
    ($store:ident, $actor:expr, |$($arg:ident),+| $work:expr) => {
        $store.audited_tx($actor, move |$($arg),+| Box::pin(async move { $work.await })).await
    };
}
pub(crate) use audited;

/// Writes the next records of the chain. The caller locks nothing afterwards.
pub(crate) async fn record(
    conn: &mut Connection,
    actor: &Actor,
    entries: Vec<AuditEntry>,
) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    conn.limit_wait_for_locks().await?;
    let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
    let locked = query!(
        r#"
        update audit_head set sequence = sequence + $1
        returning sequence as "sequence!: i64", hash as "hash!: Vec<u8>"
        "#,
        count
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or_else(|| StoreError::Corrupt("the audit log has no head".to_owned()))?;
    let head = AuditHead { sequence: locked.sequence - count, hash: read_hash(locked.hash)? };
    // Read while the head is locked, so that later records have later times.
    let now = conn.now().await?;
    let records = head.append(now, actor, entries);
    conn.insert_audit(&records).await?;
    let hash = records.last().map_or(head.hash, |last| last.hash);
    query!("update audit_head set hash = $1", hash.0.as_slice()).execute(conn).await?;
    Ok(())
}

/// A row of `audit`.
struct Row {
    sequence: i64,
    organisation: OrganisationKey,
    recorded_at: Timestamp,
    principal: String,
    principal_name: String,
    source: String,
    request_id: String,
    action: String,
    object_kind: String,
    object_id: String,
    object_name: String,
    before: String,
    after: String,
    hash: Vec<u8>,
}

async fn list(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &AuditFilter,
    after: Option<AuditCursor>,
    limit: usize,
) -> Result<Vec<AuditRecord>> {
    // Sequences begin with 1, so this excludes what was recorded at `to`.
    let end = AuditCursor { recorded_at: filter.window.to(), sequence: 0 };
    let after = after.unwrap_or(end);
    let action = filter.action.map_or("", |action| action.as_str());
    let principal = filter.principal.as_deref().unwrap_or_default();
    let object = filter.object.as_deref().unwrap_or_default();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query_as!(
        Row,
        r#"
        select sequence as "sequence!: i64", organisation as "organisation!: OrganisationKey",
            recorded_at as "recorded_at!: Timestamp", principal as "principal!: String",
            principal_name as "principal_name!: String", source as "source!: String",
            request_id as "request_id!: String", action as "action!: String",
            object_kind as "object_kind!: String", object_id as "object_id!: String",
            object_name as "object_name!: String", before as "before!: String",
            after as "after!: String", hash as "hash!: Vec<u8>"
        from audit
        where organisation = $1 and recorded_at >= $2 and (recorded_at, sequence) < ($3, $4)
            and ($5 = '' or action = $5)
            and ($6 = '' or principal = $6 or principal_name = $6)
            and ($7 = '' or object_id = $7 or object_name = $7)
        order by recorded_at desc, sequence desc limit $8
        "#,
        organisation.0,
        filter.window.from() as _,
        after.recorded_at as _,
        after.sequence,
        action,
        principal,
        object,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(AuditRecord::from).collect())
}

/// Records after a sequence, oldest first, of all organisations.
pub(super) async fn page(
    conn: &mut Connection,
    after: i64,
    limit: i64,
) -> Result<Vec<AuditRecord>> {
    let rows = query_as!(
        Row,
        r#"
        select sequence as "sequence!: i64", organisation as "organisation!: OrganisationKey",
            recorded_at as "recorded_at!: Timestamp", principal as "principal!: String",
            principal_name as "principal_name!: String", source as "source!: String",
            request_id as "request_id!: String", action as "action!: String",
            object_kind as "object_kind!: String", object_id as "object_id!: String",
            object_name as "object_name!: String", before as "before!: String",
            after as "after!: String", hash as "hash!: Vec<u8>"
        from audit where sequence > $1 order by sequence limit $2
        "#,
        after,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(AuditRecord::from).collect())
}

/// The newest record, and the last one that retention removed; `None` if the row is missing.
pub(super) async fn ends(conn: &mut Connection) -> Result<Option<(AuditHead, AuditHead)>> {
    let row = query!(
        r#"
        select sequence as "sequence!: i64", hash as "hash!: Vec<u8>",
            floor_sequence as "floor_sequence!: i64", floor_hash as "floor_hash!: Vec<u8>"
        from audit_head
        "#
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let head = AuditHead { sequence: row.sequence, hash: read_hash(row.hash)? };
        let floor = AuditHead { sequence: row.floor_sequence, hash: read_hash(row.floor_hash)? };
        Ok((head, floor))
    })
    .transpose()
}

/// Removes a batch of the oldest records; returns how many. The last one becomes the floor, from
/// which the rest of the chain is verified. Where the chain is broken, nothing is removed, because
/// that would hide it.
pub(super) async fn trim(conn: &mut Connection, before: Timestamp, batch: i64) -> Result<u64> {
    let Some((_, floor)) = ends(conn).await? else { return Ok(0) };
    let oldest =
        query!(r#"select recorded_at as "at!: Timestamp" from audit order by sequence limit 1"#)
            .fetch_optional(&mut *conn)
            .await?;
    if oldest.is_none_or(|oldest| oldest.at >= before) {
        return Ok(0);
    }
    let (mut position, mut removed) = (floor, 0);
    for record in page(conn, floor.sequence, batch).await? {
        if record.recorded_at >= before {
            break;
        }
        if let Err(why) = position.advance(&record) {
            tracing::warn!(
                why,
                "the chain of the audit log is broken; retention removes no records from there on"
            );
            break;
        }
        removed += 1;
    }
    if removed > 0 {
        query!(
            "update audit_head set floor_sequence = $1, floor_hash = $2",
            position.sequence,
            position.hash.0.as_slice()
        )
        .execute(&mut *conn)
        .await?;
        query!(
            "delete from audit where sequence > $1 and sequence <= $2",
            floor.sequence,
            position.sequence
        )
        .execute(conn)
        .await?;
    }
    Ok(removed)
}

impl From<Row> for AuditRecord {
    fn from(row: Row) -> Self {
        Self {
            sequence: row.sequence,
            organisation: row.organisation,
            recorded_at: row.recorded_at,
            principal: Principal {
                id: row.principal,
                name: row.principal_name,
                source: row.source,
                request_id: row.request_id,
            },
            action: row.action,
            object: AuditObject { kind: row.object_kind, id: row.object_id, name: row.object_name },
            before: row.before,
            after: row.after,
            // Of a record that was tampered with; `verify` reports it as changed.
            hash: read_hash(row.hash).unwrap_or(AuditHash([0; 32])),
        }
    }
}

fn read_hash(bytes: Vec<u8>) -> Result<AuditHash> {
    let hash = bytes.try_into().map_err(|_| {
        StoreError::Corrupt("a hash of the audit log is not 32 bytes long".to_owned())
    })?;
    Ok(AuditHash(hash))
}
