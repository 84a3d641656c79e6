//! The inbox's promise: a row is in it, or it was moved; never both.

use sqlx::SqliteConnection;

use super::MOST;
use crate::event::quoted;
use crate::store::Result;

pub(super) async fn check(
    connection: &mut SqliteConnection,
    problems: &mut Vec<String>,
) -> Result<()> {
    moved_by_half(connection, problems).await?;
    rejected(connection, problems).await
}

/// Rows are moved lowest first, and each commit of another program has larger
/// ids than the one before.
async fn moved_by_half(
    connection: &mut SqliteConnection,
    problems: &mut Vec<String>,
) -> Result<()> {
    let rows = sqlx::query!(
        r#"
        select i.id as "id!: i64", cast(substr(i.type, 1, 100) as blob) as "event_type!: Vec<u8>"
        from inbox i where i.id <= (select drained_to from inbox_progress)
        order by i.id limit $1
        "#,
        MOST
    )
    .fetch_all(connection)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        let event_type = quoted(&String::from_utf8_lossy(&row.event_type));
        format!("inbox: row {} ({event_type}) was moved, but is still there", row.id)
    }));
    Ok(())
}

async fn rejected(connection: &mut SqliteConnection, problems: &mut Vec<String>) -> Result<()> {
    let rows = sqlx::query!(
        r#"
        select r.inbox_id as "id!: i64", r.detail as "detail!: String", p.drained_to as "last!: i64"
        from inbox_rejected r join inbox_progress p where r.inbox_id > p.drained_to
        order by r.id limit $1
        "#,
        MOST
    )
    .fetch_all(connection)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        format!(
            "inbox: row {} ({}) was rejected, but is beyond the last one moved, {}",
            row.id,
            quoted(&row.detail),
            row.last
        )
    }));
    Ok(())
}
