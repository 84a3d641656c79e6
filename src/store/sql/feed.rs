//! Reads of the feed.

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::dialect::feed::{AttemptRow, ConnectionRow, EventRow};
use super::dialect::{Connection, FeedStatements, query};
use crate::event::Epoch;
use crate::store::{
    Feed, FeedAttempt, FeedConnection, FeedDetails, FeedEnds, FeedEvent, FeedRows, FeedSpans,
    Result,
};

#[async_trait]
impl Feed for Backend {
    async fn feed_ends(&self) -> Result<FeedEnds> {
        run!(self.point_read, |conn| ends(conn))
    }

    async fn feed_rows(&self, spans: &FeedSpans, details: &FeedDetails) -> Result<FeedRows> {
        let (spans, details) = (spans.clone(), details.clone());
        run!(self.query, |conn| rows(conn, spans, details))
    }

    fn feed_has_gaps(&self) -> bool {
        Connection::FEED_HAS_GAPS
    }
}

async fn ends(conn: &mut Connection) -> Result<FeedEnds> {
    let row = query!(
        r#"
        select (select epoch from streams order by gateway limit 1) as "epoch?: Epoch",
            coalesce((select max(event) from events), 0) as "events!: i64",
            coalesce((select max(attempt) from attempts), 0) as "attempts!: i64",
            coalesce((select max(change) from connection_changes), 0) as "connections!: i64"
        "#
    )
    .fetch_one(conn)
    .await?;
    Ok(FeedEnds {
        epoch: row.epoch,
        events: row.events,
        attempts: row.attempts,
        connections: row.connections,
    })
}

async fn rows(conn: &mut Connection, spans: FeedSpans, details: FeedDetails) -> Result<FeedRows> {
    let limit = i64::try_from(spans.limit).unwrap_or(i64::MAX);
    let mut rows = FeedRows::default();
    if !spans.events.is_empty() {
        let events = conn.feed_events(&spans.events, limit, &details).await?;
        rows.events = events.into_iter().map(event).collect();
    }
    if !spans.attempts.is_empty() {
        let attempts = conn.feed_attempts(&spans.attempts, limit, &details).await?;
        rows.attempts = attempts.into_iter().map(attempt).collect();
    }
    if !spans.connections.is_empty() {
        let changes = conn.feed_connections(&spans.connections, limit).await?;
        rows.connections = changes.into_iter().map(connection).collect();
    }
    Ok(rows)
}

/// The elements of a list that is separated by commas.
fn listed<T: std::str::FromStr>(list: Option<String>) -> Vec<T> {
    list.map(|list| list.split(',').filter_map(|one| one.parse().ok()).collect())
        .unwrap_or_default()
}

fn event(row: EventRow) -> FeedEvent {
    FeedEvent {
        key: row.key,
        organisation: row.organisation,
        at: row.at,
        id: row.id,
        event_type: row.event_type,
        correlation_id: row.correlation_id,
        user_id: row.user_id,
        matched: row.matched,
        gateways: listed(row.gateways),
    }
}

fn attempt(row: AttemptRow) -> FeedAttempt {
    FeedAttempt {
        key: row.key,
        organisation: row.organisation,
        at: row.at,
        started_at: row.started_at,
        gateway_id: row.gateway_id,
        gateway_name: row.gateway_name,
        first: row.first,
        last: row.last,
        outcome: row.outcome,
        reason: row.reason,
        detail: row.detail.filter(|detail| !detail.is_empty()),
        connection: row.connection,
        event_id: row.event_id,
        types: listed(row.types),
    }
}

fn connection(row: ConnectionRow) -> FeedConnection {
    FeedConnection {
        key: row.key,
        organisation: row.organisation,
        at: row.at,
        gateway_id: row.gateway_id,
        gateway_name: row.gateway_name,
        connection: row.connection,
        closed: row.closed,
        transport: row.transport,
        remote_address: row.remote_address,
        node: row.node,
        reason: row.reason,
    }
}
