//! What only the simulation needs: copies of a database, a look into its tables, and deliberate bugs.

#![allow(dead_code, reason = "the simulation is not the only target with this store")]

use std::sync::{Arc, PoisonError};

use gateway_events::event::{ConnectionId, Epoch, EventId, GatewayKey, Reason};
use gateway_events::store::{OpenInstance, OpenedInstance, OutboxPage, Published, Record};

use super::MemoryDatabase;
use super::tables::Tables;

/// A copy of a database.
pub(crate) struct Copy(Tables);

/// Changes what operations do, as a bug would.
pub(crate) trait FaultHook: Send + Sync {
    /// What is recorded instead of these records.
    fn record(&self, records: Vec<Record>) -> Vec<Record> {
        records
    }

    /// Whether records whose operation failed are reported as recorded.
    fn hides_failures(&self) -> bool {
        false
    }

    /// Before an instance is opened.
    fn opening(&self, _opening: &mut OpenInstance) {}

    /// After it was opened.
    fn opened(&self, _opened: &mut OpenedInstance) {}

    /// After a page of a log was read.
    fn page(&self, _page: &mut OutboxPage) {}

    /// After events were appended.
    fn appended(&self, _published: &mut Published) {}
}

/// Changes nothing.
pub(super) struct NoFaults;

impl FaultHook for NoFaults {}

/// A position of an instance or a connection.
pub(crate) struct Position {
    /// The name of the instance; of an unnamed connection its id.
    pub(crate) name: String,
    /// How far it has confirmed, by its level.
    pub(crate) confirmed: i64,
}

impl MemoryDatabase {
    /// A copy of everything that is committed.
    pub(crate) fn copy(&self) -> Copy {
        Copy(self.tables().clone())
    }

    /// Replaces everything by a copy, as an operator does who restores a backup while no node runs. The
    /// restored logs have new epochs, unless `keeps_epochs`.
    pub(crate) fn restore(&self, Copy(copy): &Copy, keeps_epochs: bool) {
        let now = (self.0.clock)();
        let mut tables = copy.clone();
        for node in tables.nodes.values_mut() {
            node.stopped_at.get_or_insert(now);
        }
        if !keeps_epochs {
            for gateway in tables.gateways.values_mut() {
                gateway.stream.epoch = Epoch::new();
            }
        }
        *self.tables() = tables;
    }

    /// Changes what later operations do.
    pub(crate) fn set_fault_hook(&self, hook: Arc<dyn FaultHook>) {
        *self.0.fault_hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// The epoch, head and floor of a log.
    pub(crate) fn log_of(&self, gateway: GatewayKey) -> (Epoch, i64, i64) {
        let tables = self.tables();
        let stream = &tables.gateways[&gateway].stream;
        (stream.epoch, stream.head, stream.floor)
    }

    /// The sequences of a log and their events, in order.
    pub(crate) fn rows_of(&self, gateway: GatewayKey) -> Vec<(i64, EventId)> {
        let tables = self.tables();
        let rows = tables.outbox.range((gateway, 0)..=(gateway, i64::MAX));
        rows.map(|((_, sequence), key)| (*sequence, tables.events[key].event.id.clone())).collect()
    }

    /// A gateway's confirmed position.
    pub(crate) fn confirmed_of(&self, gateway: GatewayKey) -> i64 {
        self.tables().confirmed(gateway)
    }

    /// All positions of a gateway except its own.
    pub(crate) fn positions_of(&self, gateway: GatewayKey) -> Vec<Position> {
        let tables = self.tables();
        let own = tables.cursors.range((gateway, String::new())..);
        own.take_while(|((of, _), _)| *of == gateway)
            .filter(|((_, name), _)| !name.is_empty())
            .map(|((_, name), cursor)| Position {
                name: name.clone(),
                confirmed: cursor.position(),
            })
            .collect()
    }

    /// The dead letters of a gateway: the first and last sequence of each, and its reason.
    pub(crate) fn dead_letters_of(&self, gateway: GatewayKey) -> Vec<(i64, i64, Reason)> {
        let tables = self.tables();
        let own = tables.dead_letters.range((gateway, 0)..=(gateway, i64::MAX));
        own.map(|((_, first), letter)| (*first, letter.last, letter.reason)).collect()
    }

    /// The connections of a gateway that are recorded as live.
    pub(crate) fn live_connections_of(&self, gateway: GatewayKey) -> Vec<ConnectionId> {
        let tables = self.tables();
        let live = tables.connections.iter();
        let live = live.filter(|(_, row)| row.gateway == gateway && row.closed.is_none());
        live.map(|(id, _)| *id).collect()
    }
}
