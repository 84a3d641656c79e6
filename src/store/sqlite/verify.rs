//! Verifies a SQLite file. Writes nothing, and may run while a server is running.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::sql;
pub use crate::store::VerifyReport;
use crate::store::{AuditHead, Result};

/// Problems reported per check, so that a corrupt file does not flood the output.
const MAX_PROBLEMS: usize = 100;

/// Verifies the database in a file.
pub async fn verify(path: &Path) -> Result<VerifyReport> {
    verify_against(path, None).await
}

/// The same, and compares the audit log with a position of it that was kept elsewhere.
pub async fn verify_against(path: &Path, anchor: Option<AuditHead>) -> Result<VerifyReport> {
    let mut conn = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .create_if_missing(false)
        .connect()
        .await?;
    // One transaction, so that all checks read the same snapshot while a server writes.
    let mut snapshot = conn.begin().await?;
    let mut problems = Vec::new();
    file(&mut snapshot, &mut problems).await?;
    let mut report = sql::verify::check(&mut snapshot, anchor).await?;
    snapshot.rollback().await?;
    conn.close().await?;
    problems.append(&mut report.problems);
    Ok(VerifyReport { problems, ..report })
}

/// SQLite's own checks. Pragmas can't be checked at compile time.
async fn file(conn: &mut SqliteConnection, problems: &mut Vec<String>) -> Result<()> {
    let findings: Vec<String> =
        sqlx::query_scalar("pragma integrity_check").fetch_all(&mut *conn).await?;
    problems.extend(
        findings
            .into_iter()
            .filter(|finding| finding != "ok")
            .map(|finding| format!("database file: {finding}")),
    );
    let orphans: Vec<(String, Option<i64>, String, i64)> =
        sqlx::query_as("pragma foreign_key_check").fetch_all(conn).await?;
    problems.extend(orphans.into_iter().take(MAX_PROBLEMS).map(
        |(table, row, parent, _)| match row {
            Some(row) => {
                format!("table {table}: row {row} leads to a row of {parent} that is not there")
            }
            None => {
                format!("table {table}: a row leads to a row of {parent} that is not there")
            }
        },
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_not_there_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing.db");
        assert!(verify(&path).await.is_err());
        assert!(!path.exists());
    }
}
