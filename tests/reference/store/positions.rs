//! Positions: what gateways and their connections have confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayKey};
use gateway_events::store::{Confirmation, Level, Range, Result};

use super::connections::kept_under;
use super::tables::{Cursor, Tables};

/// Moves the positions of a connection to `to`.
pub(super) struct Move {
    pub(super) gateway: GatewayKey,
    pub(super) connection: ConnectionId,
    pub(super) instance: Arc<str>,
    pub(super) to: i64,
    pub(super) reach: Reach,
    pub(super) at: Timestamp,
    /// The activity that moved it. `None` if the gateway showed none: then the position moves, but
    /// the time of the last receipt does not.
    pub(super) seen_at: Option<Timestamp>,
}

/// How far a move reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everything up to there is confirmed or settled, whatever the level that confirms.
    Position,
    /// Everything up to there was acknowledged at a level, which may not be the one that confirms.
    Acknowledged { level: Level, confirms: bool },
}

impl Reach {
    const fn confirms(self) -> bool {
        matches!(self, Self::Position | Self::Acknowledged { confirms: true, .. })
    }

    const fn is_applied(self) -> bool {
        matches!(self, Self::Acknowledged { level: Level::Applied, .. })
    }
}

impl Tables {
    /// The gateway's own position.
    pub(super) fn confirmed(&self, gateway: GatewayKey) -> i64 {
        self.cursors.get(&(gateway, String::new())).map_or(0, |cursor| cursor.received)
    }

    /// The position to display. A gateway that has only named replicas (see
    /// `store::positions`) has that of the farthest one.
    pub(super) fn shown_position(&self, gateway: GatewayKey) -> i64 {
        let own = self.cursors.get(&(gateway, String::new())).map(|cursor| cursor.received);
        own.or_else(|| self.positions(gateway).max()).unwrap_or(0)
    }

    /// All positions from which a gateway's connections may resume.
    pub(super) fn positions(&self, gateway: GatewayKey) -> impl Iterator<Item = i64> {
        let own = self.cursors.iter().filter(move |((of, _), _)| *of == gateway);
        own.map(|(_, cursor)| cursor.position())
    }

    /// A connection's position, and the instance name that it was opened with; `None` if another
    /// connection took the position over.
    pub(super) fn own(&self, connection: ConnectionId) -> Option<(i64, Arc<str>)> {
        let row = self.connections.get(&connection)?;
        let cursor = self.cursors.get(&(row.gateway, kept_under(connection, &row.instance)))?;
        Some((cursor.position(), row.instance.as_str().into()))
    }

    /// Raises the positions of connections, instances and their gateways, up to the heads of their
    /// logs. Does not recreate a position that another connection took over.
    pub(super) fn raise(&mut self, moves: &[Move]) -> Result<()> {
        let mut farthest: BTreeMap<GatewayKey, (i64, Timestamp)> = BTreeMap::new();
        let mut applied: BTreeMap<GatewayKey, i64> = BTreeMap::new();
        for it in moves {
            let to = it.to.min(self.gateway_row(it.gateway)?.stream.head);
            self.raise_own(it, to);
            if it.reach.confirms() {
                let receipt_at = it.seen_at.map_or(Timestamp::default(), |_| it.at);
                let (far, latest) = farthest.entry(it.gateway).or_insert((to, receipt_at));
                (*far, *latest) = ((*far).max(to), (*latest).max(receipt_at));
            }
            if it.reach.is_applied() {
                let far = applied.entry(it.gateway).or_insert(to);
                *far = (*far).max(to);
            }
        }
        for (gateway, (to, at)) in farthest {
            self.raise_gateway(gateway, to, at)?;
        }
        for (gateway, to) in applied {
            let of_all = self.instances_of(gateway).map(|cursor| cursor.applied_up_to).min();
            let to = self.at_most(gateway, to, of_all)?;
            let own = self.cursors.entry((gateway, String::new())).or_default();
            own.applied_up_to = own.applied_up_to.max(to);
        }
        Ok(())
    }

