//! Failed deliveries, and the states of deliveries.

use std::collections::BTreeMap;

use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{GatewayKey, OrganisationKey, Sequence};
use gateway_events::store::filtered::{Filtered, InstanceAttempt};
use gateway_events::store::{
    Attempt, Delivery, DeliveryCursor, DeliveryFilter, DeliveryKey, DeliveryPage, DeliveryState,
    Outcome, RedrivenAs, Result, StoreError, SummaryBy, SummaryRow, TimedKey,
};
use gateway_events::store::{Attempts, bucket_start};

use super::tables::{AttemptRow, Key, Tables};

/// The number of attempts returned per delivery.
const SHOWN: usize = 100;

/// A filter whose gateway is known.
pub(super) struct Matching<'a> {
    pub(super) organisation: OrganisationKey,
    pub(super) gateway: Option<GatewayKey>,
    pub(super) filter: &'a DeliveryFilter,
    /// Attempts with any outcome match.
    is_any: bool,
}

/// A failed delivery, in the order of the result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FailedDelivery {
    /// The newest failure that matches.
    failure: TimedKey,
    pub(super) sequence: i64,
    pub(super) gateway: GatewayKey,
}

impl Matching<'_> {
    pub(super) const fn names_events(&self) -> bool {
        self.filter.event_id.is_some() || self.filter.correlation_id.is_some()
    }

    fn has(&self, attempt: &AttemptRow) -> bool {
        (self.is_any || attempt.outcome == Outcome::Failed)
            && self.gateway.is_none_or(|gateway| gateway == attempt.gateway)
            && self.filter.window.contains(attempt.finished_at)
            && (self.filter.reason.is_none() || self.filter.reason == attempt.reason)
    }
}

