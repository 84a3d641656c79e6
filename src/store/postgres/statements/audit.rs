//! Records of the audit log.

use super::super::sql::dialect::AuditStatements;
use super::{Connection, column, query};
use crate::store::{AuditRecord, Result};

impl AuditStatements for Connection {
    async fn limit_wait_for_locks(&mut self) -> Result<()> {
        sqlx::raw_sql("set local lock_timeout = '1s'").execute(self).await?;
        Ok(())
    }

    async fn insert_audit(&mut self, records: &[AuditRecord]) -> Result<()> {
        let Some(AuditRecord { organisation, recorded_at, principal, .. }) = records.first() else {
            return Ok(());
        };
        query!(
            r#"
            insert into audit (sequence, organisation, recorded_at, principal, principal_name,
                source, request_id, action, object_kind, object_id, object_name, before, after, hash)
            select sequence, $2, $3, $4, $5, $6, $7, action, object_kind, object_id, object_name,
                before, after, hash
            from unnest($1::bigint[], $8::text[], $9::text[], $10::text[], $11::text[],
                    $12::text[], $13::text[], $14::bytea[])
                as record (sequence, action, object_kind, object_id, object_name, before, after, hash)
            "#,
            &column(records, |it| it.sequence),
            organisation.0,
            recorded_at as _,
            principal.id,
            principal.name,
            principal.source,
            principal.request_id,
            &column(records, |it| it.action.as_str()) as _,
            &column(records, |it| it.object.kind.as_str()) as _,
            &column(records, |it| it.object.id.as_str()) as _,
            &column(records, |it| it.object.name.as_str()) as _,
            &column(records, |it| it.before.as_str()) as _,
            &column(records, |it| it.after.as_str()) as _,
            &column(records, |it| it.hash.0.as_slice()) as _
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
