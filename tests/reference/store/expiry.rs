//! Expiry of events whose gateway has no live connection.

use gateway_events::clock::Timestamp;
use gateway_events::event::Reason;
use gateway_events::store::expiry_mark::{BatchEnd, Search};
use gateway_events::store::limits::EXPIRED_DELIVERIES;
use gateway_events::store::{Expiries, ExpiryMark, Result, TimedKey, UndeliveredRange};

use super::ledger::{Ended, How, runs};
use super::tables::{Key, Tables};

impl Tables {
    /// Records a bounded number of deliveries of expired events as failed.
    pub(super) fn expire(&mut self, now: Timestamp, mark: &mut ExpiryMark) -> Result<Expiries> {
        let mut all = Expiries::default();
        for search in [Search::New, Search::Again] {
            let (batch, Some(after)) = (mark.batch(), mark.begin(search)) else { break };
            let (expired, end) = self.expire_after(now, after, batch)?;
            mark.end(search, end);
            all.expired.extend(expired);
            if !end.is_last {
                all.more = true;
                break;
            }
        }
        Ok(all)
    }

    /// Records expired deliveries of the events after this one as failed.
    fn expire_after(
        &mut self,
        now: Timestamp,
        after: TimedKey,
        batch: i64,
    ) -> Result<(Vec<UndeliveredRange>, BatchEnd)> {
        let (most, most_open) = (count(batch), count(EXPIRED_DELIVERIES));
        let mut due = self.due_events(now);
        due.retain(|event| *event > after);
        let is_last = due.len() < most;
        due.truncate(most);
        let next = due.last().copied().unwrap_or(after);
        let mut open: Vec<Key> = Vec::new();
        for event in &due {
            let deliveries = self.outbox.iter().filter(|(_, of)| **of == event.key);
            let away = |(gateway, _): &Key| self.live_connections(*gateway) == 0;
            open.extend(
                deliveries.map(|(key, _)| *key).filter(|key| self.can_expire(*key)).filter(away),
            );
        }
        let is_full = open.len() >= most_open;
        open.truncate(most_open);
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
                self.dead_letter(gateway, range, Reason::Expired, now)?;
                expired.push((gateway, range));
            }
        }
        let expired = self.named(&expired)?;
        let (next, is_last) = if is_full { (after, false) } else { (next, is_last) };
        let is_idle = expired.is_empty();
        Ok((expired, BatchEnd { next, now, is_last, is_idle }))
    }

    /// Expired events with an open delivery, by expiry.
    fn due_events(&self, now: Timestamp) -> Vec<TimedKey> {
        let mut due: Vec<TimedKey> = self
            .events
            .iter()
            .filter_map(|(key, row)| Some(TimedKey { at: row.event.expires_at?, key: *key }))
            .filter(|event| {
                event.at <= now
                    && self.outbox.iter().any(|(key, of)| *of == event.key && self.can_expire(*key))
            })
            .collect();
        due.sort_unstable();
        due
    }

    /// Whether a delivery is neither confirmed nor dead.
    pub(super) fn can_expire(&self, key: Key) -> bool {
        let (gateway, sequence) = key;
        let is_live = self.gateways.get(&gateway).is_some_and(|row| row.deleted_at.is_none());
        is_live
            && sequence > self.shown_position(gateway)
            && !self.is_dead(key)
            && !self.superseded.contains(&key)
    }
}

fn count(most: i64) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX)
}
