//! Verification: reads a whole database and says whether the log's and the
//! ledger's promises hold in it. Writes nothing, and may run beside a server.

use std::path::Path;

use serde::Serialize;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

use crate::store::Result;

mod inbox;
mod ledger;
mod log;

#[cfg(test)]
mod tests;

/// Problems reported per check; a thoroughly damaged file need not fill the screen.
const MOST: i64 = 100;

/// What a verification counted and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Gateways, deleted ones included.
    pub gateways: i64,
    /// Events in the log.
    pub events: i64,
    /// Deliveries in the log.
    pub deliveries: i64,
    /// Rows of the ledger.
    pub attempts: i64,
    /// Dead letters, in deliveries.
    pub dead_letters: i64,
    /// Rows that wait in the inbox.
    pub inbox: i64,
    /// Rows of the inbox that were rejected, those put back included.
    pub rejected: i64,
    /// What is wrong, each with the gateway and the numbers; empty when all is well.
    pub problems: Vec<String>,
}

/// Verifies the database in a file.
pub async fn verify(path: &Path) -> Result<VerifyReport> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .create_if_missing(false)
        .connect()
        .await?;
    // One transaction, so that all checks see one moment although a server may be writing.
    let mut snapshot = connection.begin().await?;
    let mut report = counts(&mut snapshot).await?;
    let problems = &mut report.problems;
    file(&mut snapshot, problems).await?;
    log::check(&mut snapshot, problems).await?;
    ledger::check(&mut snapshot, problems).await?;
    inbox::check(&mut snapshot, problems).await?;
    snapshot.rollback().await?;
    connection.close().await?;
    Ok(report)
}

async fn counts(connection: &mut SqliteConnection) -> Result<VerifyReport> {
    let row = sqlx::query!(
        r#"
        select (select count(*) from gateways) as "gateways!: i64",
            (select count(*) from events) as "events!: i64",
            (select count(*) from outbox) as "deliveries!: i64",
            (select count(*) from attempts) as "attempts!: i64",
            (select coalesce(sum(last_sequence - first_sequence + 1), 0) from dead_letters) as "dead!: i64",
            (select count(*) from inbox) as "inbox!: i64",
            (select count(*) from inbox_rejected) as "rejected!: i64"
        "#
    )
    .fetch_one(connection)
    .await?;
    Ok(VerifyReport {
        gateways: row.gateways,
        events: row.events,
        deliveries: row.deliveries,
        attempts: row.attempts,
        dead_letters: row.dead,
        inbox: row.inbox,
        rejected: row.rejected,
        problems: Vec::new(),
    })
}

/// What SQLite itself can say. Pragmas are no statements that can be checked
/// against a schema, so that they are run unchecked.
async fn file(connection: &mut SqliteConnection, problems: &mut Vec<String>) -> Result<()> {
    let findings: Vec<String> =
        sqlx::query_scalar("pragma integrity_check").fetch_all(&mut *connection).await?;
    problems.extend(
        findings
            .into_iter()
            .filter(|finding| finding != "ok")
            .map(|finding| format!("database file: {finding}")),
    );
    let orphans: Vec<(String, Option<i64>, String, i64)> =
        sqlx::query_as("pragma foreign_key_check").fetch_all(connection).await?;
    problems.extend(orphans.into_iter().take(100).map(|(table, row, parent, _)| match row {
        Some(row) => {
            format!("table {table}: row {row} leads to a row of {parent} that is not there")
        }
        None => {
            format!("table {table}: a row leads to a row of {parent} that is not there")
        }
    }));
    Ok(())
}
