//! Positions: how far gateways and their connections have confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::connections::kept_under;
use super::tables::{Cursor, Tables};
use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayKey};
use gateway_events::store::Result;

/// Everything up to `to` is done with on `connection`.
pub(super) struct Move {
    pub(super) gateway: GatewayKey,
    pub(super) connection: ConnectionId,
    pub(super) instance: Arc<str>,
    pub(super) to: i64,
    pub(super) at: Timestamp,
    /// The sign of life that moved it; none if it was moved without the gateway.
    pub(super) seen_at: Option<Timestamp>,
}

impl Tables {
    /// The gateway's own position.
    pub(super) fn confirmed(&self, gateway: GatewayKey) -> i64 {
        self.cursors.get(&(gateway, String::new())).map_or(0, |cursor| cursor.received)
    }

    /// The same, as people are shown it: a gateway with named replicas alone
    /// stands where the farthest of them does.
    pub(super) fn shown_position(&self, gateway: GatewayKey) -> i64 {
        let own = self.cursors.get(&(gateway, String::new())).map(|cursor| cursor.received);
        own.or_else(|| self.positions(gateway).max()).unwrap_or(0)
    }

    /// Every position that a gateway's connections may come back to.
    pub(super) fn positions(&self, gateway: GatewayKey) -> impl Iterator<Item = i64> {
        let own = self.cursors.iter().filter(move |((of, _), _)| *of == gateway);
        own.map(|(_, cursor)| cursor.received)
    }

    /// A connection's position, and the replica's name that it was opened with;
    /// none if somebody took the position over.
    pub(super) fn own(&self, connection: ConnectionId) -> Option<(i64, Arc<str>)> {
        let row = self.connections.get(&connection)?;
        let cursor = self.cursors.get(&(row.gateway, kept_under(connection, &row.instance)))?;
        Some((cursor.received, row.instance.as_str().into()))
    }

    /// Raises the connections' own positions and their gateways'. A position
    /// that somebody took over is gone, and stays so; nothing lies beyond a
    /// log's head.
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
                let (far, latest) = farthest.entry(*gateway).or_insert((to, *at));
                (*far, *latest) = ((*far).max(to), (*latest).max(*at));
            }
        }
        for (gateway, (to, at)) in farthest {
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
        }
        Ok(())
    }
}
