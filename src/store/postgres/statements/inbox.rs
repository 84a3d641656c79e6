//! The inbox. Other programs insert at the same time, and their rows become visible in the order
//! of their commits, not of their ids.

use super::super::sql::dialect::InboxStatements;
use super::super::sql::dialect::inbox::{RowSize, UndrainedRow};
use super::{Connection, LOCK_SPACE, column, locks, query, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};
use crate::store::{
    InboxContent, RejectedContent, RejectedFilter, RejectedRow, Rejection, RejectionReason, Result,
    Unreadable, storable,
};

type Content = std::result::Result<InboxContent, Unreadable>;

impl InboxStatements for Connection {
    type RejectedGatewayId = GatewayId;
    type RejectedExpiry = Timestamp;

    fn rejected_gateway_id(text: &str) -> Option<GatewayId> {
        text.trim().parse().ok()
    }

    fn rejected_expiry(text: &str) -> Option<Timestamp> {
        Timestamp::parse(text).ok()
    }

    /// A statement of its own, so that the next one sees what other nodes have committed.
    async fn lock_inbox(&mut self) -> Result<()> {
        query!("select pg_advisory_xact_lock($1, $2)", LOCK_SPACE, locks::DRAIN)
            .execute(self)
            .await?;
        Ok(())
    }

    /// `skip locked`, so that the drain does not wait for the transactions of other programs.
    async fn lock_inbox_rows(&mut self, ids: &[i64]) -> Result<Vec<i64>> {
        Ok(query_scalar!(
            r#"select id as "id!: i64" from inbox where id = any($1) for update skip locked"#,
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
        let details = column(rejected, |(_, rejection)| storable(&rejection.detail));
        query!(
            r#"
            insert into inbox_rejected (inbox_id, organisation, type, payload, gateway_id, target,
                event_id, correlation_id, user_id, expires_at, traceparent, collapse_key,
                inserted_at, reason, detail, rejected_at)
            select i.id, i.organisation, i.type, i.payload, i.gateway_id, i.target,
                i.event_id, i.correlation_id, i.user_id, i.expires_at, i.traceparent,
                i.collapse_key, i.inserted_at,
                r.reason, r.detail, $4
            from unnest($1::bigint[], $2::text[], $3::text[]) as r (id, reason, detail)
            join inbox i on i.id = r.id
            order by i.id
            "#,
            &column(rejected, |(id, _)| *id),
            &column(rejected, |(_, rejection)| rejection.reason.as_str()) as _,
            &column(&details, AsRef::as_ref) as _,
            now as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn delete_inbox_rows(&mut self, ids: &[i64]) -> Result<()> {
        query!("delete from inbox where id = any($1)", ids).execute(self).await?;
        Ok(())
    }

    /// The length of a text is known without reading it. Excludes rows that another program is about
    /// to delete, because enough of them would hide all rows after them: the id of its transaction is
    /// in `xmax` and among the locks while it lasts. Rows that a node is draining are not excluded: if
    /// it fails, the rows after them must not have been drained first.
    async fn inbox_sizes(&mut self, limit: i64) -> Result<Vec<RowSize>> {
        Ok(query_as!(
            RowSize,
            r#"
            select id as "id!: i64", inserted_at as "inserted_at!: Timestamp",
                (octet_length(organisation)::bigint + octet_length(type) + octet_length(payload)
                + coalesce(octet_length(target), 0) + coalesce(octet_length(event_id), 0)
                + coalesce(octet_length(correlation_id), 0) + coalesce(octet_length(user_id), 0)
                + coalesce(octet_length(traceparent), 0)
                + coalesce(octet_length(collapse_key), 0)) as "bytes!: i64"
            from inbox
            where xmax not in (
                select deleting.transactionid from pg_locks deleting
                where deleting.locktype = 'transactionid' and deleting.granted
                    and not exists (
                        select 1 from pg_locks moving
                        where moving.locktype = 'advisory' and moving.granted
                            and moving.classid::bigint = $2 and moving.objid::bigint = $3
                            and moving.pid = deleting.pid))
            order by id limit $1
            "#,
            limit,
            i64::from(LOCK_SPACE),
            i64::from(locks::DRAIN)
        )
        .fetch_all(self)
        .await?)
    }

    async fn inbox_contents(&mut self, ids: &[i64]) -> Result<Vec<(i64, Content)>> {
        let rows = query!(
            r#"
            select id as "id!: i64", organisation as "organisation!: String",
                type as "event_type!: String", payload as "payload!: String",
                gateway_id::text as "gateway_id?: String", target as "target?: String",
                event_id as "event_id?: String", correlation_id as "correlation_id?: String",
                user_id as "user_id?: String", expires_at as "expires_at?: Timestamp",
                traceparent as "traceparent?: String", collapse_key as "collapse_key?: String"
            from inbox where id = any($1)
            order by id
            "#,
            ids
        )
        .fetch_all(self)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let content = InboxContent {
                    organisation: row.organisation,
                    event_type: row.event_type,
                    payload: row.payload,
                    gateway_id: row.gateway_id,
                    target: row.target,
                    event_id: row.event_id,
                    correlation_id: row.correlation_id,
                    user_id: row.user_id,
                    expires_at: row.expires_at.map(|at| at.to_string()),
                    traceparent: row.traceparent,
                    collapse_key: row.collapse_key,
                };
                (row.id, Ok(content))
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
                left(r.type, 4096) as "event_type!: String", r.gateway_id::text as "gateway_id?: String",
                left(r.target, 4096) as "target?: String", left(r.event_id, 4096) as "event_id?: String",
                left(r.correlation_id, 4096) as "correlation_id?: String",
                left(r.user_id, 4096) as "user_id?: String", r.expires_at as "expires_at?: Timestamp",
                left(r.traceparent, 4096) as "traceparent?: String",
                left(r.collapse_key, 4096) as "collapse_key?: String",
                octet_length(r.payload)::bigint as "payload_bytes!: i64"
            from inbox_rejected r join organisations o on o.name = r.organisation
            where o.organisation = $1 and ($2::bigint is null or r.id = $2)
                and ($3::bigint is null or r.id < $3) and ($4::text is null or r.reason = $4)
                and ($5::timestamptz is null or r.rejected_at >= $5)
                and ($6::timestamptz is null or r.rejected_at < $6)
                and ($7 or r.retried_at is null)
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
                    event_type: row.event_type,
                    gateway_id: row.gateway_id,
                    target: row.target,
                    event_id: row.event_id,
                    correlation_id: row.correlation_id,
                    user_id: row.user_id,
                    expires_at: row.expires_at.map(|at| at.to_string()),
                    traceparent: row.traceparent,
                    collapse_key: row.collapse_key,
                    payload_bytes: row.payload_bytes,
                })
            })
            .collect()
    }

