//! The feed: rows of three tables by their keys, which are in the order of the commits.

use std::collections::BTreeSet;

use async_trait::async_trait;
use gateway_events::event::{ConnectionId, EventType, GatewayKey};
use gateway_events::store::{
    Feed, FeedAttempt, FeedConnection, FeedDetails, FeedEnds, FeedEvent, FeedRows, FeedSpans,
    Result,
};

use super::MemoryStore;
use super::tables::{EventRow, Tables};

/// A connection that was opened or closed.
#[derive(Clone, Debug)]
pub(super) struct ConnectionChange {
    pub(super) connection: ConnectionId,
    pub(super) gateway: GatewayKey,
    pub(super) closed: bool,
    pub(super) at: gateway_events::clock::Timestamp,
}

#[async_trait]
impl Feed for MemoryStore {
    async fn feed_ends(&self) -> Result<FeedEnds> {
        self.read(|tables| Ok(tables.feed_ends())).await
    }

    async fn feed_rows(&self, spans: &FeedSpans, details: &FeedDetails) -> Result<FeedRows> {
        self.read(|tables| Ok(tables.feed_rows(spans, details))).await
    }

    fn feed_has_gaps(&self) -> bool {
        false
    }
}

impl Tables {
    pub(super) fn feed_ends(&self) -> FeedEnds {
        let last = |key: Option<&i64>| key.copied().unwrap_or(0);
        FeedEnds {
            epoch: self.gateways.values().next().map(|gateway| gateway.stream.epoch),
            events: last(self.events.keys().next_back()),
            attempts: last(self.attempts.keys().next_back()),
            connections: last(self.connection_changes.keys().next_back()),
        }
    }

    pub(super) fn feed_rows(&self, spans: &FeedSpans, details: &FeedDetails) -> FeedRows {
        let mut rows = FeedRows::default();
        for span in &spans.events {
            let events = self.events.range(span.clone()).take(spans.limit);
            rows.events.extend(events.map(|(key, row)| self.feed_event(*key, row, details)));
        }
        for span in &spans.attempts {
            let keys = self.attempts.range(span.clone()).take(spans.limit).map(|(key, _)| *key);
            rows.attempts.extend(keys.filter_map(|key| self.feed_attempt(key, details)));
        }
        for span in &spans.connections {
            let changes = self.connection_changes.range(span.clone()).take(spans.limit);
            rows.connections.extend(changes.filter_map(|(key, row)| self.feed_change(*key, row)));
        }
        rows
    }

    fn feed_event(&self, key: i64, row: &EventRow, details: &FeedDetails) -> FeedEvent {
        let of_event = self.outbox.iter().filter(|(_, event)| **event == key);
        let ids = of_event.filter_map(|((gateway, _), _)| Some(self.gateways.get(gateway)?.id));
        FeedEvent {
            key,
            organisation: row.organisation,
            at: row.appended_at,
            id: row.event.id.clone(),
            event_type: row.event.event_type.clone(),
            correlation_id: row.event.correlation_id.clone(),
            user_id: row.event.user_id.clone(),
            matched: Some(row.matched),
            gateways: ids.filter(|id| details.gateways.contains(id)).collect(),
        }
    }

    fn feed_attempt(&self, key: i64, details: &FeedDetails) -> Option<FeedAttempt> {
        let row = self.attempts.get(&key)?;
        let gateway = self.gateways.get(&row.gateway)?;
        let covered = self.outbox.range((row.gateway, row.first)..=(row.gateway, row.last));
        let events: Vec<&EventRow> =
            covered.filter_map(|(_, event)| self.events.get(event)).collect();
        let is_single = row.first == row.last;
        let types: BTreeSet<EventType> =
            events.iter().map(|row| row.event.event_type.clone()).collect();
        Some(FeedAttempt {
            key,
            organisation: gateway.organisation,
            at: row.finished_at,
            started_at: row.started_at,
            gateway_id: gateway.id,
            gateway_name: gateway.name.clone(),
            first: gateway_events::event::Sequence(row.first),
            last: gateway_events::event::Sequence(row.last),
            outcome: row.outcome,
            reason: row.reason,
            detail: row.detail.clone().filter(|detail| !detail.is_empty()),
            connection: row.connection,
            event_id: events.first().filter(|_| is_single).map(|row| row.event.id.clone()),
            types: if is_single || details.types {
                types.into_iter().collect()
            } else {
                Vec::new()
            },
        })
    }

    fn feed_change(&self, key: i64, change: &ConnectionChange) -> Option<FeedConnection> {
        let gateway = self.gateways.get(&change.gateway)?;
        let row = self.connections.get(&change.connection);
        Some(FeedConnection {
            key,
            organisation: gateway.organisation,
            at: change.at,
            gateway_id: gateway.id,
            gateway_name: gateway.name.clone(),
            connection: change.connection,
            closed: change.closed,
            transport: row.map(|row| row.transport.to_owned()),
            remote_address: row.map(|row| row.remote_address.clone()),
            node: row.map(|row| row.node),
            reason: row.and_then(|row| row.closed).filter(|_| change.closed).map(|(_, why)| why),
        })
    }
}
