//! Retention: one bounded batch of one kind of row, and a mark that says where
//! the next one goes on.

use super::ledger::{Ended, How, length};
use super::tables::{Key, Letter, Tables};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Reason, Sequence};
use crate::store::limits::{LONGEST_RANGE, REPEATS, TRIMMED_STREAMS};
use crate::store::ranges::above;
use crate::store::{Range, Result, RetentionLimits, TrimMark, TrimStep, Trimmed};

impl Tables {
    pub(super) fn trim(
        &mut self,
        now: Timestamp,
        limits: &RetentionLimits,
        mark: &mut TrimMark,
    ) -> Result<Trimmed> {
        let batch = usize::try_from(limits.batch.max(1)).unwrap_or(usize::MAX);
        let old = now.minus(limits.max_age);
        let mut trimmed = Trimmed::default();
        let rows = match mark.step {
            TrimStep::Logs => {
                let is_over = self.trim_logs(now, limits, mark, &mut trimmed)?;
                if is_over { 0 } else { usize::MAX }
            }
            TrimStep::Positions => {
                let before = now.minus(limits.left_behind);
                let left = |(key, row): (&(GatewayKey, String), &super::tables::Cursor)| {
                    Some((row.left_at.filter(|at| *at < before)?, key.clone()))
                };
                let gone = oldest(self.cursors.iter().filter_map(left), batch);
                gone.iter().filter(|key| self.cursors.remove(key).is_some()).count()
            }
            TrimStep::Events => self.trim_events(old, batch, mark, &mut trimmed),
            TrimStep::Attempts => {
                let rows = self.attempts.iter().map(|(key, row)| (row.finished_at, *key));
                let gone = oldest(rows.filter(|(at, _)| *at < old), batch);
                trimmed.attempts = gone.len() as u64;
                gone.iter().filter(|key| self.attempts.remove(key).is_some()).count()
            }
            TrimStep::Letters => self.trim_letters(old, batch, mark)?,
            TrimStep::Keys => {
                let before = now.minus(REPEATS);
                let rows = self.answers.iter().map(|(key, row)| (row.created_at, key.clone()));
                let gone = oldest(rows.filter(|(at, _)| *at < before), batch);
                gone.iter().filter(|key| self.answers.remove(key).is_some()).count()
            }
            TrimStep::Connections => {
                let closed = self.connections.iter().filter_map(|(id, row)| {
                    Some((row.closed.map(|(at, _)| at).filter(|at| *at < old)?, *id))
                });
                let gone = oldest(closed, batch);
                gone.iter().filter(|id| self.connections.remove(id).is_some()).count()
            }
            TrimStep::Rejected => {
                let before = now.minus(limits.hard_max_age);
                let rows = self.rejected.iter().map(|(key, row)| (row.rejected_at, *key));
                let gone = oldest(rows.filter(|(at, _)| *at < before), batch);
                gone.iter().filter(|key| self.rejected.remove(key).is_some()).count()
            }
        };
        if rows >= batch {
            trimmed.more = true;
        } else {
            trimmed.more = mark.step.next().is_some();
            mark.step = mark.step.next().unwrap_or(TrimStep::Logs);
            mark.gateway = 0;
        }
        Ok(trimmed)
    }

    /// Trims the next logs, as many rows of them as a batch has. Answers
    /// whether these were the last.
    fn trim_logs(
        &mut self,
        now: Timestamp,
        limits: &RetentionLimits,
        mark: &mut TrimMark,
        trimmed: &mut Trimmed,
    ) -> Result<bool> {
        let after = GatewayKey(mark.gateway);
        let keys = self.gateways.keys().filter(|key| **key > after);
        let most = usize::try_from(TRIMMED_STREAMS).unwrap_or(usize::MAX);
        let found: Vec<GatewayKey> = keys.copied().take(most).collect();
        let mut budget = limits.batch.max(1);
        for gateway in &found {
            let rows = self.trim_log(now, limits, *gateway, budget, mark, trimmed)?;
            budget -= rows;
            if budget <= 0 {
                // There may be more of this one.
                mark.gateway = gateway.0 - 1;
                return Ok(false);
            }
        }
        mark.gateway = found.last().unwrap_or(&after).0;
        Ok(found.len() < most)
    }

