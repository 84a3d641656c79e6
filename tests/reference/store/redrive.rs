//! Redrives: events of dead letters are appended again.

use std::collections::BTreeMap;

use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayKey, OrganisationKey, Sequence};
use gateway_events::store::audit::entries;
use gateway_events::store::limits::{REDRIVE_DEAD_LETTERS, REDRIVE_LOOKED_UP, REDRIVEN};
use gateway_events::store::ranges::pieces;
use gateway_events::store::{
    AuditEntry, Audited, Conflict, DeliveryKey, DeliveryState, RedriveCursor, RedriveSelection,
    Redriven, RedrivenDelivery, Result, StoreError,
};

use super::append::Growth;
use super::deliveries::Matching;
use super::tables::{DeadLetter, EventRow, Key, Tables};

/// Deliveries that the databases append in one transaction.
const AT_A_TIME: usize = 100;

impl Tables {
    pub(super) fn redrive(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        selection: &RedriveSelection,
        dry_run: bool,
    ) -> Result<Audited<(Redriven, Growth)>> {
        let (mut answer, chosen) = match selection {
            RedriveSelection::One(gateway, sequence) => {
                let gateway = self.any_key(organisation, *gateway);
                let gateway = gateway.ok_or(StoreError::NotFound("gateway"))?;
                self.search_one(now, (gateway, sequence.0))?
            }
            RedriveSelection::Filter(filter, after) => {
                let matching = self.matching(organisation, filter)?;
                self.search(now, &matching, *after, REDRIVEN)?
            }
        };
        answer.more = answer.next.is_some();
        let mut growth = Growth::new();
        let numbered = self.append_dead_letters(now, &chosen, dry_run, &mut answer, &mut growth)?;
        let entries = self.redrive_entries(&numbered)?;
        Ok(Audited::new((answer, growth), entries))
    }

    /// Appends these dead letters, unless it is a dry run; returns the new sequences.
    pub(super) fn append_dead_letters(
        &mut self,
        now: Timestamp,
        chosen: &[Key],
        dry_run: bool,
        answer: &mut Redriven,
        growth: &mut Growth,
    ) -> Result<BTreeMap<Key, i64>> {
        let mut numbered = BTreeMap::new();
        for key in chosen {
            let Some(event) = self.event_at(*key).map(|row| row.event.id.clone()) else { continue };
            let new = match self.event_of(*key) {
                Some(row) if !dry_run => Some(self.number(key.0, row, growth)),
                _ => None,
            };
            if let Some(new) = new.filter(|_| self.appended_again.contains_key(key)) {
                self.appended_again.insert((key.0, new.0), now);
            }
            numbered.extend(new.map(|new| (*key, new.0)));
            answer.redriven.push(RedrivenDelivery {
                gateway_id: self.gateway_row(key.0)?.id,
                event_id: event,
                sequence: Sequence(key.1),
                new_sequence: new,
            });
        }
        self.mark_redriven(now, &numbered)?;
        Ok(numbered)
    }

    /// One for each gateway and transaction.
    fn redrive_entries(&self, numbered: &BTreeMap<Key, i64>) -> Result<Vec<AuditEntry>> {
        let numbered: Vec<(&Key, &i64)> = numbered.iter().collect();
        let mut entries = Vec::new();
        for transaction in numbered.chunks(AT_A_TIME) {
            for own in transaction.chunk_by(|one, other| one.0.0 == other.0.0) {
                let row = self.gateway_row(own[0].0.0)?;
                let sequences: Vec<_> =
                    own.iter().map(|(key, new)| (Sequence(key.1), Sequence(**new))).collect();
                entries.push(entries::redriven(row.id, &row.name, &sequences));
            }
        }
        Ok(entries)
    }

