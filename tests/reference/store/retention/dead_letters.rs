//! Old dead letters, and those that are kept to be redriven.

use std::collections::{BTreeMap, BTreeSet};

use gateway_events::clock::Timestamp;
use gateway_events::event::{Reason, Sequence};
use gateway_events::store::{DeadLetterPlace, Result, RetentionLimits, TrimMark, Trimmed};

use super::super::tables::{DeadLetter, Key, Tables};
use super::spent_before;

const fn place((gateway, first): Key, letter: &DeadLetter) -> DeadLetterPlace {
    DeadLetterPlace { dead_at: letter.dead_at, gateway, first: Sequence(first) }
}

impl Tables {
    /// The keys of open dead letters that are kept to be redriven.
    pub(super) fn kept_dead_letters(&self, limits: &RetentionLimits) -> BTreeSet<Key> {
        let is_kept = |(gateway, _): Key, letter: &DeadLetter| {
            letter.redriven_at.is_none()
                && letter.reason != Reason::Retention
                && self.gateways.get(&gateway).is_some_and(|row| {
                    let last = row.stream.head.saturating_sub(limits.hard_max_events);
                    row.deleted_at.is_none() && letter.last > last
                })
        };
        let letters = self.dead_letters.iter().filter(|(key, letter)| is_kept(**key, letter));
        letters.map(|(key, _)| *key).collect()
    }

    /// Dead letters after a position that died before an instant, oldest first.
    fn dead_letters_after(
        &self,
        from: DeadLetterPlace,
        before: Timestamp,
        batch: usize,
    ) -> Vec<(DeadLetterPlace, i64)> {
        let rows = self.dead_letters.iter().map(|(key, letter)| (place(*key, letter), letter.last));
        let mut rows: Vec<_> = rows.filter(|(at, _)| *at > from && at.dead_at < before).collect();
        rows.sort_unstable();
        rows.truncate(batch);
        rows
    }

    /// Examines the next dead letters that are older than the ledger, except those that are kept to
    /// be redriven.
    pub(super) fn trim_spent_dead_letters(
        &mut self,
        before: Timestamp,
        limits: &RetentionLimits,
        batch: usize,
        mark: &mut TrimMark,
    ) -> Result<usize> {
        let rows = self.dead_letters_after(mark.dead_letter, before, batch);
        let Some((last, _)) = rows.last().copied() else {
            if std::mem::take(&mut mark.dead_letters_wait) {
                mark.dead_letter = DeadLetterPlace::FIRST;
                mark.old_dead_letter = DeadLetterPlace::FIRST;
            }
            return Ok(0);
        };
        let from = std::mem::replace(&mut mark.dead_letter, last);
        let kept = self.kept_dead_letters(limits);
        mark.dead_letters_wait |= self.forget_between(from, last, &kept)?;
        Ok(rows.len())
    }

    /// Examines the next dead letters that are too old to be kept in any case, and the events that
    /// were kept for them.
    pub(super) fn trim_old_dead_letters(
        &mut self,
        now: Timestamp,
        limits: &RetentionLimits,
        batch: usize,
        mark: &mut TrimMark,
        trimmed: &mut Trimmed,
    ) -> Result<usize> {
        let mut rows =
            self.dead_letters_after(mark.old_dead_letter, limits.dead_before(now), batch);
        let found = rows.len();
        let mut deliveries = 0;
        let fitting = rows.iter().take_while(|(at, last)| {
            deliveries += last - at.first.0 + 1;
            deliveries <= limits.batch.max(1)
        });
        let fitting = fitting.count().max(1);
        let is_cut = fitting < rows.len();
        rows.truncate(fitting);
        let Some((last, _)) = rows.last().copied() else { return Ok(0) };
        let from = std::mem::replace(&mut mark.old_dead_letter, last);
        let mut before = self.dead_letters.clone();
        mark.dead_letters_wait |= self.forget_between(from, last, &BTreeSet::new())?;
        before.retain(|key, _| !self.dead_letters.contains_key(key));
        let of_gone = |key: &Key| {
            before.iter().any(|((gateway, first), letter)| {
                *gateway == key.0 && (*first..=letter.last).contains(&key.1)
            })
        };
        let of_gone = self.trimmed.iter().filter(|(key, _)| of_gone(key));
        let events: Vec<i64> = of_gone.map(|(_, event)| *event).collect();
        trimmed.events += self.forget_events(&events, spent_before(now, limits), limits);
        Ok(if is_cut { usize::MAX } else { found })
    }

    /// Deletes dead letters in a span of the index if every position has passed them and they were
    /// trimmed from their log. Returns whether some wait for a position.
    fn forget_between(
        &mut self,
        from: DeadLetterPlace,
        to: DeadLetterPlace,
        kept: &BTreeSet<Key>,
    ) -> Result<bool> {
        // Up to the floor of the log and the lowest position.
        let mut bounds = BTreeMap::new();
        for (gateway, row) in &self.gateways {
            let is_deleted = row.deleted_at.is_some();
            let lowest = self.positions(*gateway).min().filter(|_| !is_deleted);
            let passed = lowest.unwrap_or(if is_deleted { i64::MAX } else { 0 });
            bounds.insert(*gateway, (row.stream.floor, passed));
        }
        let within = |key: Key, letter: &DeadLetter| {
            let place = place(key, letter);
            from < place
                && place <= to
                && !kept.contains(&key)
                && bounds.get(&key.0).is_some_and(|(floor, _)| letter.last <= *floor)
        };
        self.forget_letters(|key, letter| {
            within(key, letter)
                && bounds.get(&key.0).is_some_and(|(_, passed)| letter.last <= *passed)
        })?;
        Ok(self.dead_letters.iter().any(|(key, letter)| within(*key, letter)))
    }

    pub(super) fn forget_letters(&mut self, goes: impl Fn(Key, &DeadLetter) -> bool) -> Result<()> {
        let gone = self.dead_letters.extract_if(.., |key, letter| goes(*key, letter));
        let open: Vec<_> = gone.filter(|(_, letter)| letter.redriven_at.is_none()).collect();
        for ((gateway, first), letter) in open {
            self.stream(gateway)?.dead_total -= letter.last - first + 1;
        }
        Ok(())
    }
}
