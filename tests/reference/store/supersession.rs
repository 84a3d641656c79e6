//! Supersession.

use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayKey, Sequence};
use gateway_events::store::supersession::{Collapsible, PAGE, Supersession};
use gateway_events::store::{Range, Result};

use super::ledger::{Ended, How, runs};
use super::tables::{Key, Tables};

impl Tables {
    /// Examines the next page of a backlog.
    pub(super) fn supersede(
        &mut self,
        now: Timestamp,
        mut backlog: Supersession,
    ) -> Result<Supersession> {
        let gateway = backlog.gateway;
        for superseded in backlog.examine(self.collapsible(now, &backlog)) {
            let range = superseded.range;
            for sequence in range.first.0..=range.last.0 {
                self.superseded.insert((gateway, sequence));
            }
            self.write_attempts(&Ended {
                gateway,
                connection: None,
                range,
                how: How::Superseded(&superseded.detail()),
                started_at: now,
                finished_at: now,
            })?;
        }
        Ok(backlog)
    }

    fn collapsible(&self, now: Timestamp, backlog: &Supersession) -> Vec<Collapsible> {
        let gateway = backlog.gateway;
        let is_open =
            self.connections.get(&backlog.connection).is_some_and(|it| it.closed.is_none());
        let Some(row) = self.gateways.get(&gateway) else { return Vec::new() };
        if !is_open || self.live_connections(gateway) != 1 {
            return Vec::new();
        }
        let positions = self.cursors.range((gateway, String::new())..);
        let positions = positions.take_while(|((of, _), _)| *of == gateway);
        let received = positions.map(|(_, cursor)| cursor.received).max().unwrap_or(0);
        let first = (gateway, received.max(row.stream.attended) + 1);
        let page = self.collapse_keys.range(first..(gateway, backlog.before.0.max(first.1)));
        let page = page.rev().filter_map(|(key, collapse_key)| {
            let event = self.events.get(self.outbox.get(key)?)?;
            let is_unsent = row.stream.left.is_none_or(|(at, _)| event.appended_at > at);
            let has_expired = event.event.expires_at.is_some_and(|at| at <= now);
            let is_open = event.purged.is_none() && !has_expired && !self.is_withheld(*key);
            is_unsent.then(|| Collapsible {
                sequence: Sequence(key.1),
                event_type: event.event.event_type.clone(),
                key: collapse_key.clone(),
                is_open,
                expires_at: event.event.expires_at,
            })
        });
        page.take(PAGE).collect()
    }

    /// The parts of these ranges that are not superseded.
    pub(super) fn not_superseded(&self, gateway: GatewayKey, ranges: Vec<Range>) -> Vec<Range> {
        let sequences = ranges.into_iter().flat_map(|range| range.first.0..=range.last.0);
        runs(sequences.filter(|sequence| !self.superseded.contains(&(gateway, *sequence))))
    }

    fn is_withheld(&self, key: Key) -> bool {
        self.skipped.contains(&key) || self.superseded.contains(&key)
    }

    /// Whether the log has deliveries with a collapse key that no connection can have been sent.
    pub(super) fn is_collapsible(&self, gateway: GatewayKey) -> bool {
        let attended = self.gateways.get(&gateway).map_or(0, |row| row.stream.attended);
        let keys = self.collapse_keys.range((gateway, attended + 1)..=(gateway, i64::MAX));
        keys.map(|(key, _)| key).any(|key| self.outbox.contains_key(key))
    }
}
