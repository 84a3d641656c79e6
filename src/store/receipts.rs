//! Receipts that wait to be written in one batch.

use std::collections::HashMap;
use std::sync::Arc;

use super::Range;
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
    /// The confirmed sequences.
    pub range: Range,
    /// When the first of them was sent.
    pub started_at: Timestamp,
    /// When the last of them was confirmed.
    pub finished_at: Timestamp,
}

/// Receipts in the order of their arrival, with adjacent ones merged.
#[derive(Default)]
pub struct Waiting {
    /// The merged receipts.
    pub receipts: Vec<Receipts>,
    newest: HashMap<ConnectionId, usize>,
}

impl Waiting {
    /// Adds receipts, merging them with adjacent ones.
    pub fn add(&mut self, new: Receipts) {
        if let Some(newest) = self.newest.get(&new.connection) {
            let newest = &mut self.receipts[*newest];
            if newest.gateway == new.gateway && newest.range.last.next() == new.range.first {
                newest.range.last = new.range.last;
                newest.finished_at = newest.finished_at.max(new.finished_at);
                return;
            }
        }
        self.newest.insert(new.connection, self.receipts.len());
        self.receipts.push(new);
    }
}
