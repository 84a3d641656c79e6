//! Recording outcomes.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayKey, Reason, Sequence};
use gateway_events::store::ranges::above;
use gateway_events::store::receipts::{Receipts, Waiting};
use gateway_events::store::{
    Confirmation, Failing, Level, Outcome, Range, Record, ReportedFailure, Result, StoreError,
};

use super::closing::End;
use super::instances::{Connected, outcome_range};
use super::ledger::{Ended, How};
use super::positions::{Move, Reach};
use super::tables::{Key, Stream, Tables};

impl Tables {
    /// Writes records, in order.
    pub(super) fn record(&mut self, now: Timestamp, records: &[Record]) -> Result<()> {
        for record in records {
            self.check(record)?;
        }
        let mut waiting = Waiting::default();
        for record in records {
            let record = record.in_order(now);
            if let Some(receipts) = Receipts::of(record.as_ref()) {
                if receipts.range.first <= receipts.range.last {
                    waiting.add(receipts);
                }
                continue;
            }
            match record.as_ref() {
                Record::Heartbeat { connection, at } => self.heard(*connection, now.min(*at)),
                other => {
                    self.confirm(now, std::mem::take(&mut waiting))?;
                    self.record_one(now, other)?;
                }
            }
        }
        self.confirm(now, waiting)
    }

    /// Refuses what a database's constraints refuse, before anything is written.
    fn check(&self, record: &Record) -> Result<()> {
        let (gateway, range) = match record {
            Record::Confirmed { gateway, range, .. } | Record::Skipped { gateway, range, .. } => {
                (gateway, Some(*range))
            }
            Record::Reported { gateway, sequence, .. } => {
                (gateway, Some(Range { first: *sequence, last: *sequence }))
            }
            Record::Closed { gateway, unconfirmed, .. } => {
                (gateway, unconfirmed.first().map(|run| run.range))
            }
            Record::Instance { gateway, outcome, .. } => (gateway, outcome_range(outcome)),
            Record::ConfirmedElsewhere { .. }
            | Record::Unmatched { .. }
            | Record::Heartbeat { .. } => return Ok(()),
        };
        match range {
            Some(range) if range.first <= range.last && range.first < Sequence(1) => {
                Err(StoreError::Corrupt(format!("an attempt begins at {}", range.first)))
            }
            Some(_) => self.gateway_row(*gateway).map(drop),
            None => Ok(()),
        }
    }

    fn heard(&mut self, connection: ConnectionId, at: Timestamp) {
        if let Some(row) = self.connections.get_mut(&connection) {
            row.last_heartbeat_at = row.last_heartbeat_at.max(at);
        }
    }

    fn confirm(&mut self, now: Timestamp, waiting: Waiting) -> Result<()> {
        let mut moves = Vec::new();
        // As the databases do: one statement for each outcome.
        for level in [Level::Received, Level::Applied] {
            let at_level = waiting.receipts.iter().filter(|it| it.level == level);
            let attempts: Vec<_> = at_level.filter(|it| it.is_attempt()).collect();
            for it in &attempts {
                self.write_attempts(&Ended {
                    gateway: it.gateway,
                    connection: Some(it.connection),
                    range: it.range,
                    how: if level == Level::Applied { How::Applied("") } else { How::Received("") },
                    started_at: it.started_at,
                    finished_at: it.finished_at,
                })?;
            }
            for it in &attempts {
                let Range { first, last } = it.range;
                self.revive_confirmed(it.gateway, first.0, last.0, Some(&it.instance))?;
            }
        }
        let mut acknowledged: BTreeMap<GatewayKey, Vec<Range>> = BTreeMap::new();
        for it in waiting.receipts {
            if it.is_acknowledged && it.confirms {
                acknowledged.entry(it.gateway).or_default().push(it.range);
            }
            let Receipts { level, confirms, is_acknowledged, .. } = it;
            let acknowledged = Reach::Acknowledged { level, confirms };
            moves.push(Move {
                reach: if is_acknowledged { acknowledged } else { Reach::Position },
                gateway: it.gateway,
                connection: it.connection,
                instance: it.instance,
                to: it.range.last.0,
                at: it.finished_at,
                seen_at: Some(now),
            });
        }
        self.raise(&moves)?;
        acknowledged.iter().try_for_each(|(gateway, ranges)| self.end_failing(*gateway, ranges))
    }

