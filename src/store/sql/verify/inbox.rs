//! Checks the inbox: a row is either in it or was moved.

use super::super::dialect::{Connection, InboxStatements, query};
use super::MAX_PROBLEMS;
use crate::event::quoted;
use crate::store::Result;

pub(super) async fn check(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = conn.drained_rows_still_there(MAX_PROBLEMS).await?;
    problems.extend(rows.into_iter().map(|row| {
        let event_type = quoted(&String::from_utf8_lossy(&row.event_type));
        format!("inbox: row {} ({event_type}) was moved, but still exists", row.id)
    }));
    rejected(conn, problems).await
}

async fn rejected(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select r.inbox_id as "id!: i64", r.detail as "detail!: String", p.drained_to as "last!: i64"
        from inbox_rejected r join inbox_progress p on r.inbox_id > p.drained_to
        order by r.id limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
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
