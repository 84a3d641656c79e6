//! Positions: what gateways and their connections have confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayKey};
use gateway_events::store::Result;

use super::connections::kept_under;
use super::tables::{Cursor, Tables};

/// Confirms everything up to `to` on `connection`.
pub(super) struct Move {
    pub(super) gateway: GatewayKey,
    pub(super) connection: ConnectionId,
    pub(super) instance: Arc<str>,
    pub(super) to: i64,
    pub(super) at: Timestamp,
    /// The activity that moved it. `None` if the gateway showed none: then the position moves, but
    /// the time of the last receipt does not.
    pub(super) seen_at: Option<Timestamp>,
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
        own.map(|(_, cursor)| cursor.received)
    }

    /// A connection's position, and the instance name that it was opened with; `None` if another
    /// connection took the position over.
    pub(super) fn own(&self, connection: ConnectionId) -> Option<(i64, Arc<str>)> {
        let row = self.connections.get(&connection)?;
        let cursor = self.cursors.get(&(row.gateway, kept_under(connection, &row.instance)))?;
        Some((cursor.received, row.instance.as_str().into()))
    }

    /// Raises the positions of connections and of their gateways, up to the heads of their logs.
    /// Does not recreate a position that another connection took over.
    pub(super) fn raise(&mut self, moves: &[Move]) -> Result<()> {
        let mut farthest: BTreeMap<GatewayKey, (i64, Timestamp)> = BTreeMap::new();
        for Move { gateway, connection, instance, to, at, seen_at } in moves {
            let to = (*to).min(self.gateway_row(*gateway)?.stream.head);
            let name = kept_under(*connection, instance);
            if let Some(own) = self.cursors.get_mut(&(*gateway, name)) {
                own.received = own.received.max(to);
                own.updated_at = own.updated_at.max(seen_at.unwrap_or(own.updated_at));
            }
            if instance.is_empty() {
                let receipt_at = seen_at.map_or(Timestamp::default(), |_| *at);
                let (far, latest) = farthest.entry(*gateway).or_insert((to, receipt_at));
                (*far, *latest) = ((*far).max(to), (*latest).max(receipt_at));
            }
        }
        for (gateway, (to, at)) in farthest {
            self.raise_gateway(gateway, to, at)?;
        }
        Ok(())
    }

    /// Raises a gateway's own position and no connection's.
    pub(super) fn raise_gateway(
        &mut self,
        gateway: GatewayKey,
        to: i64,
        at: Timestamp,
    ) -> Result<()> {
        let before = self.confirmed(gateway);
        if to > before {
            let dead = (before + 1..=to).filter(|sequence| self.is_dead((gateway, *sequence)));
            let newly = to - before - i64::try_from(dead.count()).unwrap_or(i64::MAX);
            self.stream(gateway)?.confirmed_total += newly;
        }
        let own = self.cursors.get(&(gateway, String::new()));
        let updated_at = own.map_or(at, |own| own.updated_at.max(at));
        let cursor = Cursor { received: to.max(before), updated_at, ..Cursor::default() };
        self.cursors.insert((gateway, String::new()), cursor);
        Ok(())
    }
}
