//! Retention: one bounded batch of one kind of row, and a mark that says where the next batch
//! continues.

use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayKey, Reason, Sequence};
use gateway_events::store::limits::{IDEMPOTENCY_WINDOW, MAX_RANGE_LENGTH, TRIMMED_STREAMS};
use gateway_events::store::ranges::above;
use gateway_events::store::{
    Outcome, Range, Result, RetentionLimits, TimedKey, TrimMark, TrimStep, Trimmed,
};

use super::ledger::{Ended, How, length};
use super::tables::{Key, Tables};

mod dead_letters;

impl Tables {
    pub(super) fn trim(
        &mut self,
        now: Timestamp,
        limits: &RetentionLimits,
        mark: &mut TrimMark,
    ) -> Result<Trimmed> {
        let now = mark.measure_by(now);
        let batch = usize::try_from(limits.batch.max(1)).unwrap_or(usize::MAX);
        let old = now.minus(limits.max_age);
        let mut trimmed = Trimmed::default();
        let rows = match mark.step {
            TrimStep::Logs => {
                let is_over = self.trim_logs(now, limits, mark, &mut trimmed)?;
                if is_over { 0 } else { usize::MAX }
            }
            TrimStep::Positions => {
                let before = now.minus(limits.orphaned_cursor_max_age);
                let left = |(key, row): (&(GatewayKey, String), &super::tables::Cursor)| {
                    Some((row.left_at.filter(|at| *at < before)?, key.clone()))
                };
                let gone = oldest(self.cursors.iter().filter_map(left), batch);
                gone.iter().filter(|key| self.cursors.remove(key).is_some()).count()
            }
            TrimStep::Instances => {
                let before = now.minus(limits.instance_max_age);
                let (expired, is_over) = self.expire_instances(now, before, mark, batch)?;
                trimmed.instances = expired;
                if is_over { 0 } else { usize::MAX }
            }
            TrimStep::ExpiredInstances => {
                let before = limits.replaced_before(now);
                let rows =
                    self.expired_instances.iter().map(|(key, row)| (row.expired_at, key.clone()));
                let gone = oldest(rows.filter(|(at, _)| *at < before), batch);
                gone.iter().filter(|key| self.expired_instances.remove(key).is_some()).count()
            }
            TrimStep::Events => self.trim_events(old, limits, batch, mark, &mut trimmed),
            TrimStep::Attempts => self.trim_attempts(old, limits, batch, mark, &mut trimmed),
            TrimStep::OldAttempts => {
                let before = limits.dead_before(now);
                let rows = self.attempts.iter().map(|(key, row)| (row.finished_at, *key));
                let gone = oldest(rows.filter(|(at, _)| *at < before), batch);
                trimmed.attempts = gone.len() as u64;
                gone.iter().filter(|key| self.attempts.remove(key).is_some()).count()
            }
            TrimStep::DeadLetters => self.trim_spent_dead_letters(old, limits, batch, mark)?,
            TrimStep::OldDeadLetters => {
                self.trim_old_dead_letters(now, limits, batch, mark, &mut trimmed)?
            }
            TrimStep::Keys => self.trim_keys(now.minus(IDEMPOTENCY_WINDOW), batch),
            TrimStep::Connections => {
                let closed = self.connections.iter().filter_map(|(id, row)| {
                    Some((row.closed.map(|(at, _)| at).filter(|at| *at < old)?, *id))
                });
                let gone = oldest(closed, batch);
                gone.iter().filter(|id| self.connections.remove(id).is_some()).count()
            }
            TrimStep::Changes => {
                let oldest = self.connection_changes.iter().take(batch);
                let gone: Vec<i64> =
                    oldest.filter(|(_, row)| row.at < old).map(|(key, _)| *key).collect();
                gone.iter().filter(|key| self.connection_changes.remove(key).is_some()).count()
            }
            TrimStep::Rejected => self.trim_rejected(now.minus(limits.hard_max_age), batch),
            TrimStep::ConsoleSessions => self.trim_console_sessions(now, batch),
            TrimStep::Audit => self.trim_audit(now.minus(limits.audit_max_age), batch),
            TrimStep::Jobs => self.forget_jobs(now.minus(limits.audit_max_age), batch),
            TrimStep::GatewayHistory => self.trim_history(limits.replaced_before(now), batch),
            TrimStep::Resyncs => self.forget_resyncs(now.minus(limits.audit_max_age), batch),
            TrimStep::Alerts => self.forget_alerts(old, batch),
            // It counts when it is asked.
            TrimStep::FailureCounts | TrimStep::EventCounts => 0,
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

    fn trim_rejected(&mut self, before: Timestamp, batch: usize) -> usize {
        let rows = self.rejected.iter().map(|(key, row)| (row.rejected_at, *key));
        let gone = oldest(rows.filter(|(at, _)| *at < before), batch);
        gone.iter().filter(|key| self.rejected.remove(key).is_some()).count()
    }

    /// Trims the next logs, by at most `batch` rows in all. Returns whether these were the last
    /// logs.
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
            self.forget_kept(now, limits, *gateway, trimmed)?;
        }
        for gateway in &found {
            let rows = self.trim_log(now, limits, *gateway, budget, mark, trimmed)?;
            budget -= rows;
            if budget <= 0 {
                // This log may have more rows to remove.
                mark.gateway = gateway.0 - 1;
                return Ok(false);
            }
        }
        mark.gateway = found.last().unwrap_or(&after).0;
        Ok(found.len() < most)
    }

