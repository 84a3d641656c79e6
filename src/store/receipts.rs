//! Receipts that wait to be written in one batch.

use std::collections::HashMap;
use std::sync::Arc;

use super::{InstanceOutcome, Level, Outcome, Range, Record};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayKey};

/// Receipts of one connection for consecutive deliveries.
#[derive(Clone)]
pub struct Receipts {
    /// The gateway.
    pub gateway: GatewayKey,
    /// The connection.
    pub connection: ConnectionId,
    /// The instance whose position they move.
    pub instance: Arc<str>,
    /// The acknowledged sequences.
    pub range: Range,
    /// The level that they were acknowledged at.
    pub level: Level,
    /// Whether that confirms them.
    pub confirms: bool,
    /// Whether the gateway acknowledged them itself, in reliable mode.
    pub is_acknowledged: bool,
    /// When the first of them was sent.
    pub started_at: Timestamp,
    /// When the last of them was confirmed.
    pub finished_at: Timestamp,
}

impl Receipts {
    /// Those that a record contains; `None` if it is of another kind.
    pub fn of(record: &Record) -> Option<Self> {
        match record {
            Record::Confirmed { gateway, connection, instance, range, started_at, finished_at } => {
                Some(Self {
                    gateway: *gateway,
                    connection: *connection,
                    instance: Arc::clone(instance),
                    range: *range,
                    level: Level::Received,
                    confirms: true,
                    is_acknowledged: false,
                    started_at: *started_at,
                    finished_at: *finished_at,
                })
            }
            Record::Instance {
                gateway,
                connection,
                instance,
                outcome: InstanceOutcome::Acknowledged { level, confirms, range, started_at },
                at,
            } => Some(Self {
                gateway: *gateway,
                connection: *connection,
                instance: Arc::clone(instance),
                range: *range,
                level: *level,
                confirms: *confirms,
                is_acknowledged: true,
                started_at: *started_at,
                finished_at: *at,
            }),
            _ => None,
        }
    }

    /// Whether they are attempts. An acknowledgement as received is none if the connection confirms
    /// by what it has applied.
    pub fn is_attempt(&self) -> bool {
        self.confirms || self.level == Level::Applied
    }

    /// The outcome of the attempts.
    pub const fn outcome(&self) -> Outcome {
        match self.level {
            Level::Received => Outcome::Received,
            Level::Applied => Outcome::Applied,
        }
    }
}

/// Receipts in the order of their arrival, with adjacent ones merged.
#[derive(Default)]
pub struct Waiting {
    /// The merged receipts.
    pub receipts: Vec<Receipts>,
    newest: HashMap<(ConnectionId, Level), usize>,
}

impl Waiting {
    /// Adds receipts, merging them with adjacent ones.
    pub fn add(&mut self, new: Receipts) {
        if let Some(newest) = self.newest.get(&(new.connection, new.level)) {
            let newest = &mut self.receipts[*newest];
            if newest.gateway == new.gateway
                && newest.confirms == new.confirms
                && newest.range.last.next() == new.range.first
            {
                newest.range.last = new.range.last;
                newest.finished_at = newest.finished_at.max(new.finished_at);
                return;
            }
        }
        self.newest.insert((new.connection, new.level), self.receipts.len());
        self.receipts.push(new);
    }
}
