//! Records of the audit log.

use super::super::sql::dialect::AuditStatements;
use super::{Connection, hex, json, query};
use crate::store::{AuditRecord, Result};

impl AuditStatements for Connection {
    /// Does nothing: the only writer waits for no lock.
    async fn limit_wait_for_locks(&mut self) -> Result<()> {
        Ok(())
    }

    async fn insert_audit(&mut self, records: &[AuditRecord]) -> Result<()> {
        let Some(AuditRecord { organisation, recorded_at, principal, .. }) = records.first() else {
            return Ok(());
        };
        let rows = records.iter().map(|it| {
            let AuditRecord { sequence, action, object, before, after, hash, .. } = it;
            let object = (&object.kind, &object.id, &object.name);
            (sequence, action, object.0, object.1, object.2, before, after, hex(&hash.0))
        });
        let rows = json(&rows.collect::<Vec<_>>())?;
        query!(
            r#"
            insert into audit (sequence, organisation, recorded_at, principal, principal_name,
                source, request_id, action, object_kind, object_id, object_name, before, after, hash)
            select value ->> 0, $2, $3, $4, $5, $6, $7, value ->> 1, value ->> 2, value ->> 3,
                value ->> 4, value ->> 5, value ->> 6, unhex(value ->> 7)
            from jsonb_each($1) where true order by key
            "#,
            rows,
            organisation.0,
            recorded_at as _,
            principal.id,
            principal.name,
            principal.source,
            principal.request_id
        )
        .execute(self)
        .await?;
        Ok(())
    }
}