    fn search_one(&self, now: Timestamp, key: Key) -> Result<(Redriven, Vec<Key>)> {
        if !(1..=self.gateway_row(key.0)?.stream.head).contains(&key.1) {
            return Err(StoreError::NotFound("delivery"));
        }
        let mut answer = Redriven::default();
        if self.count_skipped(&mut answer, key)? {
            return Ok((answer, Vec::new()));
        }
        match self.event_at(key) {
            None => answer.event_removed += 1,
            Some(row) if row.purged.is_some() => {
                return Err(Conflict::Purged(row.event.id.clone()).into());
            }
            Some(row) if has_expired(row, now) => answer.expired += 1,
            Some(_) => return Ok((answer, vec![key])),
        }
        Ok((answer, Vec::new()))
    }

    pub(super) fn search(
        &self,
        now: Timestamp,
        matching: &Matching<'_>,
        after: Option<RedriveCursor>,
        most: usize,
    ) -> Result<(Redriven, Vec<Key>)> {
        let mut answer = Redriven::default();
        let looked_at = match after {
            Some(RedriveCursor::DeadLetters(place)) => Some(place),
            _ => None,
        };
        // All in one call: a cursor into the counting is never returned.
        if looked_at.is_none() {
            self.count_all_skipped(matching, &mut answer)?;
        }
        let begin = (matching.gateway.unwrap_or(GatewayKey(0)), 0);
        let after = looked_at.map_or(begin, |at| begin.max((at.gateway, at.sequence.0)));
        let (keys, next) = self.stretch(matching, after);
        answer.next = next.map(cursor);
        let failed = self.newest_failures(matching, i64::MAX);
        let wanted = matching.filter.event_type.as_ref();
        let mut chosen: Vec<Key> = Vec::new();
        let mut examined = after;
        for key in keys {
            let event = self.event_at(key);
            let is_of_type =
                wanted.is_none_or(|it| event.is_some_and(|row| *it == row.event.event_type));
            if !is_of_type || !self.is_open(key) || !failed.contains_key(&key) {
                continue;
            }
            match event {
                None => answer.event_removed += 1,
                Some(row) if row.purged.is_some() => answer.payload_purged += 1,
                Some(row) if has_expired(row, now) => answer.expired += 1,
                Some(_) if chosen.len() < most => chosen.push(key),
                Some(_) => {
                    // The next call starts with this one.
                    answer.next = Some(cursor(examined));
                    break;
                }
            }
            examined = key;
        }
        Ok((answer, chosen))
    }

    /// Counts the matching failures that need no redrive; returns the number of the others.
    pub(super) fn count_all_skipped(
        &self,
        matching: &Matching<'_>,
        answer: &mut Redriven,
    ) -> Result<i64> {
        let mut open = 0;
        for one in self.failed_places(matching, i64::MAX) {
            open += i64::from(!self.count_skipped(answer, (one.gateway, one.sequence))?);
        }
        Ok(open)
    }

