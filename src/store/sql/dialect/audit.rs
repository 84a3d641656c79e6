//! Records of the audit log.

use crate::store::{AuditRecord, Result};

/// The audit log.
pub(crate) trait AuditStatements {
    /// Limits how long the transaction waits for any other lock: while it waits for the head of the
    /// log, others wait for the streams that it has locked.
    async fn limit_wait_for_locks(&mut self) -> Result<()>;
    /// Inserts records, which have the same organisation, instant and principal.
    async fn insert_audit(&mut self, records: &[AuditRecord]) -> Result<()>;
}