impl Tables {
    /// Resolves the gateway. Includes deleted gateways, whose history is kept.
    pub(super) fn matching<'a>(
        &self,
        organisation: OrganisationKey,
        filter: &'a DeliveryFilter,
    ) -> Result<Matching<'a>> {
        let find = |id| self.any_key(organisation, id).ok_or(StoreError::NotFound("gateway"));
        let gateway = filter.gateway_id.map(find).transpose()?;
        Ok(Matching { organisation, gateway, filter, is_any: false })
    }

    pub(super) fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let matching = self.matching(organisation, filter)?;
        self.at_attempts(&matching, None, cursor, limit)
    }

    pub(super) fn deliveries_by_outcome(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let matching = Matching { is_any: true, ..self.matching(organisation, filter)? };
        self.at_attempts(&matching, state, cursor, limit)
    }

    /// Deliveries at their newest attempts that match, and in a state.
    fn at_attempts(
        &self,
        matching: &Matching<'_>,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let as_of = cursor.map_or_else(|| self.newest_attempt(), |cursor| cursor.as_of);
        let mut places = Vec::new();
        for one in self.failed_places(matching, as_of) {
            if self.is_in((one.gateway, one.sequence), state)? {
                places.push(one);
            }
        }
        if let Some(at) = cursor {
            let at_failure =
                TimedKey { at: Timestamp::from_micros(at.finished_at), key: at.attempt };
            places.retain(|one| (one.failure, one.sequence) < (at_failure, at.sequence));
        }
        let limit = limit.max(1);
        places.truncate(limit);
        let next = places.last().filter(|_| places.len() == limit);
        let next = next.map(|last| DeliveryCursor {
            as_of,
            finished_at: last.failure.at.micros(),
            attempt: last.failure.key,
            sequence: last.sequence,
        });
        let rows = places.iter().map(|one| self.delivery((one.gateway, one.sequence)));
        Ok(DeliveryPage { rows: rows.collect::<Result<_>>()?, next })
    }

    pub(super) fn newest_attempt(&self) -> i64 {
        self.attempts.keys().last().copied().unwrap_or(0)
    }

    /// Failed deliveries that match, newest first.
    pub(super) fn failed_places(&self, matching: &Matching<'_>, as_of: i64) -> Vec<FailedDelivery> {
        let mut places: Vec<FailedDelivery> = self
            .newest_failures(matching, as_of)
            .into_iter()
            .filter(|(key, _)| self.event_matches(matching, *key))
            .map(|((gateway, sequence), failure)| FailedDelivery { failure, sequence, gateway })
            .collect();
        places.sort_unstable();
        places.reverse();
        places
    }

    /// Every delivery with a matching failure, whatever its event.
    pub(super) fn newest_failures(
        &self,
        matching: &Matching<'_>,
        as_of: i64,
    ) -> BTreeMap<Key, TimedKey> {
        let mut newest: BTreeMap<Key, TimedKey> = BTreeMap::new();
        for (attempt, row) in self.attempts.range(..=as_of) {
            let is_own = self
                .gateways
                .get(&row.gateway)
                .is_some_and(|gateway| gateway.organisation == matching.organisation);
            if !is_own || !matching.has(row) {
                continue;
            }
            for sequence in row.first..=row.last {
                let failure = TimedKey { at: row.finished_at, key: *attempt };
                let found = newest.entry((row.gateway, sequence)).or_insert(failure);
                *found = (*found).max(failure);
            }
        }
        newest
    }

    /// Whether a delivery's event matches the filter.
    fn event_matches(&self, matching: &Matching<'_>, key: Key) -> bool {
        // `Matching::has` compares the attempt with the other fields.
        let DeliveryFilter {
            window: _,
            gateway_id: _,
            event_type,
            reason: _,
            event_id,
            correlation_id,
        } = matching.filter;
        if !matching.names_events() && event_type.is_none() {
            return true;
        }
        self.event_at(key).is_some_and(|row| {
            let event = &row.event;
            event_type.as_ref().is_none_or(|wanted| *wanted == event.event_type)
                && event_id.as_ref().is_none_or(|wanted| *wanted == event.id)
                && correlation_id.as_ref().is_none_or(|it| *it == event.correlation_id)
        })
    }

    /// A delivery with all its attempts.
    pub(super) fn delivery(&self, key: Key) -> Result<Delivery> {
        let covers =
            |row: &AttemptRow| row.gateway == key.0 && (row.first..=row.last).contains(&key.1);
        let mut covering: Vec<_> = self.attempts.iter().filter(|(_, row)| covers(row)).collect();
        covering.sort_by_key(|(attempt, row)| (row.finished_at, **attempt));
        let failed = |(_, row): &&(&i64, &AttemptRow)| row.outcome == Outcome::Failed;
        let last = covering.iter().rfind(failed).map(|(_, row)| row);
        let mut attempts = Attempts {
            newest: Vec::new(),
            count: i64::try_from(covering.len()).unwrap_or(i64::MAX),
            failures: i64::try_from(covering.iter().filter(failed).count()).unwrap_or(i64::MAX),
            first_failure_at: covering.iter().find(failed).map(|(_, row)| row.finished_at),
            last_failure_at: last.map(|row| row.finished_at),
            reason: last.and_then(|row| row.reason),
        };
        let newest = covering.split_off(covering.len().saturating_sub(SHOWN));
        let shown = |(_, row): (&i64, &AttemptRow)| Attempt {
            outcome: row.outcome,
            reason: row.reason,
            detail: row.detail.clone(),
            connection_id: row.connection,
            started_at: row.started_at,
            finished_at: row.finished_at,
        };
        attempts.newest = newest.into_iter().map(shown).collect();
        Ok(self.standing(key)?.with(attempts, self.newest_redrive(key)?))
    }

    /// The last redrive of a delivery, following redrives of redrives.
    fn newest_redrive(&self, key: Key) -> Result<Option<RedrivenAs>> {
        let (mut at, mut newest) = (key, None);
        while let Some((first, letter)) = self.dead_letter_at(at)
            && let Some(redriven_first) = letter.redriven_first
        {
            at.1 = redriven_first + at.1 - first;
            let state = self.standing(at)?.state;
            newest = Some(RedrivenAs { sequence: Sequence(at.1), state });
        }
        Ok(newest)
    }

    /// The state of a delivery, without its attempts.
    pub(super) fn standing(&self, key: Key) -> Result<Delivery> {
        let (gateway, sequence) = key;
        let row = self.gateway_row(gateway)?;
        let event = self.event_at(key);
        let letter = self.dead_letter_at(key).map(|(_, letter)| letter);
        let is_passed = sequence <= self.shown_position(gateway).max(row.stream.floor);
        Ok(Delivery {
            gateway_id: row.id,
            gateway_name: row.name.clone(),
            sequence: Sequence(sequence),
            event_id: event.map(|row| row.event.id.clone()),
            event_type: event.map(|row| row.event.event_type.clone()),
            correlation_id: event.map(|row| row.event.correlation_id.clone()),
            appended_at: event.map(|row| self.again_at(key).unwrap_or(row.appended_at)),
            state: DeliveryState::of(letter.is_some(), is_passed, self.filtered(key).as_ref()),
            trimmed: sequence <= row.stream.floor,
            delivered_since: false,
            redriven: letter.is_some_and(|letter| letter.redriven_at.is_some()),
            redriven_as: None,
            failures: 0,
            first_failure_at: None,
            last_failure_at: None,
            reason: None,
            attempt_count: 0,
            attempts: Vec::new(),
        })
    }

    /// What became of a delivery, if an instance has filtered it.
    pub(super) fn filtered(&self, key: Key) -> Option<Filtered> {
        let (gateway, sequence) = key;
        let covers = |row: &&AttemptRow| {
            row.gateway == gateway && (row.first..=row.last).contains(&sequence)
        };
        let attempts = self.attempts.values().filter(covers).map(|row| InstanceAttempt {
            key: DeliveryKey { gateway, sequence: Sequence(sequence) },
            instance: row.instance.clone(),
            is_current: self
                .cursors
                .get(&(gateway, row.instance.clone()))
                .is_some_and(|cursor| cursor.confirm.is_some()),
            outcome: row.outcome,
        });
        Filtered::of(attempts.collect()).into_values().next()
    }

    /// Counts failed attempts per delivery, in buckets that are aligned to the clock. Omits empty
    /// buckets.
    pub(super) fn failure_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        width: i64,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>> {
        let filter = DeliveryFilter { window, ..Default::default() };
        let matching = self.matching(organisation, &filter)?;
        let mut counts: BTreeMap<(i64, String, Option<String>), i64> = BTreeMap::new();
        for row in self.attempts.values().filter(|row| matching.has(row)) {
            let gateway = self.gateway_row(row.gateway)?;
            if gateway.organisation != organisation {
                continue;
            }
            let begin = bucket_start(row.finished_at, width);
            let name = (by == SummaryBy::Gateway).then(|| gateway.name.clone());
            for sequence in row.first..=row.last {
                let key = match by {
                    SummaryBy::Reason => row.reason.map(|reason| reason.to_string()),
                    SummaryBy::Gateway => Some(gateway.id.to_string()),
                    SummaryBy::Type => self
                        .event_at((row.gateway, sequence))
                        .map(|row| row.event.event_type.to_string()),
                };
                *counts.entry((begin, key.unwrap_or_default(), name.clone())).or_default() += 1;
            }
        }
        let rows = counts.into_iter().map(|((begin, key, gateway_name), count)| SummaryRow {
            from: Timestamp::from_micros(begin),
            key,
            gateway_name,
            count,
        });
        Ok(rows.collect())
    }
}