    /// Removes a log's oldest rows; answers how many were looked at.
    fn trim_log(
        &mut self,
        now: Timestamp,
        limits: &RetentionLimits,
        gateway: GatewayKey,
        budget: i64,
        mark: &mut TrimMark,
        trimmed: &mut Trimmed,
    ) -> Result<i64> {
        let row = self.gateway_row(gateway)?;
        let (head, is_deleted) = (row.stream.head, row.deleted_at.is_some());
        let confirmed = Sequence(self.confirmed(gateway));
        let lowest = self.positions(gateway).min().unwrap_or(0);
        let old = now.minus(limits.max_age);
        let too_old = now.minus(limits.hard_max_age);
        let goes = |sequence: i64, appended_at: Timestamp| {
            let is_done = is_deleted || sequence <= lowest.min(confirmed.0);
            appended_at < too_old
                || sequence <= head - limits.hard_max_events
                || is_done && (appended_at < old || sequence <= head - limits.max_events)
        };
        let budget = usize::try_from(budget).unwrap_or(usize::MAX);
        let log = self.outbox.range((gateway, 0)..=(gateway, i64::MAX)).take(budget);
        let looked_at: Vec<_> = log
            .filter_map(|((_, sequence), event)| {
                Some((*sequence, *event, self.events.get(event)?.appended_at))
            })
            .collect();
        let gone: Vec<(i64, i64)> = looked_at
            .iter()
            .take_while(|(sequence, _, appended_at)| goes(*sequence, *appended_at))
            .map(|(sequence, event, _)| (*sequence, *event))
            .collect();
        let (Some((first, _)), Some((last, _))) = (gone.first(), gone.last()) else {
            return Ok(0);
        };
        let range = Range { first: Sequence(*first), last: Sequence(*last) };
        // What is left of a deleted gateway's log is nobody's loss.
        if let Some(open) = above(range, confirmed).filter(|_| !is_deleted) {
            trimmed.lost += self.lose(now, gateway, open)?;
        }
        let stream = self.stream(gateway)?;
        stream.floor = range.last.0;
        stream.missed = stream.missed.max(range.last.0);
        for (sequence, _) in &gone {
            self.outbox.remove(&(gateway, *sequence));
        }
        let passed = if is_deleted { i64::MAX } else { lowest };
        let reaching = range.first.0 - LONGEST_RANGE;
        self.forget_letters(|(of, first), letter| {
            of == gateway
                && first > reaching
                && letter.last <= range.last.0.min(passed)
                && letter.dead_at < old
        })?;
        let events: Vec<i64> = gone.iter().map(|(_, event)| *event).collect();
        let before = now.minus(REPEATS.min(limits.max_age));
        trimmed.events += self.forget_events(&events, before);
        trimmed.deliveries += gone.len() as u64;
        mark.letters_wait |= range.last.0 > passed;
        Ok(i64::try_from(looked_at.len()).unwrap_or(i64::MAX))
    }

    /// Records what is removed unconfirmed; what is dead already is on record.
    fn lose(&mut self, now: Timestamp, gateway: GatewayKey, range: Range) -> Result<u64> {
        let mut lost = 0;
        for part in self.not_dead(gateway, range) {
            self.write_attempts(&Ended {
                gateway,
                connection: None,
                range: part,
                how: How::Failed(Reason::Retention, ""),
                started_at: now,
                finished_at: now,
            })?;
            lost += u64::try_from(length(part)).unwrap_or(0);
        }
        self.bury(gateway, range, now)?;
        Ok(lost)
    }

