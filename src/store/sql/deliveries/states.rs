//! Deliveries in a state, by gateway and newest first. The state follows from the gateway's position
//! and its dead letters, so the logs are read one after another: pending deliveries above the
//! positions, delivered ones up to them. Filtered and superseded ones are found by an index of their
//! attempts. If the filter names events, their deliveries are read instead. The work per call is
//! bounded, as for failed deliveries.

use super::super::dialect::browse::EventMatching;
use super::super::dialect::delivery_filter::Matching;
use super::super::dialect::{
    BrowseStatements, Connection, DeliveryFilterStatements, DeliveryStatements, query_as,
};
use super::super::log::events::end_of_log;
use super::details;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, OrganisationKey, Sequence};
use crate::store::{DeliveryFilter, DeliveryKey, DeliveryState, Result, StatePage};

/// What a call may cost, in logs that are passed over.
const MAX_COST: usize = 10_000;
/// What it costs to find the state of a delivery.
const COST_PER_STATE: usize = 5;
/// Deliveries examined per call, at most.
const MAX_EXAMINED: usize = MAX_COST / COST_PER_STATE;
/// Deliveries examined per round, at most.
const ROUND: usize = 1_000;
/// Rows examined in excess of the page in the first round of a log.
const SPARE: usize = 32;
/// Logs that one statement finds.
const LOGS: usize = 256;
/// What it costs to begin with a log: a few statements.
const COST_PER_LOG: usize = 50;

/// After all deliveries.
const END: DeliveryKey = DeliveryKey::new(i64::MAX, i64::MAX);

/// A page, while it is read.
struct Reading {
    /// The state; `None` selects all.
    state: Option<DeliveryState>,
    limit: usize,
    keys: Vec<DeliveryKey>,
    /// What precedes it is still to be read.
    at: DeliveryKey,
    /// What the rest of the call may cost.
    left: usize,
}

pub(crate) async fn deliveries_in_state(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: DeliveryFilter,
    state: Option<DeliveryState>,
    cursor: Option<DeliveryKey>,
    limit: usize,
) -> Result<StatePage> {
    let matching = Matching::new(conn, organisation, &filter).await?;
    let at = cursor.unwrap_or(END);
    let mut reading = Reading {
        state,
        limit: limit.clamp(1, MAX_EXAMINED),
        keys: Vec::new(),
        at,
        left: MAX_COST,
    };
    let is_last = if matching.filter.names_events() {
        reading.read_named(conn, &matching).await?
    } else {
        reading.read_logs(conn, &matching).await?
    };
    let next = (!is_last).then_some(reading.at);
    Ok(StatePage { rows: details::deliveries(conn, &reading.keys).await?, next })
}

impl Reading {
    fn is_full(&self) -> bool {
        self.keys.len() == self.limit || self.left == 0
    }

    /// Deliveries that may still be examined, at least one.
    fn affordable(&self) -> usize {
        (self.left / COST_PER_STATE).max(1)
    }

    /// Whether only deliveries up to the gateway's position can be in the state.
    const fn is_of_confirmed(&self) -> bool {
        matches!(
            self.state,
            Some(DeliveryState::Delivered | DeliveryState::Filtered | DeliveryState::Superseded)
        )
    }

    /// Whether a filtered or superseded attempt is on record for each delivery in the state.
    const fn is_on_record(&self) -> bool {
        matches!(self.state, Some(DeliveryState::Filtered | DeliveryState::Superseded))
    }

