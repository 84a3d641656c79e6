//! Expiry of events whose gateway has no live connection.

use super::ledger::{Ended, How, runs};
use super::tables::{Key, Tables};
use gateway_events::clock::Timestamp;
use gateway_events::event::Reason;
use gateway_events::store::limits::{EXPIRED_DELIVERIES, EXPIRED_EVENTS};
use gateway_events::store::{Expiries, ExpiryMark, Result};

impl Tables {
    /// Records a bounded number of deliveries of expired events as failed.
    pub(super) fn expire(&mut self, now: Timestamp, mark: &mut ExpiryMark) -> Result<Expiries> {
        let (most, most_open) = (count(EXPIRED_EVENTS), count(EXPIRED_DELIVERIES));
        let mut due = self.due_events(now);
        due.retain(|event| *event > mark.after);
        let is_last = due.len() < most;
        due.truncate(most);
        let next = due.last().filter(|_| !is_last).map(|last| ExpiryMark { after: *last });
        let mut open: Vec<Key> = Vec::new();
        for (_, event) in &due {
            let deliveries = self.outbox.iter().filter(|(_, of)| *of == event);
            let away = |(gateway, _): &Key| self.live_connections(*gateway) == 0;
            open.extend(
                deliveries.map(|(key, _)| *key).filter(|key| self.can_expire(*key)).filter(away),
            );
        }
        let is_full = open.len() >= most_open;
        open.truncate(most_open);
        if !is_full {
            *mark = next.unwrap_or_default();
        }
        open.sort_unstable();
        let mut expired = Vec::new();
        for few in open.chunk_by(|one, other| one.0 == other.0) {
            let gateway = few[0].0;
            for range in runs(few.iter().map(|(_, sequence)| *sequence)) {
                self.write_attempts(&Ended {
                    gateway,
                    connection: None,
                    range,
                    how: How::Failed(Reason::Expired, ""),
                    started_at: now,
                    finished_at: now,
                })?;
                self.bury(gateway, range, Reason::Expired, now)?;
                expired.push((gateway, range));
            }
        }
        let expired = self.named(&expired)?;
        Ok(Expiries { expired, more: is_full || !is_last })
    }

    /// Expired events with an open delivery, by expiry.
    fn due_events(&self, now: Timestamp) -> Vec<(Timestamp, i64)> {
        let mut due: Vec<(Timestamp, i64)> = self
            .events
            .iter()
            .filter_map(|(key, row)| Some((row.event.expires_at?, *key)))
            .filter(|(at, event)| {
                *at <= now
                    && self.outbox.iter().any(|(key, of)| of == event && self.can_expire(*key))
            })
            .collect();
        due.sort_unstable();
        due
    }

    /// Whether a delivery is neither confirmed nor dead.
    fn can_expire(&self, key: Key) -> bool {
        let (gateway, sequence) = key;
        let is_live = self.gateways.get(&gateway).is_some_and(|row| row.deleted_at.is_none());
        is_live && sequence > self.shown_position(gateway) && !self.is_dead(key)
    }
}

fn count(most: i64) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX)
}
