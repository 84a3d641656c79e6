//! The inbox. Its texts may not be UTF-8, because SQLite does not check that. No other process
//! can commit while a transaction of this one writes.

use super::super::sql::dialect::InboxStatements;
use super::super::sql::dialect::inbox::{RowSize, UndrainedRow};
use super::{Connection, json, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{
    InboxContent, RejectedContent, RejectedFilter, RejectedRow, Rejection, RejectionReason, Result,
    Unreadable,
};

type Content = std::result::Result<InboxContent, Unreadable>;

impl InboxStatements for Connection {
    type RejectedGatewayId = String;
    type RejectedExpiry = String;

    fn rejected_gateway_id(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn rejected_expiry(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    /// The write transaction has locked the whole file.
    async fn lock_inbox(&mut self) -> Result<()> {
        Ok(())
    }

    async fn lock_inbox_rows(&mut self, ids: &[i64]) -> Result<Vec<i64>> {
        let ids = json(ids)?;
        Ok(query_scalar!(
            r#"
            select i.id as "id!: i64" from json_each($1) as wanted join inbox i on i.id = wanted.value
            "#,
            ids
        )
        .fetch_all(self)
        .await?)
    }

    async fn reject_inbox_rows(
        &mut self,
        now: Timestamp,
        rejected: &[(i64, Rejection)],
    ) -> Result<()> {
        let rows: Vec<_> = rejected
            .iter()
            .map(|(id, rejection)| (id, rejection.reason.as_str(), &rejection.detail))
            .collect();
        let rows = json(&rows)?;
        query!(
            r#"
            insert into inbox_rejected (inbox_id, organisation, type, payload, gateway_id, target,
                event_id, correlation_id, user_id, expires_at, traceparent, collapse_key,
                inserted_at, reason, detail, rejected_at)
            select i.id, i.organisation, i.type, i.payload, i.gateway_id, i.target,
                i.event_id, i.correlation_id, i.user_id, i.expires_at, i.traceparent,
                i.collapse_key, i.inserted_at,
                r.value ->> 1, r.value ->> 2, $2
            from json_each($1) as r join inbox i on i.id = r.value ->> 0
            order by i.id
            "#,
            rows,
            now as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn delete_inbox_rows(&mut self, ids: &[i64]) -> Result<()> {
        let ids = json(ids)?;
        query!("delete from inbox where id in (select value from json_each($1))", ids)
            .execute(self)
            .await?;
        Ok(())
    }

    /// The length of a text is in the header of its row, so no payload is read.
    async fn inbox_sizes(&mut self, limit: i64) -> Result<Vec<RowSize>> {
        Ok(query_as!(
            RowSize,
            r#"
            select id as "id!: i64", inserted_at as "inserted_at!: Timestamp",
                octet_length(organisation) + octet_length(type) + octet_length(payload)
                + coalesce(octet_length(gateway_id), 0) + coalesce(octet_length(target), 0)
                + coalesce(octet_length(event_id), 0) + coalesce(octet_length(correlation_id), 0)
                + coalesce(octet_length(user_id), 0) + coalesce(octet_length(expires_at), 0)
                + coalesce(octet_length(traceparent), 0)
                + coalesce(octet_length(collapse_key), 0) as "bytes!: i64"
            from inbox order by id limit $1
            "#,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn inbox_contents(&mut self, ids: &[i64]) -> Result<Vec<(i64, Content)>> {
        let ids = json(ids)?;
        // As bytes: SQLite does not check that a text is UTF-8.
        let rows = query!(
            r#"
            select i.id as "id!: i64", cast(i.organisation as blob) as "organisation!: Vec<u8>",
                cast(i.type as blob) as "event_type!: Vec<u8>",
                cast(i.payload as blob) as "payload!: Vec<u8>",
                cast(i.gateway_id as blob) as "gateway_id?: Vec<u8>",
                cast(i.target as blob) as "target?: Vec<u8>",
                cast(i.event_id as blob) as "event_id?: Vec<u8>",
                cast(i.correlation_id as blob) as "correlation_id?: Vec<u8>",
                cast(i.user_id as blob) as "user_id?: Vec<u8>",
                cast(i.expires_at as blob) as "expires_at?: Vec<u8>",
                cast(i.traceparent as blob) as "traceparent?: Vec<u8>",
                cast(i.collapse_key as blob) as "collapse_key?: Vec<u8>"
            from json_each($1) as wanted join inbox i on i.id = wanted.value
            order by i.id
            "#,
            ids
        )
        .fetch_all(self)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let content = || {
                    Ok(InboxContent {
                        organisation: text("organisation", row.organisation)?,
                        event_type: text("type", row.event_type)?,
                        payload: text("payload", row.payload)?,
                        gateway_id: optional("gateway_id", row.gateway_id)?,
                        target: optional("target", row.target)?,
                        event_id: optional("event_id", row.event_id)?,
                        correlation_id: optional("correlation_id", row.correlation_id)?,
                        user_id: optional("user_id", row.user_id)?,
                        expires_at: optional("expires_at", row.expires_at)?,
                        traceparent: optional("traceparent", row.traceparent)?,
                        collapse_key: optional("collapse_key", row.collapse_key)?,
                    })
                };
                (row.id, content())
            })
            .collect())
    }

    async fn rejected_rows(
        &mut self,
        organisation: OrganisationKey,
        id: Option<i64>,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RejectedRow>> {
        let reason = filter.reason.map(RejectionReason::as_str);
        let rows = query!(
            r#"
            select r.id as "id!: i64", r.inbox_id as "inbox_id!: i64", r.version as "version!: i64", r.reason as "reason!: String",
                r.detail as "detail!: String", r.rejected_at as "rejected_at!: Timestamp",
                r.retried_at as "retried_at?: Timestamp", r.inserted_at as "inserted_at!: Timestamp",
                cast(substr(r.type, 1, 4096) as blob) as "event_type!: Vec<u8>",
                cast(substr(r.gateway_id, 1, 4096) as blob) as "gateway_id?: Vec<u8>",
                cast(substr(r.target, 1, 4096) as blob) as "target?: Vec<u8>",
                cast(substr(r.event_id, 1, 4096) as blob) as "event_id?: Vec<u8>",
                cast(substr(r.correlation_id, 1, 4096) as blob) as "correlation_id?: Vec<u8>",
                cast(substr(r.user_id, 1, 4096) as blob) as "user_id?: Vec<u8>",
                cast(substr(r.expires_at, 1, 4096) as blob) as "expires_at?: Vec<u8>",
                cast(substr(r.traceparent, 1, 4096) as blob) as "traceparent?: Vec<u8>",
                cast(substr(r.collapse_key, 1, 4096) as blob) as "collapse_key?: Vec<u8>",
                octet_length(r.payload) as "payload_bytes!: i64"
            from inbox_rejected r join organisations o on o.name = r.organisation
            where o.organisation = $1 and ($2 is null or r.id = $2) and ($3 is null or r.id < $3)
                and ($4 is null or r.reason = $4) and ($5 is null or r.rejected_at >= $5)
                and ($6 is null or r.rejected_at < $6) and ($7 or r.retried_at is null)
            order by r.id desc limit $8
            "#,
            organisation.0,
            id,
            before,
            reason,
            filter.window.from() as _,
            filter.window.to() as _,
            filter.retried,
            limit
        )
        .fetch_all(self)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(RejectedRow {
                    id: row.id,
                    inbox_id: row.inbox_id,
                    version: row.version,
                    reason: RejectionReason::stored(&row.reason),
                    detail: row.detail,
                    rejected_at: row.rejected_at,
                    retried_at: row.retried_at,
                    inserted_at: row.inserted_at,
                    event_type: lossy(&row.event_type),
                    gateway_id: row.gateway_id.as_deref().map(lossy),
                    target: row.target.as_deref().map(lossy),
                    event_id: row.event_id.as_deref().map(lossy),
                    correlation_id: row.correlation_id.as_deref().map(lossy),
                    user_id: row.user_id.as_deref().map(lossy),
                    expires_at: row.expires_at.as_deref().map(lossy),
                    traceparent: row.traceparent.as_deref().map(lossy),
                    collapse_key: row.collapse_key.as_deref().map(lossy),
                    payload_bytes: row.payload_bytes,
                })
            })
            .collect()
    }

    async fn rejected_payload(&mut self, id: i64, max_chars: i32) -> Result<String> {
        let payload = query_scalar!(
            r#"
            select cast(substr(payload, 1, $2) as blob) as "payload!: Vec<u8>"
            from inbox_rejected where id = $1
            "#,
            id,
            max_chars
        )
        .fetch_one(self)
        .await?;
        Ok(lossy(&payload))
    }

    async fn rejected_content(
        &mut self,
        organisation: OrganisationKey,
        id: i64,
        max_bytes: i64,
    ) -> Result<Option<RejectedContent>> {
        let row = query!(
            r#"
            select cast(r.organisation as blob) as "organisation!: Vec<u8>",
                cast(r.type as blob) as "event_type!: Vec<u8>",
                cast(case when octet_length(r.payload) <= $3 then r.payload else '' end as blob)
                    as "payload!: Vec<u8>",
                octet_length(r.payload) as "payload_bytes!: i64",
                cast(r.gateway_id as blob) as "gateway_id?: Vec<u8>",
                cast(r.target as blob) as "target?: Vec<u8>",
                cast(r.event_id as blob) as "event_id?: Vec<u8>",
                cast(r.correlation_id as blob) as "correlation_id?: Vec<u8>",
                cast(r.user_id as blob) as "user_id?: Vec<u8>",
                cast(r.expires_at as blob) as "expires_at?: Vec<u8>",
                cast(r.traceparent as blob) as "traceparent?: Vec<u8>",
                cast(r.collapse_key as blob) as "collapse_key?: Vec<u8>",
                r.inserted_at as "inserted_at!: Timestamp", r.version as "version!: i64",
                r.retried_at as "retried_at?: Timestamp"
            from inbox_rejected r join organisations o on o.name = r.organisation
            where o.organisation = $1 and r.id = $2
            "#,
            organisation.0,
            id,
            max_bytes
        )
        .fetch_optional(self)
        .await?;
        Ok(row.map(|row| RejectedContent {
            content: InboxContent {
                organisation: lossy(&row.organisation),
                event_type: lossy(&row.event_type),
                payload: lossy(&row.payload),
                gateway_id: row.gateway_id.as_deref().map(lossy),
                target: row.target.as_deref().map(lossy),
                event_id: row.event_id.as_deref().map(lossy),
                correlation_id: row.correlation_id.as_deref().map(lossy),
                user_id: row.user_id.as_deref().map(lossy),
                expires_at: row.expires_at.as_deref().map(lossy),
                traceparent: row.traceparent.as_deref().map(lossy),
                collapse_key: row.collapse_key.as_deref().map(lossy),
            },
            payload_bytes: usize::try_from(row.payload_bytes).unwrap_or(usize::MAX),
            inserted_at: row.inserted_at,
            version: row.version,
            retried_at: row.retried_at,
        }))
    }

    async fn retryable_rows(
        &mut self,
        organisation: OrganisationKey,
        id: Option<i64>,
        filter: &RejectedFilter,
        limit: i64,
    ) -> Result<Vec<i64>> {
        let reason = filter.reason.map(RejectionReason::as_str);
        Ok(query_scalar!(
            r#"
            select r.id as "id!: i64"
            from inbox_rejected r join organisations o on o.name = r.organisation
            where o.organisation = $1 and r.retried_at is null and ($2 is null or r.id = $2)
                and ($3 is null or r.reason = $3) and ($4 is null or r.rejected_at >= $4)
                and ($5 is null or r.rejected_at < $5)
            order by r.id limit $6
            "#,
            organisation.0,
            id,
            reason,
            filter.window.from() as _,
            filter.window.to() as _,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn retry_rejected_rows(&mut self, now: Timestamp, ids: &[i64]) -> Result<u64> {
        let ids = json(ids)?;
        query!(
            r#"
            insert into inbox (organisation, type, payload, gateway_id, target, event_id,
                correlation_id, user_id, expires_at, traceparent, collapse_key, inserted_at)
            select r.organisation, r.type, r.payload, r.gateway_id, r.target, r.event_id,
                r.correlation_id, r.user_id, r.expires_at, r.traceparent, r.collapse_key, r.inserted_at
            from json_each($1) as chosen join inbox_rejected r on r.id = chosen.value
            order by r.id
            "#,
            ids
        )
        .execute(&mut *self)
        .await?;
        let done = query!(
            r#"
            update inbox_rejected set retried_at = $2
            where id in (select value from json_each($1))
            "#,
            ids,
            now as _
        )
        .execute(self)
        .await?;
        Ok(done.rows_affected())
    }

    /// Rows are drained in ascending order, and each commit of another program has larger ids than
    /// the one before.
    async fn drained_rows_still_there(&mut self, limit: i64) -> Result<Vec<UndrainedRow>> {
        Ok(query_as!(
            UndrainedRow,
            r#"
            select i.id as "id!: i64", cast(substr(i.type, 1, 100) as blob) as "event_type!: Vec<u8>"
            from inbox i where i.id <= (select drained_to from inbox_progress)
            order by i.id limit $1
            "#,
            limit
        )
        .fetch_all(self)
        .await?)
    }
}

fn text(column: &'static str, bytes: Vec<u8>) -> std::result::Result<String, Unreadable> {
    String::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8(column))
}

fn optional(
    column: &'static str,
    bytes: Option<Vec<u8>>,
) -> std::result::Result<Option<String>, Unreadable> {
    bytes.map(|bytes| text(column, bytes)).transpose()
}

/// Text of another program, with invalid UTF-8 replaced.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