    async fn rejected_payload(&mut self, id: i64, max_chars: i32) -> Result<String> {
        Ok(query_scalar!(
            r#"select left(payload, $2) as "payload!: String" from inbox_rejected where id = $1"#,
            id,
            max_chars
        )
        .fetch_one(self)
        .await?)
    }

    async fn rejected_content(
        &mut self,
        organisation: OrganisationKey,
        id: i64,
        max_bytes: i64,
    ) -> Result<Option<RejectedContent>> {
        let row = query!(
            r#"
            select r.organisation as "organisation!: String", r.type as "event_type!: String",
                case when octet_length(r.payload) <= $3::bigint then r.payload else '' end
                    as "payload!: String",
                octet_length(r.payload)::bigint as "payload_bytes!: i64",
                r.gateway_id::text as "gateway_id?: String", r.target as "target?: String",
                r.event_id as "event_id?: String", r.correlation_id as "correlation_id?: String",
                r.user_id as "user_id?: String", r.expires_at as "expires_at?: Timestamp",
                r.traceparent as "traceparent?: String", r.collapse_key as "collapse_key?: String",
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
                organisation: row.organisation,
                event_type: row.event_type,
                payload: row.payload,
                gateway_id: row.gateway_id,
                target: row.target,
                event_id: row.event_id,
                correlation_id: row.correlation_id,
                user_id: row.user_id,
                expires_at: row.expires_at.map(|at| at.to_string()),
                traceparent: row.traceparent,
                collapse_key: row.collapse_key,
            },
            payload_bytes: usize::try_from(row.payload_bytes).unwrap_or(usize::MAX),
            inserted_at: row.inserted_at,
            version: row.version,
            retried_at: row.retried_at,
        }))
    }

    /// A transaction that waited for the lock finds that the rows were retried.
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
            where o.organisation = $1 and r.retried_at is null and ($2::bigint is null or r.id = $2)
                and ($3::text is null or r.reason = $3)
                and ($4::timestamptz is null or r.rejected_at >= $4)
                and ($5::timestamptz is null or r.rejected_at < $5)
            order by r.id limit $6 for update of r
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
        query!(
            r#"
            insert into inbox (organisation, type, payload, gateway_id, target, event_id,
                correlation_id, user_id, expires_at, traceparent, collapse_key, inserted_at)
            select organisation, type, payload, gateway_id, target, event_id,
                correlation_id, user_id, expires_at, traceparent, collapse_key, inserted_at
            from inbox_rejected where id = any($1)
            order by id
            "#,
            ids
        )
        .execute(&mut *self)
        .await?;
        let done =
            query!("update inbox_rejected set retried_at = $2 where id = any($1)", ids, now as _)
                .execute(self)
                .await?;
        Ok(done.rows_affected())
    }

    /// Ids do not ascend with the commits, so a row below the last one drained may have come later.
    /// A rejected row must be gone.
    async fn drained_rows_still_there(&mut self, limit: i64) -> Result<Vec<UndrainedRow>> {
        Ok(query_as!(
            UndrainedRow,
            r#"
            select i.id as "id!: i64", convert_to(left(i.type, 100), 'UTF8') as "event_type!: Vec<u8>"
            from inbox i where exists (select 1 from inbox_rejected r where r.inbox_id = i.id)
            order by i.id limit $1
            "#,
            limit
        )
        .fetch_all(self)
        .await?)
    }
}
