//! Reads rows of the inbox. Other programs wrote them, so sizes are checked before any text is
//! read, and text may be invalid UTF-8.

use super::super::dialect::{Connection, InboxStatements, query};
use crate::clock::Timestamp;
use crate::store::{InboxDepth, InboxRow, Result, Unreadable};

/// The oldest rows, up to `limit` and about `max_bytes`, but at least one.
pub(super) async fn page(
    conn: &mut Connection,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<InboxRow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows: Vec<InboxRow> = Vec::new();
    let mut readable = Vec::new();
    let mut left = max_bytes;
    for row in conn.inbox_sizes(limit).await? {
        let bytes = usize::try_from(row.bytes).unwrap_or(usize::MAX);
        if bytes <= max_bytes {
            let Some(rest) = left.checked_sub(bytes) else {
                break;
            };
            left = rest;
            readable.push(row.id);
        }
        let content = Err(Unreadable::TooLarge(u64::try_from(bytes).unwrap_or(u64::MAX)));
        rows.push(InboxRow { id: row.id, inserted_at: row.inserted_at, content });
    }
    if readable.is_empty() {
        return Ok(rows);
    }
    // Both lists are in the same order.
    let mut contents = conn.inbox_contents(&readable).await?.into_iter().peekable();
    for row in &mut rows {
        if let Some((_, content)) = contents.next_if(|(id, _)| *id == row.id) {
            row.content = content;
        }
    }
    Ok(rows)
}

/// The number of rows, up to `limit`, and when the oldest was inserted.
pub(super) async fn depth(conn: &mut Connection, limit: u32) -> Result<InboxDepth> {
    let row = query!(
        r#"
        select (select count(*) from (select 1 as one from inbox limit $1) i) as "rows!: i64",
            (select inserted_at from inbox order by id limit 1) as "oldest?: Timestamp"
        "#,
        i64::from(limit)
    )
    .fetch_one(conn)
    .await?;
    Ok(InboxDepth { rows: u32::try_from(row.rows).unwrap_or(limit), oldest: row.oldest })
}