    /// Removes confirmed events from the dead letters if another connection or node has given them
    /// up. Called before the confirmation raises the positions. If one confirmation is enough, those
    /// that an instance other than `by` has rejected are removed, too; if all must confirm, those that
    /// an admin has skipped or purged stay.
    pub(super) fn revive_confirmed(
        &mut self,
        gateway: GatewayKey,
        first: i64,
        last: i64,
        by: Option<&str>,
    ) -> Result<()> {
        let position = self.confirmed(gateway);
        let is_any = self.gateway_row(gateway)?.stream.confirmation == Confirmation::Any;
        for sequence in first..=last {
            let key = (gateway, sequence);
            let letter = self.dead_letter_at(key);
            let rejected_by = letter.and_then(|(_, letter)| letter.rejected_by.as_deref());
            let by_another = rejected_by.is_some_and(|it| by.is_some_and(|by| by != it));
            let stays = !is_any && letter.is_some_and(|(_, letter)| letter.reason.is_by_admin());
            let is_revived = if is_any && by_another {
                self.revive(key)?
            } else {
                !stays && self.revive_given_up(key)?
            };
            if is_revived && sequence <= position {
                self.stream(gateway)?.confirmed_total += 1;
            }
        }
        Ok(())
    }

    /// Removes a delivery from the dead letters, unless its gateway reported that it failed.
    /// Returns whether it was removed.
    pub(super) fn revive_given_up(&mut self, key: Key) -> Result<bool> {
        let letter = self.dead_letter_at(key);
        let is_given_up = letter.is_some_and(|(_, letter)| !letter.reason.is_reported());
        Ok(is_given_up && self.revive(key)?)
    }

    /// A report confirms everything up to `past.to` that was sent on its connection.
    fn confirm_here(&mut self, past: Move) -> Result<()> {
        let own = self.own(past.connection).map(|(position, _)| position);
        let position = own.unwrap_or_else(|| self.confirmed(past.gateway));
        self.revive_confirmed(past.gateway, position + 1, past.to, None)?;
        self.raise(&[past])
    }

    /// A report confirms everything up to `to` that was sent on another connection: what is above
    /// the gateway's position, and what that connection left unconfirmed if it has ended.
    fn confirm_elsewhere(&mut self, gateway: GatewayKey, to: i64, at: Timestamp) -> Result<()> {
        let first = self.confirmed(gateway) + 1;
        let first = self.first_sent_with(gateway, to).map_or(first, |sent| first.min(sent));
        self.revive_confirmed(gateway, first, to, None)?;
        self.raise_gateway(gateway, to, at)
    }

    /// The first event that was unconfirmed at the end of the newest ended connection on which
    /// `sequence` was unconfirmed, too.
    fn first_sent_with(&self, gateway: GatewayKey, sequence: i64) -> Option<i64> {
        let ends = self.attempts.values().rev().filter(|row| {
            row.gateway == gateway
                && row.first <= sequence
                && row.connection.is_some()
                && matches!(row.outcome, Outcome::Failed | Outcome::Unknown)
                && row.reason.is_none_or(Reason::ends_connections)
        });
        let newest = ends.clone().find(|row| row.last >= sequence)?;
        ends.filter(|row| row.connection == newest.connection).map(|row| row.first).min()
    }

    /// Writes a record that is neither a receipt nor a heartbeat.
    fn record_one(&mut self, now: Timestamp, record: &Record) -> Result<()> {
        match record {
            Record::Confirmed { .. } | Record::Heartbeat { .. } => Ok(()),
            Record::Instance { gateway, connection, instance, outcome, at } => {
                let (gateway, connection, at) = (*gateway, *connection, *at);
                let on = Connected { gateway, connection, instance, at, seen_at: now };
                self.instance_outcome(&on, outcome)
            }
            Record::Reported { gateway, connection, instance, sequence, result, confirms, at } => {
                self.reported((*gateway, *connection), *sequence, result, *at)?;
                let Some(to) = *confirms else { return Ok(()) };
                self.confirm_here(Move {
                    gateway: *gateway,
                    connection: *connection,
                    instance: Arc::clone(instance),
                    to: to.0,
                    reach: Reach::Position,
                    at: *at,
                    seen_at: Some(now),
                })
            }
            Record::Unmatched { gateway, connection, instance, key, result, sent_here, at } => {
                let Some(found) = self.find_deployment(*gateway, key) else { return Ok(()) };
                let (confirms, elsewhere) = found.confirms_on(*sent_here);
                self.record_one(
                    now,
                    &Record::Reported {
                        gateway: *gateway,
                        connection: *connection,
                        instance: Arc::clone(instance),
                        sequence: found.sequence,
                        result: result.clone(),
                        confirms,
                        at: *at,
                    },
                )?;
                let Some(to) = elsewhere.filter(|_| instance.is_empty()) else { return Ok(()) };
                self.confirm_elsewhere(*gateway, to.0, *at)
            }
            Record::ConfirmedElsewhere { gateway, to, at } => {
                let to = to.0.min(self.gateway_row(*gateway)?.stream.head);
                self.confirm_elsewhere(*gateway, to, *at)
            }
            Record::Skipped { gateway, connection, instance, range, reason, advance_to, at } => {
                self.skipped((*gateway, *connection), *range, *reason, *at)?;
                let moves = advance_to.map(|to| Move {
                    gateway: *gateway,
                    connection: *connection,
                    instance: Arc::clone(instance),
                    to: to.0,
                    reach: Reach::Position,
                    at: *at,
                    seen_at: None,
                });
                self.raise(moves.as_slice())
            }
            Record::Closed {
                gateway,
                connection,
                reason,
                detail,
                unconfirmed,
                is_in_progress,
                give_up_after,
                alive_at,
                at,
            } => self.close(
                now,
                &End {
                    gateway: *gateway,
                    connection: *connection,
                    reason: *reason,
                    detail,
                    unconfirmed,
                    is_in_progress: *is_in_progress,
                    give_up_after: *give_up_after,
                    alive_at: *alive_at,
                    at: *at,
                },
            ),
        }
    }