    /// Adds those of these deliveries that are in the state, until the page is full.
    async fn add(&mut self, conn: &mut Connection, keys: &[DeliveryKey]) -> Result<()> {
        for standing in details::standings(conn, keys).await? {
            self.at = standing.key;
            if self.state.is_none_or(|state| state == standing.delivery.state) {
                self.keys.push(standing.key);
                if self.keys.len() == self.limit {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Reads the deliveries of the filter's events; returns whether these were the last ones.
    async fn read_named(&mut self, conn: &mut Connection, matching: &Matching) -> Result<bool> {
        while !self.is_full() {
            let size = ROUND.min(self.affordable());
            let limit = i64::try_from(size).unwrap_or(i64::MAX);
            let rows = conn.deliveries_named(matching, self.at, limit).await?;
            self.left -= (rows.len() * COST_PER_STATE).min(self.left);
            self.add(conn, &rows).await?;
            if rows.len() < size && self.keys.len() < self.limit {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads log after log; returns whether these were the last ones.
    async fn read_logs(&mut self, conn: &mut Connection, matching: &Matching) -> Result<bool> {
        loop {
            let logs = logs(conn, matching, self.at).await?;
            let was_last = logs.len() < LOGS;
            for log in logs {
                if self.is_full() {
                    return Ok(false);
                }
                self.left -= 1;
                if log.gateway != self.at.gateway {
                    self.at = DeliveryKey { gateway: log.gateway, sequence: Sequence(i64::MAX) };
                }
                if self.state != Some(DeliveryState::Pending) || log.confirmed < log.head {
                    self.left -= COST_PER_LOG.min(self.left);
                    if !self.read_log(conn, matching, &log).await? {
                        return Ok(false);
                    }
                }
                self.at = DeliveryKey { gateway: log.gateway, sequence: Sequence::ZERO };
            }
            if was_last {
                return Ok(true);
            }
        }
    }

    /// Reads a log; returns whether it was read to its end.
    async fn read_log(
        &mut self,
        conn: &mut Connection,
        matching: &Matching,
        log: &LogRow,
    ) -> Result<bool> {
        let window = matching.filter.window;
        let events = EventMatching {
            organisation: matching.organisation,
            gateway: Some(log.gateway),
            filter: matching.filter.events(),
        };
        let mut before = self.at.sequence;
        if before.0 == i64::MAX && window.to() < Timestamp::LAST {
            before = end_of_log(conn, log.gateway, window.to()).await?;
        }
        if self.is_of_confirmed() {
            before = before.min(log.confirmed.next());
        }
        let mut most = self.limit.saturating_add(SPARE);
        while !self.is_full() {
            if self.is_on_record() {
                match conn.newest_filtered(log.gateway, before).await? {
                    Some(newest) => before = before.min(newest.next()),
                    None => return Ok(true),
                }
            }
            let size = most.min(ROUND).min(self.affordable());
            most = most.saturating_mul(2);
            let limit = i64::try_from(size).unwrap_or(i64::MAX);
            let rows = conn.events_of_log(&events, before, limit).await?;
            self.left -= (rows.len() * COST_PER_STATE).min(self.left);
            let mut was_last = rows.len() < size;
            let mut keys = Vec::new();
            for row in rows {
                let is_confirmed = row.sequence <= log.confirmed;
                if row.is_past || (self.state == Some(DeliveryState::Pending) && is_confirmed) {
                    was_last = true;
                    break;
                }
                before = row.sequence;
                if row.matches {
                    keys.push(DeliveryKey { gateway: log.gateway, sequence: row.sequence });
                }
            }
            self.add(conn, &keys).await?;
            if self.keys.len() == self.limit {
                return Ok(false);
            }
            self.at.sequence = before;
            if was_last {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A log and its gateway's confirmed position.
struct LogRow {
    gateway: GatewayKey,
    head: Sequence,
    confirmed: Sequence,
}

/// Logs with something before a position, in descending order. Includes those of deleted gateways,
/// whose history is kept.
async fn logs(
    conn: &mut Connection,
    matching: &Matching,
    before: DeliveryKey,
) -> Result<Vec<LogRow>> {
    let up_to = before.gateway.0 - i64::from(before.sequence.0 <= 1);
    let limit = i64::try_from(LOGS).unwrap_or(i64::MAX);
    Ok(query_as!(
        LogRow,
        r#"
        select s.gateway as "gateway!: GatewayKey", s.head as "head!: Sequence",
            coalesce((select received from cursors c where c.gateway = s.gateway and c.instance = ''),
                     (select max(received) from cursors c where c.gateway = s.gateway), 0) as "confirmed!: Sequence"
        from streams s join gateways g on g.gateway = s.gateway
        where g.organisation = $1 and s.gateway <= $2
            and s.gateway = coalesce(cast($3 as bigint), s.gateway)
        order by s.gateway desc limit $4
        "#,
        matching.organisation.0,
        up_to,
        matching.gateway.map(|gateway| gateway.0),
        limit
    )
    .fetch_all(conn)
    .await?)
}