    /// Counts a delivery that is skipped; returns whether it is one.
    fn count_skipped(&self, answer: &mut Redriven, key: Key) -> Result<bool> {
        let delivery = self.standing(key)?;
        let is_deleted = self.gateway_row(key.0)?.deleted_at.is_some();
        match delivery.state {
            DeliveryState::Pending => answer.pending += 1,
            DeliveryState::Delivered | DeliveryState::Filtered | DeliveryState::Superseded => {
                answer.delivered += 1;
            }
            DeliveryState::Failed if delivery.redriven => answer.already_redriven += 1,
            DeliveryState::Failed if is_deleted => answer.gateway_deleted += 1,
            DeliveryState::Failed => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a delivery is a dead letter that can be redriven.
    fn is_open(&self, key: Key) -> bool {
        let is_live = self.gateways.get(&key.0).is_some_and(|row| row.deleted_at.is_none());
        is_live && self.dead_letter_at(key).is_some_and(|(_, letter)| letter.redriven_at.is_none())
    }

    /// The deliveries that one call examines after a position, and where the next call continues.
    fn stretch(&self, matching: &Matching<'_>, after: Key) -> (Vec<Key>, Option<Key>) {
        let mut keys = Vec::new();
        if matching.names_events() {
            let names = |row: &EventRow| {
                let (filter, event) = (matching.filter, &row.event);
                row.organisation == matching.organisation
                    && filter.event_id.as_ref().is_none_or(|id| *id == event.id)
                    && filter.correlation_id.as_ref().is_none_or(|it| *it == event.correlation_id)
            };
            let behind = self.deliveries().map(|(key, _)| key).filter(|key| *key > after);
            let own = behind.filter(|key| {
                matching.gateway.is_none_or(|gateway| gateway == key.0)
                    && self.gateways.get(&key.0).is_some_and(|row| row.deleted_at.is_none())
                    && self.event_at(*key).is_some_and(names)
            });
            keys.extend(own);
            keys.sort_unstable();
            keys.truncate(REDRIVE_LOOKED_UP);
            let next = keys.last().filter(|_| keys.len() == REDRIVE_LOOKED_UP).copied();
            return (keys, next);
        }
        let up_to = matching.gateway.unwrap_or(GatewayKey(i64::MAX));
        let is_own = |gateway: GatewayKey| {
            self.gateways.get(&gateway).is_some_and(|row| {
                row.organisation == matching.organisation && row.deleted_at.is_none()
            })
        };
        let open = self.dead_letters.iter().filter(|((gateway, _), letter)| {
            letter.redriven_at.is_none() && (*gateway, letter.last) > after && *gateway <= up_to
        });
        let most = usize::try_from(REDRIVE_DEAD_LETTERS).unwrap_or(usize::MAX);
        let (mut reached, mut letters) = (after, 0);
        for ((gateway, first), letter) in open.take(most) {
            letters += 1;
            let sequences = (*first..=letter.last).filter(|sequence| (*gateway, *sequence) > after);
            for sequence in sequences.filter(|_| is_own(*gateway)) {
                if keys.len() == REDRIVE_LOOKED_UP {
                    return (keys, Some(reached));
                }
                reached = (*gateway, sequence);
                keys.push(reached);
            }
            reached = (*gateway, letter.last);
        }
        (keys, (letters == most).then_some(reached))
    }

    /// Marks those of these deliveries that are open dead letters as redriven.
    pub(super) fn mark_appended(
        &mut self,
        now: Timestamp,
        appended: &BTreeMap<Key, i64>,
    ) -> Result<()> {
        let open = appended.iter().filter(|(key, _)| self.is_open(**key));
        let open = open.map(|(key, new)| (*key, *new)).collect();
        self.mark_redriven(now, &open)
    }

    /// Marks dead letters as redriven. Splits a range of which only a part was.
    fn mark_redriven(&mut self, now: Timestamp, numbered: &BTreeMap<Key, i64>) -> Result<()> {
        for (gateway, sequence) in numbered.keys() {
            let stream = self.stream(*gateway)?;
            if stream.reported == *sequence {
                stream.failing = None;
            }
        }
        let mut ranges: BTreeMap<Key, BTreeMap<i64, i64>> = BTreeMap::new();
        for (key, new) in numbered {
            if let Some((first, _)) = self.dead_letter_at(*key) {
                ranges.entry((key.0, first)).or_default().insert(key.1, *new);
                self.stream(key.0)?.dead_total -= 1;
            }
        }
        for ((gateway, first), redriven) in ranges {
            let Some(range) = self.dead_letters.remove(&(gateway, first)) else { continue };
            for piece in pieces(first, range.last, &redriven) {
                let letter = DeadLetter {
                    last: piece.last,
                    reason: range.reason,
                    dead_at: range.dead_at,
                    redriven_at: piece.redriven_first.map(|_| now),
                    redriven_first: piece.redriven_first,
                    rejected_by: range.rejected_by.clone(),
                };
                self.dead_letters.insert((gateway, piece.first), letter);
            }
        }
        Ok(())
    }
}

const fn cursor((gateway, sequence): Key) -> RedriveCursor {
    RedriveCursor::DeadLetters(DeliveryKey { gateway, sequence: Sequence(sequence) })
}

fn has_expired(row: &EventRow, now: Timestamp) -> bool {
    row.event.expires_at.is_some_and(|at| at <= now)
}