    /// Removes those of these events that are old and that no log names any more.
    fn forget_events(&mut self, events: &[i64], before: Timestamp) -> u64 {
        let mut forgotten = 0;
        for event in events {
            let is_named = self.outbox.values().any(|named| named == event);
            let is_old = self.events.get(event).is_some_and(|row| row.appended_at < before);
            if !is_named
                && is_old
                && let Some(row) = self.events.remove(event)
            {
                self.event_keys.remove(&(row.organisation, row.event.id.clone()));
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Looks at the next old events. Those that are still named are passed for
    /// good: they go with their last outbox row.
    fn trim_events(
        &mut self,
        before: Timestamp,
        batch: usize,
        mark: &mut TrimMark,
        trimmed: &mut Trimmed,
    ) -> usize {
        let mut rows: Vec<(Timestamp, i64)> = self
            .events
            .iter()
            .map(|(event, row)| (row.appended_at, *event))
            .filter(|row| *row > mark.event && row.0 < before)
            .collect();
        rows.sort_unstable();
        rows.truncate(batch);
        mark.event = rows.last().copied().unwrap_or(mark.event);
        let events: Vec<i64> = rows.iter().map(|(_, event)| *event).collect();
        trimmed.events = self.forget_events(&events, before);
        rows.len()
    }

    /// Looks at the next old dead letters. Those whose deliveries are still
    /// there are passed for good: they go when the log is trimmed.
    fn trim_letters(
        &mut self,
        before: Timestamp,
        batch: usize,
        mark: &mut TrimMark,
    ) -> Result<usize> {
        let place = |(gateway, first): Key, letter: &Letter| (letter.dead_at, gateway.0, first);
        let from = mark.letter;
        let letters = self.dead_letters.iter().map(|(key, letter)| place(*key, letter));
        let mut rows: Vec<_> = letters.filter(|it| *it > from && it.0 < before).collect();
        rows.sort_unstable();
        rows.truncate(batch);
        let Some(last) = rows.last().copied() else {
            if std::mem::take(&mut mark.letters_wait) {
                mark.letter = TrimMark::default().letter;
            }
            return Ok(0);
        };
        mark.letter = last;
        // Up to where its log is trimmed, and up to where every position has passed it.
        let mut bounds = std::collections::BTreeMap::new();
        for (gateway, row) in &self.gateways {
            let lowest = self.positions(*gateway).min();
            let deleted = row.deleted_at.map(|_| i64::MAX);
            let passed = lowest.or(deleted).unwrap_or(0);
            bounds.insert(*gateway, (row.stream.floor, passed));
        }
        let within = |key, letter: &Letter| {
            let place = place(key, letter);
            from < place && place <= last
        };
        let is_trimmed = |key: Key, letter: &Letter| {
            bounds.get(&key.0).is_some_and(|(floor, _)| letter.last <= *floor)
        };
        self.forget_letters(|key, letter| {
            within(key, letter)
                && is_trimmed(key, letter)
                && bounds.get(&key.0).is_some_and(|(_, passed)| letter.last <= *passed)
        })?;
        mark.letters_wait |= self
            .dead_letters
            .iter()
            .any(|(key, letter)| within(*key, letter) && is_trimmed(*key, letter));
        Ok(rows.len())
    }

    fn forget_letters(&mut self, goes: impl Fn(Key, &Letter) -> bool) -> Result<()> {
        let gone = self.dead_letters.extract_if(.., |key, letter| goes(*key, letter));
        let open: Vec<_> = gone.filter(|(_, letter)| letter.redriven_at.is_none()).collect();
        for ((gateway, first), letter) in open {
            self.stream(gateway)?.dead_total -= letter.last - first + 1;
        }
        Ok(())
    }
}

/// The oldest few rows' keys.
fn oldest<K: Ord>(rows: impl Iterator<Item = (Timestamp, K)>, batch: usize) -> Vec<K> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable();
    rows.truncate(batch);
    rows.into_iter().map(|(_, key)| key).collect()
}