    fn reported(
        &mut self,
        (gateway, connection): (GatewayKey, ConnectionId),
        sequence: Sequence,
        result: &std::result::Result<(), ReportedFailure>,
        at: Timestamp,
    ) -> Result<()> {
        let (how, outcome, reason) = match result {
            Ok(()) => (How::Applied(""), Outcome::Applied, None),
            Err(ReportedFailure { reason, detail }) => {
                (How::Failed(*reason, detail), Outcome::Failed, Some(*reason))
            }
        };
        let reports: Vec<_> = self
            .attempts
            .values()
            .filter(|attempt| {
                attempt.gateway == gateway
                    && (attempt.first, attempt.last) == (sequence.0, sequence.0)
            })
            .collect();
        let is_known = reports.iter().any(|attempt| {
            (attempt.outcome, attempt.reason) == (outcome, reason)
                && attempt.connection == Some(connection)
        });
        if result.is_err() && reports.iter().any(|attempt| attempt.outcome == Outcome::Applied) {
            return Ok(());
        }
        let range = Range { first: sequence, last: sequence };
        if !is_known {
            self.write_attempts(&Ended {
                gateway,
                connection: Some(connection),
                range,
                how,
                started_at: at,
                finished_at: at,
            })?;
        }
        let is_confirmed = self.confirmed(gateway) >= sequence.0;
        let Some(reason) = reason else {
            let Stream { reported, failing, .. } = self.gateway_row(gateway)?.stream;
            let is_other = self.is_of_another_type(gateway, reported, sequence.0);
            if !is_known && reported <= sequence.0 && (failing.is_none() || !is_other) {
                let stream = self.stream(gateway)?;
                (stream.reported, stream.failing) = (sequence.0, None);
            }
            if self.revive((gateway, sequence.0))? && is_confirmed {
                self.stream(gateway)?.confirmed_total += 1;
            }
            return Ok(());
        };
        if is_known {
            return Ok(());
        }
        self.count_failing(gateway, sequence, reason, at)?;
        // The report replaces the reason for which the event was given up or rejected.
        let letter = self.dead_letter_at((gateway, sequence.0));
        let was_rejected = letter.is_some_and(|(_, letter)| letter.rejected_by.is_some());
        let was_given_up = if was_rejected {
            self.revive((gateway, sequence.0))?
        } else {
            self.revive_given_up((gateway, sequence.0))?
        };
        // It was counted as confirmed if its receipt arrived before its report.
        if is_confirmed && !was_given_up && !self.is_dead((gateway, sequence.0)) {
            let stream = self.stream(gateway)?;
            stream.confirmed_total = (stream.confirmed_total - 1).max(0);
        }
        self.dead_letter(gateway, range, reason, at)
    }

    /// Counts a failed report for the gateway's verdict.
    pub(super) fn count_failing(
        &mut self,
        gateway: GatewayKey,
        sequence: Sequence,
        reason: Reason,
        at: Timestamp,
    ) -> Result<()> {
        let stream = self.stream(gateway)?;
        let is_newer = stream.reported < sequence.0;
        let is_again = stream.reported == sequence.0 && stream.failing.is_some();
        if is_newer || is_again {
            let before = stream.failing.unwrap_or(Failing { since: at, reason, count: 0 });
            let count = before.count + i64::from(is_newer);
            stream.failing = Some(Failing { since: before.since, reason, count });
            stream.reported = sequence.0;
        }
        Ok(())
    }

    /// Sequences at or below the gateway's confirmed position are delivered, however late this
    /// connection is, and dead letters are already recorded.
    fn skipped(
        &mut self,
        (gateway, connection): (GatewayKey, ConnectionId),
        range: Range,
        reason: Reason,
        at: Timestamp,
    ) -> Result<()> {
        if reason == Reason::Superseded {
            return Ok(());
        }
        let confirmed = Sequence(self.confirmed(gateway));
        let Some(open) = above(range, confirmed) else { return Ok(()) };
        for part in self.not_dead(gateway, open) {
            self.write_attempts(&Ended {
                gateway,
                connection: Some(connection),
                range: part,
                how: How::Failed(reason, ""),
                started_at: at,
                finished_at: at,
            })?;
            self.dead_letter(gateway, part, reason, at)?;
        }
        Ok(())
    }
}