    /// Removes a log's oldest rows; returns how many were examined.
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
                // The age of a redrive counts from the redrive, not from its event.
                let appended_at = self.events.get(event)?.appended_at;
                let appended_at = self.again_at((gateway, *sequence)).unwrap_or(appended_at);
                Some((*sequence, *event, appended_at))
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
        // The rest of a deleted gateway's log is not recorded as failed by retention.
        if let Some(open) = above(range, confirmed).filter(|_| !is_deleted) {
            trimmed.lost += self.lose(now, gateway, open)?;
        }
        let stream = self.stream(gateway)?;
        stream.floor = range.last.0;
        stream.missed = stream.missed.max(range.last.0);
        for (sequence, event) in &gone {
            self.outbox.remove(&(gateway, *sequence));
            self.collapse_keys.remove(&(gateway, *sequence));
            self.superseded.remove(&(gateway, *sequence));
            self.trimmed.insert((gateway, *sequence), *event);
        }
        let passed = if is_deleted { i64::MAX } else { lowest };
        let reaching = range.first.0 - MAX_RANGE_LENGTH;
        let kept = self.kept_dead_letters(limits);
        self.forget_letters(|key, letter| {
            key.0 == gateway
                && key.1 > reaching
                && letter.last <= range.last.0.min(passed)
                && letter.dead_at < old
                && (letter.dead_at < limits.dead_before(now) || !kept.contains(&key))
        })?;
        let events: Vec<i64> = gone.iter().map(|(_, event)| *event).collect();
        trimmed.events += self.forget_events(&events, spent_before(now, limits), limits);
        trimmed.deliveries += gone.len() as u64;
        mark.dead_letters_wait |= range.last.0 > passed;
        Ok(i64::try_from(looked_at.len()).unwrap_or(i64::MAX))
    }

    /// Records the removal of unconfirmed deliveries. Dead letters and superseded deliveries are already
    /// recorded.
    fn lose(&mut self, now: Timestamp, gateway: GatewayKey, range: Range) -> Result<u64> {
        let mut lost = 0;
        for part in self.not_superseded(gateway, self.not_dead(gateway, range)) {
            self.write_attempts(&Ended {
                gateway,
                connection: None,
                range: part,
                how: How::Failed(Reason::Retention, ""),
                started_at: now,
                finished_at: now,
            })?;
            self.dead_letter(gateway, part, Reason::Retention, now)?;
            lost += u64::try_from(length(part)).unwrap_or(0);
        }
        Ok(lost)
    }

    /// Deletes the record of a log's trimmed deliveries beyond the hard limit.
    fn forget_kept(
        &mut self,
        now: Timestamp,
        limits: &RetentionLimits,
        gateway: GatewayKey,
        trimmed: &mut Trimmed,
    ) -> Result<()> {
        let last = self.gateway_row(gateway)?.stream.head.saturating_sub(limits.hard_max_events);
        let most = usize::try_from(limits.batch.max(1)).unwrap_or(usize::MAX);
        let before = spent_before(now, limits);
        let rows =
            self.trimmed.iter().filter(|((of, sequence), _)| *of == gateway && *sequence <= last);
        let is_old =
            |event: &i64| self.events.get(event).is_some_and(|row| row.appended_at < before);
        let gone: Vec<(Key, i64)> = rows
            .take(most)
            .take_while(|(_, event)| is_old(event))
            .map(|(key, event)| (*key, *event))
            .collect();
        for (key, _) in &gone {
            self.trimmed.remove(key);
        }
        let events: Vec<i64> = gone.iter().map(|(_, event)| *event).collect();
        trimmed.events += self.forget_events(&events, before, limits);
        Ok(())
    }

    /// Deletes those of these events that are old, that no log refers to, and that are not kept for
    /// a dead letter.
    pub(super) fn forget_events(
        &mut self,
        events: &[i64],
        before: Timestamp,
        limits: &RetentionLimits,
    ) -> u64 {
        let kept = self.kept_dead_letters(limits);
        let is_kept = |tables: &Self, event: i64| {
            tables.trimmed.iter().filter(|(_, of)| **of == event).any(|(key, _)| {
                tables.dead_letter_at(*key).is_some_and(|(first, _)| kept.contains(&(key.0, first)))
            })
        };
        let mut forgotten = 0;
        for event in events {
            let is_named = self.outbox.values().any(|named| named == event);
            let is_old = self.events.get(event).is_some_and(|row| row.appended_at < before);
            if !is_named
                && is_old
                && !is_kept(self, *event)
                && let Some(row) = self.events.remove(event)
            {
                self.event_keys.remove(&(row.organisation, row.event.id.clone()));
                self.trimmed.retain(|_, of| of != event);
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Examines the next old events. Those that a log still refers to are not examined again: they
    /// are deleted with their last log row.
    fn trim_events(
        &mut self,
        before: Timestamp,
        limits: &RetentionLimits,
        batch: usize,
        mark: &mut TrimMark,
        trimmed: &mut Trimmed,
    ) -> usize {
        let mut rows: Vec<TimedKey> = self
            .events
            .iter()
            .map(|(event, row)| TimedKey { at: row.appended_at, key: *event })
            .filter(|row| *row > mark.event && row.at < before)
            .collect();
        rows.sort_unstable();
        rows.truncate(batch);
        mark.event = rows.last().copied().unwrap_or(mark.event);
        let events: Vec<i64> = rows.iter().map(|row| row.key).collect();
        trimmed.events = self.forget_events(&events, before, limits);
        rows.len()
    }

    /// Deletes old attempts, except failed ones of dead letters that are kept.
    fn trim_attempts(
        &mut self,
        before: Timestamp,
        limits: &RetentionLimits,
        batch: usize,
        mark: &mut TrimMark,
        trimmed: &mut Trimmed,
    ) -> usize {
        let rows =
            self.attempts.iter().map(|(key, row)| TimedKey { at: row.finished_at, key: *key });
        let mut rows: Vec<_> = rows.filter(|it| *it > mark.attempt && it.at < before).collect();
        rows.sort_unstable();
        rows.truncate(batch);
        mark.attempt = rows.last().copied().unwrap_or(mark.attempt);
        let kept = self.kept_dead_letters(limits);
        for TimedKey { key, .. } in &rows {
            let is_kept = self.attempts.get(key).is_some_and(|row| {
                row.outcome == Outcome::Failed
                    && kept.iter().any(|(gateway, first)| {
                        let last =
                            self.dead_letters.get(&(*gateway, *first)).map_or(0, |it| it.last);
                        *gateway == row.gateway && *first <= row.last && last >= row.first
                    })
            });
            if !is_kept && self.attempts.remove(key).is_some() {
                trimmed.attempts += 1;
            }
        }
        rows.len()
    }
}

/// Events that were appended before this are deleted with their last delivery.
fn spent_before(now: Timestamp, limits: &RetentionLimits) -> Timestamp {
    now.minus(IDEMPOTENCY_WINDOW.min(limits.max_age))
}

impl Tables {
    /// Removes the responses and results of requests that were kept before an instant.
    fn trim_keys(&mut self, before: Timestamp, batch: usize) -> usize {
        let responses = self.responses.iter().map(|(key, row)| (row.created_at, key.clone()));
        let responses = oldest(responses.filter(|(at, _)| *at < before), batch);
        let results = self.results.iter().map(|(key, row)| (row.created_at, key.clone()));
        let results = oldest(results.filter(|(at, _)| *at < before), batch - responses.len());
        responses.iter().filter(|key| self.responses.remove(key).is_some()).count()
            + results.iter().filter(|key| self.results.remove(key).is_some()).count()
    }
}

/// The keys of the oldest rows, at most `batch`.
pub(super) fn oldest<K: Ord>(rows: impl Iterator<Item = (Timestamp, K)>, batch: usize) -> Vec<K> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable();
    rows.truncate(batch);
    rows.into_iter().map(|(_, key)| key).collect()
}