    fn raise_own(&mut self, it: &Move, to: i64) {
        let name = kept_under(it.connection, &it.instance);
        let Some(own) = self.cursors.get_mut(&(it.gateway, name)) else { return };
        if it.reach.is_applied() {
            own.applied_up_to = own.applied_up_to.max(to);
        }
        if it.instance.is_empty() && !it.reach.confirms() {
            return;
        }
        own.received = own.received.max(to);
        if it.reach == Reach::Position && own.confirm == Some(Level::Applied) {
            own.applied_up_to = own.applied_up_to.max(to);
        }
        own.updated_at = own.updated_at.max(it.seen_at.unwrap_or(own.updated_at));
    }

    /// An event that was acknowledged ends the failing if it is of the type that failed last, or if
    /// that type is not on record any more.
    pub(super) fn end_failing(&mut self, gateway: GatewayKey, ranges: &[Range]) -> Result<()> {
        /// Of a longer range the newest part counts.
        const MAX_RANGE_LENGTH: i64 = 1000;
        let ranges = || ranges.iter().map(|it| (it.first.0, it.last.0));
        let ranges = || ranges().filter(|(first, last)| first <= last);
        let stream = &self.gateway_row(gateway)?.stream;
        let reported = stream.reported;
        let Some(end) = ranges().map(|(_, last)| last).max() else { return Ok(()) };
        if stream.failing.is_none() || reported > end {
            return Ok(());
        }
        let is_kept = |sequence| self.outbox.contains_key(&(gateway, sequence));
        let is_of_its_type =
            |sequence| is_kept(sequence) && !self.is_of_another_type(gateway, reported, sequence);
        let mut newest = ranges()
            .flat_map(|(first, last)| first.max(last - MAX_RANGE_LENGTH + 1).max(reported)..=last);
        if !is_kept(reported) || newest.any(is_of_its_type) {
            let stream = self.stream(gateway)?;
            (stream.reported, stream.failing) = (end, None);
        }
        Ok(())
    }

    /// Whether two deliveries are of different types, as far as is on record.
    pub(super) fn is_of_another_type(&self, gateway: GatewayKey, one: i64, other: i64) -> bool {
        let of = |sequence| {
            let event = self.outbox.get(&(gateway, sequence))?;
            self.events.get(event).map(|row| &row.event.event_type)
        };
        of(one).zip(of(other)).is_some_and(|(one, other)| one != other)
    }

    /// The cursors of a gateway's instances.
    pub(super) fn instances_of(&self, gateway: GatewayKey) -> impl Iterator<Item = &Cursor> {
        let own = self.cursors.iter().filter(move |((of, _), _)| *of == gateway);
        own.map(|(_, cursor)| cursor).filter(|cursor| cursor.confirm.is_some())
    }

    /// `to`, but no more than all instances have reached, if all must confirm.
    fn at_most(&self, gateway: GatewayKey, to: i64, of_all: Option<i64>) -> Result<i64> {
        Ok(match self.gateway_row(gateway)?.stream.confirmation {
            Confirmation::Any => to,
            Confirmation::All => of_all.map_or(to, |all| to.min(all)),
        })
    }

    /// Raises a gateway's own position and no connection's.
    pub(super) fn raise_gateway(
        &mut self,
        gateway: GatewayKey,
        to: i64,
        at: Timestamp,
    ) -> Result<()> {
        let of_all = self.instances_of(gateway).map(Cursor::position).min();
        let to = self.at_most(gateway, to, of_all)?;
        let before = self.confirmed(gateway);
        if to > before {
            let dead = (before + 1..=to).filter(|sequence| self.is_dead((gateway, *sequence)));
            let newly = to - before - i64::try_from(dead.count()).unwrap_or(i64::MAX);
            self.stream(gateway)?.confirmed_total += newly;
        }
        let own = self.cursors.entry((gateway, String::new())).or_default();
        own.received = own.received.max(to);
        own.updated_at = own.updated_at.max(at);
        Ok(())
    }

    /// Lets the position of a gateway catch up after an instance is gone, or all instances need no
    /// longer confirm.
    pub(super) fn follow_instances(&mut self, gateway: GatewayKey) -> Result<()> {
        let to = match self.gateway_row(gateway)?.stream.confirmation {
            Confirmation::Any => self.positions(gateway).max(),
            Confirmation::All => self.instances_of(gateway).map(Cursor::position).min(),
        };
        to.map_or(Ok(()), |to| self.raise_gateway(gateway, to, Timestamp::default()))
    }
}
