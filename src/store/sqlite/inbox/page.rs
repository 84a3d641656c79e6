//! Looking into the inbox. What stands there was written by others: sizes are
//! looked at before anything is read, and text may be no text.

use sqlx::SqliteConnection;

use super::super::json;
use crate::clock::Timestamp;
use crate::store::{InboxContent, InboxDepth, InboxRow, Result, Unreadable};

/// The oldest rows, up to `limit` and about `max_bytes`, but at least one.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<InboxRow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // The length of a text stands in its row's header: no payload is touched.
    let sizes = sqlx::query!(
        r#"
        select id as "id!: i64", inserted_at as "inserted_at!: i64",
            octet_length(organisation) + octet_length(type) + octet_length(payload)
            + coalesce(octet_length(gateway_id), 0) + coalesce(octet_length(target), 0)
            + coalesce(octet_length(event_id), 0) + coalesce(octet_length(correlation_id), 0)
            + coalesce(octet_length(user_id), 0) + coalesce(octet_length(expires_at), 0) as "bytes!: i64"
        from inbox order by id limit $1
        "#,
        limit
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut rows: Vec<InboxRow> = Vec::new();
    let mut readable = Vec::new();
    let mut left = max_bytes;
    for row in sizes {
        let bytes = usize::try_from(row.bytes).unwrap_or(usize::MAX);
        if bytes <= max_bytes {
            let Some(rest) = left.checked_sub(bytes) else {
                break;
            };
            left = rest;
            readable.push(row.id);
        }
        let content = Err(Unreadable::TooLarge(u64::try_from(bytes).unwrap_or(u64::MAX)));
        let inserted_at = Timestamp::from_micros(row.inserted_at);
        rows.push(InboxRow { id: row.id, inserted_at, content });
    }
    let mut contents = contents(connection, &readable).await?.into_iter().peekable();
    for row in &mut rows {
        if let Some((_, content)) = contents.next_if(|(id, _)| *id == row.id) {
            row.content = content;
        }
    }
    Ok(rows)
}

type Content = std::result::Result<InboxContent, Unreadable>;

/// The columns of these rows, in the same order.
async fn contents(connection: &mut SqliteConnection, ids: &[i64]) -> Result<Vec<(i64, Content)>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids = json(ids)?;
    // As bytes: SQLite does not check that a text is UTF-8.
    let rows = sqlx::query!(
        r#"
        select i.id as "id!: i64", cast(i.organisation as blob) as "organisation!: Vec<u8>",
            cast(i.type as blob) as "event_type!: Vec<u8>",
            cast(i.payload as blob) as "payload!: Vec<u8>",
            cast(i.gateway_id as blob) as "gateway_id?: Vec<u8>",
            cast(i.target as blob) as "target?: Vec<u8>",
            cast(i.event_id as blob) as "event_id?: Vec<u8>",
            cast(i.correlation_id as blob) as "correlation_id?: Vec<u8>",
            cast(i.user_id as blob) as "user_id?: Vec<u8>",
            cast(i.expires_at as blob) as "expires_at?: Vec<u8>"
        from json_each($1) as wanted join inbox i on i.id = wanted.value
        order by i.id
        "#,
        ids
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let content = || {
                Ok(InboxContent {
                    organisation: text("organisation", row.organisation)?,
                    event_type: text("type", row.event_type)?,
                    payload: text("payload", row.payload)?,
                    gateway_id: optional("gateway_id", row.gateway_id)?,
                    target: optional("target", row.target)?,
                    event_id: optional("event_id", row.event_id)?,
                    correlation_id: optional("correlation_id", row.correlation_id)?,
                    user_id: optional("user_id", row.user_id)?,
                    expires_at: optional("expires_at", row.expires_at)?,
                })
            };
            (row.id, content())
        })
        .collect())
}

fn text(column: &'static str, bytes: Vec<u8>) -> std::result::Result<String, Unreadable> {
    String::from_utf8(bytes).map_err(|_| Unreadable::NotUtf8(column))
}

fn optional(
    column: &'static str,
    bytes: Option<Vec<u8>>,
) -> std::result::Result<Option<String>, Unreadable> {
    bytes.map(|bytes| text(column, bytes)).transpose()
}

/// How much waits.
pub(super) async fn depth(connection: &mut SqliteConnection) -> Result<InboxDepth> {
    let row = sqlx::query!(
        r#"
        select (select count(*) from inbox) as "rows!: i64",
            (select inserted_at from inbox order by id limit 1) as "oldest?: i64"
        "#
    )
    .fetch_one(connection)
    .await?;
    Ok(InboxDepth { rows: row.rows, oldest: row.oldest.map(Timestamp::from_micros) })
}
