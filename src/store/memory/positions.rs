//! Positions: how far gateways and their connections have confirmed.

use std::collections::BTreeMap;

use super::connections::instance_of;
use super::tables::{Cursor, Tables};
use crate::event::{ConnectionId, GatewayKey};
use crate::store::Result;

/// Everything up to `to` is done with on `connection`.
pub(super) struct Move {
    pub(super) connection: ConnectionId,
    pub(super) to: i64,
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

    /// The position of a connection, if it is still its own.
    pub(super) fn own(&self, connection: ConnectionId) -> Option<i64> {
        let row = self.connections.get(&connection)?;
        let cursor = self.cursors.get(&(row.gateway, instance_of(connection, row)))?;
        Some(cursor.received)
    }

    /// Raises the connections' own positions and their gateways'. A position
    /// that somebody took over is gone, and stays so; nothing lies beyond a
    /// log's head.
    pub(super) fn raise(&mut self, moves: &[Move]) -> Result<()> {
        let mut farthest: BTreeMap<GatewayKey, i64> = BTreeMap::new();
        for Move { connection, to } in moves {
            let Some(row) = self.connections.get(connection) else { continue };
            let (gateway, is_unnamed) = (row.gateway, row.instance.is_empty());
            let instance = instance_of(*connection, row);
            let to = (*to).min(self.gateway_row(gateway)?.stream.head);
            if let Some(own) = self.cursors.get_mut(&(gateway, instance)) {
                own.received = own.received.max(to);
            }
            if is_unnamed {
                let far = farthest.entry(gateway).or_insert(to);
                *far = (*far).max(to);
            }
        }
        for (gateway, to) in farthest {
            let before = self.confirmed(gateway);
            if to > before {
                let dead = (before + 1..=to).filter(|sequence| self.is_dead((gateway, *sequence)));
                let newly = to - before - i64::try_from(dead.count()).unwrap_or(i64::MAX);
                self.stream(gateway)?.confirmed_total += newly;
            }
            let cursor = Cursor { received: to.max(before), left_at: None };
            self.cursors.insert((gateway, String::new()), cursor);
        }
        Ok(())
    }
}
