//! Attempts, dead letters, and the sweep.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{
    ConnectionId, EventId, EventType, GatewayKey, OrganisationKey, Reason, Sequence,
};
use gateway_events::store::limits::{COUNTED_TYPES, LOGGED_EVENTS, LOGGED_IN_ALL};
use gateway_events::store::ranges::cut;
use gateway_events::store::{
    Actor, DeliveryCursor, DeliveryFilter, DeliveryKey, DeliveryPage, DeliveryState, EventHistory,
    KeptResult, Ledger, LoggedEvent, Outcome, Range, Record, RedriveSelection, Redriven, Result,
    Rollout, RolloutOf, StatePage, SummaryBy, SummaryRow, SweepResult, Totals, UndeliveredRange,
    bucket_width, storable,
};

use super::MemoryStore;
use super::append::grown;
use super::tables::{AttemptRow, DeadLetter, Key, Tables, next};

/// Attempts with the same outcome.
pub(super) struct Ended<'a> {
    pub(super) gateway: GatewayKey,
    /// `None` if no gateway was connected.
    pub(super) connection: Option<ConnectionId>,
    pub(super) range: Range,
    pub(super) how: How<'a>,
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
}

/// The outcome of an attempt.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    Received(&'a str),
    Applied(&'a str),
    Filtered(&'a str),
    Snapshot(&'a str),
    Superseded(&'a str),
    Failed(Reason, &'a str),
    Unknown(&'a str),
}

#[async_trait]
impl Ledger for MemoryStore {
    async fn record(&self, records: Vec<Record>) -> Result<()> {
        let ended = |record: &Record| match record {
            Record::Closed { gateway, .. } => Some(*gateway),
            _ => None,
        };
        if records.is_empty() {
            return Ok(());
        }
        let hook = self.database.fault_hook();
        let records = hook.record(records);
        let recorded = self
            .write_then(
                |tables, now| tables.record(now, &records),
                |()| self.request_sweep(records.iter().filter_map(ended)),
            )
            .await;
        if hook.hides_failures() { Ok(()) } else { recorded }
    }

    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals> {
        self.read(|tables| tables.totals(organisation)).await
    }

    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>> {
        self.read(|tables| tables.event_history(organisation, id)).await
    }

    async fn rollout(&self, organisation: OrganisationKey, of: &RolloutOf) -> Result<Rollout> {
        self.read(|tables| tables.rollout(organisation, of)).await
    }

    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        self.read(|tables| tables.failed_deliveries(organisation, filter, cursor, limit)).await
    }

    async fn deliveries_by_outcome(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        self.read(|tables| tables.deliveries_by_outcome(organisation, filter, state, cursor, limit))
            .await
    }

    async fn deliveries_in_state(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryKey>,
        limit: usize,
    ) -> Result<StatePage> {
        self.read(|tables| tables.deliveries_in_state(organisation, filter, state, cursor, limit))
            .await
    }

    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>> {
        let width = bucket_width(bucket);
        self.read(|tables| tables.failure_summary(organisation, window, width, by)).await
    }

    async fn redrive(
        &self,
        actor: &Actor,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        let organisation = actor.organisation;
        let (redriven, _) = self
            .audited_then(
                actor,
                |tables, now| {
                    tables.check_key(actor)?;
                    let done = tables.redrive(now, organisation, &selection, dry_run)?;
                    let kept = KeptResult::Redriven(done.value.0.clone());
                    tables.keep_result(now, actor, kept);
                    Ok(done)
                },
                // Without rows: each lane reads them from the log.
                |(_, growth)| {
                    let mut grown = grown(growth.clone());
                    for one in &mut grown {
                        one.rows.clear();
                    }
                    self.appended(grown);
                },
            )
            .await?;
        Ok(redriven)
    }
}

impl Tables {
    /// Inserts attempts, and adds failed ones to the totals.
    pub(super) fn write_attempts(&mut self, ended: &Ended<'_>) -> Result<()> {
        let (outcome, reason, detail) = match ended.how {
            How::Received(detail) => (Outcome::Received, None, detail),
            How::Applied(detail) => (Outcome::Applied, None, detail),
            How::Filtered(detail) => (Outcome::Filtered, None, detail),
            How::Snapshot(detail) => (Outcome::Snapshot, None, detail),
            How::Superseded(detail) => (Outcome::Superseded, None, detail),
            How::Failed(reason, detail) => (Outcome::Failed, Some(reason), detail),
            How::Unknown(detail) => (Outcome::Unknown, None, detail),
        };
        let detail = (!detail.is_empty()).then(|| storable(detail).into_owned());
        let on = ended.connection.and_then(|id| self.connections.get(&id));
        let instance = on.map_or_else(String::new, |row| row.instance.clone());
        for piece in cut(ended.range) {
            let row = AttemptRow {
                gateway: ended.gateway,
                first: piece.first.0,
                last: piece.last.0,
                outcome,
                reason,
                detail: detail.clone(),
                connection: ended.connection,
                instance: instance.clone(),
                started_at: ended.started_at,
                finished_at: ended.finished_at,
            };
            self.attempts.insert(next(&mut self.last.attempt), row);
        }
        if let Some(reason) = reason {
            let stream = self.stream(ended.gateway)?;
            stream.failed_total += length(ended.range);
            if stream.last_failure.is_none_or(|(at, _)| at <= ended.finished_at) {
                stream.last_failure = Some((ended.finished_at, reason));
            }
        }
        Ok(())
    }

    /// The range of dead letters that contains a delivery, with its first sequence.
    pub(super) fn dead_letter_at(&self, (gateway, sequence): Key) -> Option<(i64, &DeadLetter)> {
        let below = self.dead_letters.range((gateway, i64::MIN)..=(gateway, sequence));
        let ((_, first), letter) = below.last()?;
        (letter.last >= sequence).then_some((*first, letter))
    }

    pub(super) fn is_dead(&self, key: Key) -> bool {
        self.dead_letter_at(key).is_some()
    }

    /// The parts of a range that are not dead letters.
    pub(super) fn not_dead(&self, gateway: GatewayKey, range: Range) -> Vec<Range> {
        let alive = (range.first.0..=range.last.0).filter(|it| !self.is_dead((gateway, *it)));
        runs(alive)
    }

    /// Inserts dead letters. Parts that are dead letters already stay unchanged.
    pub(super) fn dead_letter(
        &mut self,
        gateway: GatewayKey,
        range: Range,
        reason: Reason,
        at: Timestamp,
    ) -> Result<()> {
        self.rejected(gateway, range, reason, None, at)
    }

    /// The same, of deliveries that an instance has rejected.
    pub(super) fn rejected(
        &mut self,
        gateway: GatewayKey,
        range: Range,
        reason: Reason,
        by: Option<&str>,
        at: Timestamp,
    ) -> Result<()> {
        for part in self.not_dead(gateway, range) {
            self.stream(gateway)?.dead_total += length(part);
            for piece in cut(part) {
                let letter = DeadLetter {
                    last: piece.last.0,
                    reason,
                    dead_at: at,
                    redriven_at: None,
                    redriven_first: None,
                    rejected_by: by.map(str::to_owned),
                };
                self.dead_letters.insert((gateway, piece.first.0), letter);
            }
        }
        Ok(())
    }

    /// Removes a delivery from the dead letters, unless it was redriven. Returns whether it was
    /// one.
    pub(super) fn revive(&mut self, (gateway, sequence): Key) -> Result<bool> {
        let letter = self.dead_letter_at((gateway, sequence));
        let letter = letter.filter(|(_, letter)| letter.redriven_at.is_none());
        let Some((first, letter)) = letter.map(|(first, letter)| (first, letter.clone())) else {
            return Ok(false);
        };
        self.dead_letters.remove(&(gateway, first));
        if first < sequence {
            let before = DeadLetter { last: sequence - 1, ..letter.clone() };
            self.dead_letters.insert((gateway, first), before);
        }
        if sequence < letter.last {
            self.dead_letters.insert((gateway, sequence + 1), letter);
        }
        self.stream(gateway)?.dead_total -= 1;
        Ok(true)
    }

    /// Records `not_connected` for gateways without a live connection, except within their grace
    /// period.
    pub(super) fn sweep(
        &mut self,
        now: Timestamp,
        gateways: Option<&[GatewayKey]>,
        grace: Duration,
    ) -> Result<SweepResult> {
        let keys: Vec<GatewayKey> = self.gateways.keys().copied().collect();
        let mut swept = SweepResult::default();
        let mut failed = Vec::new();
        for gateway in keys {
            let row = self.gateway_row(gateway)?;
            let head = row.stream.head;
            let answered = row.stream.missed.max(self.confirmed(gateway));
            let is_wanted = gateways.is_none_or(|wanted| wanted.contains(&gateway));
            let is_paused = row.paused.is_some();
            if !is_wanted || is_paused || head <= answered || self.live_connections(gateway) > 0 {
                continue;
            }
            if let Some(left) = SweepResult::grace_left(self.left_at(gateway), now, grace) {
                swept.postponed.push((gateway, left));
                continue;
            }
            let all = Range { first: Sequence(answered + 1), last: Sequence(head) };
            for range in self.not_superseded(gateway, self.not_dead(gateway, all)) {
                self.write_attempts(&Ended {
                    gateway,
                    connection: None,
                    range,
                    how: How::Failed(Reason::NotConnected, ""),
                    started_at: now,
                    finished_at: now,
                })?;
                failed.push((gateway, range));
            }
            self.stream(gateway)?.missed = head;
        }
        swept.recorded = self.named(&failed)?;
        Ok(swept)
    }

    /// Failed ranges with their first events, for the log.
    pub(super) fn named(&self, failed: &[(GatewayKey, Range)]) -> Result<Vec<UndeliveredRange>> {
        let (mut looked_at, mut uncounted) = (0, COUNTED_TYPES);
        let named = failed.iter().map(|&(gateway, range)| {
            let row = self.gateway_row(gateway)?;
            let last = range.last.0.min(range.first.0 + LOGGED_EVENTS - 1);
            let sequences: Vec<i64> =
                (range.first.0..=last).take(LOGGED_IN_ALL - looked_at).collect();
            looked_at += sequences.len();
            let events = sequences.into_iter().filter_map(|nth| {
                let event = &self.event_at((gateway, nth))?.event;
                let (id, event_type) = (event.id.clone(), event.event_type.clone());
                Some(LoggedEvent { sequence: Sequence(nth), id, event_type })
            });
            let events = events.collect();
            let last = range.last.0.min(range.first.0 + uncounted - 1);
            uncounted = (uncounted - (last - range.first.0 + 1).max(0)).max(0);
            let mut types: BTreeMap<String, (EventType, u64)> = BTreeMap::new();
            for nth in range.first.0..=last {
                let Some(row) = self.event_at((gateway, nth)) else { continue };
                let event_type = row.event.event_type.clone();
                let counted = types.entry(event_type.to_string()).or_insert((event_type, 0));
                counted.1 += 1;
            }
            Ok(UndeliveredRange {
                gateway_id: row.id,
                gateway_name: row.name.clone(),
                range,
                events,
                types: types.into_values().collect(),
            })
        });
        named.collect()
    }

    /// When a gateway's last connection ended.
    fn left_at(&self, gateway: GatewayKey) -> Option<Timestamp> {
        let ended = self.connections.values().filter(|row| row.gateway == gateway);
        ended.filter_map(|row| row.closed.map(|(at, _)| at)).max()
    }
}

/// The number of deliveries in a range.
pub(super) fn length(range: Range) -> i64 {
    (range.last.0 - range.first.0 + 1).max(0)
}

/// Groups ascending numbers into ranges.
pub(super) fn runs(numbers: impl Iterator<Item = i64>) -> Vec<Range> {
    let mut runs: Vec<Range> = Vec::new();
    for number in numbers.map(Sequence) {
        match runs.last_mut() {
            Some(run) if run.last.next() == number => run.last = number,
            _ => runs.push(Range { first: number, last: number }),
        }
    }
    runs
}
