//! Verification: reads a whole database and reports where the log, the ledger or the audit log is
//! inconsistent.
//! Writes nothing, and may run while a server is running.

use super::dialect::{Connection, query};
use crate::store::{AuditHead, Result, VerifyReport};

mod audit;
mod inbox;
mod ledger;
mod log;

#[cfg(test)]
mod tests;

/// Problems reported per check, so that a corrupt database does not flood the output.
const MAX_PROBLEMS: i64 = 100;

/// Runs all checks of the tables in the given transaction. If `anchor` is given, the record of the
/// audit log with that sequence must have that hash.
pub(crate) async fn check(
    conn: &mut Connection,
    anchor: Option<AuditHead>,
) -> Result<VerifyReport> {
    let mut report = counts(conn).await?;
    log::check(conn, &mut report.problems).await?;
    ledger::check(conn, &mut report.problems).await?;
    inbox::check(conn, &mut report.problems).await?;
    audit::check(conn, anchor, &mut report).await?;
    Ok(report)
}

async fn counts(conn: &mut Connection) -> Result<VerifyReport> {
    let row = query!(
        r#"
        select (select count(*) from gateways) as "gateways!: i64",
            (select count(*) from events) as "events!: i64",
            (select count(*) from outbox) as "deliveries!: i64",
            (select count(*) from attempts) as "attempts!: i64",
            (select cast(coalesce(sum(d.last_sequence - d.first_sequence + 1), 0) as bigint)
             from dead_letters d join gateways g using (gateway)
             where d.redriven_at is null and g.deleted_at is null) as "dead!: i64",
            (select count(*) from inbox) as "inbox!: i64",
            (select count(*) from inbox_rejected where retried_at is null) as "rejected!: i64"
        "#
    )
    .fetch_one(conn)
    .await?;
    Ok(VerifyReport {
        gateways: row.gateways,
        events: row.events,
        deliveries: row.deliveries,
        attempts: row.attempts,
        dead_letters: row.dead,
        inbox: row.inbox,
        rejected: row.rejected,
        audit_records: 0,
        audit_head: AuditHead::START,
        audit_removed: 0,
        problems: Vec::new(),
    })
}
