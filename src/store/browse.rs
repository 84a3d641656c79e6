//! A gateway's log as admins browse it: its events with their delivery states. Browsing changes no
//! state.

use std::sync::Arc;

use super::{DeliveryState, Gateway};
use crate::clock::Timestamp;
use crate::event::{Event, Sequence};

/// Rows of the first read of a page. Each further read fetches twice as many, so that few large
/// events are read in excess of what the page may contain.
const FIRST_READ: usize = 8;

/// A page of a gateway's log.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// The gateway in the same snapshot: its log's head, floor and epoch, and its confirmed
    /// position.
    pub gateway: Gateway,
    /// The rows, by sequence.
    pub rows: Vec<LogRow>,
}

/// An event in a gateway's log.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Its sequence.
    pub sequence: Sequence,
    /// The event.
    pub event: Arc<Event>,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// The state of its delivery.
    pub state: DeliveryState,
}

/// Which part of a log to read.
#[derive(Clone, Copy, Debug)]
pub struct LogSpan {
    /// Read what follows this sequence.
    pub after: Sequence,
    /// At most this many rows.
    pub limit: usize,
    /// About this many bytes of payload, but at least one row if there is any.
    pub max_bytes: usize,
}

/// How much of a page has been read.
pub struct Progress {
    /// Bounds of the next read. A limit of 0 means that the page is complete.
    pub next: LogSpan,
    reads: u32,
}

impl Progress {
    /// Starts with nothing read.
    pub fn new(whole: LogSpan) -> Self {
        Self { next: LogSpan { limit: whole.limit.min(FIRST_READ), ..whole }, reads: 1 }
    }

    /// Accounts for a read that returned `rows` rows with `bytes` bytes of payload. `left` rows are
    /// still wanted.
    pub fn advance(&mut self, last: Option<Sequence>, rows: usize, bytes: usize, left: usize) {
        let is_last = rows < self.next.limit || bytes >= self.next.max_bytes;
        let limit = FIRST_READ.saturating_mul(1 << self.reads.min(16)).min(left);
        self.reads += 1;
        self.next = LogSpan {
            after: last.unwrap_or(self.next.after),
            limit: if is_last { 0 } else { limit },
            max_bytes: self.next.max_bytes.saturating_sub(bytes),
        };
    }
}
