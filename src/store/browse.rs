//! A gateway's log as admins browse it: its events with their states. Reading it
//! moves nothing.

use std::sync::Arc;

use super::{DeliveryState, Gateway};
use crate::clock::Timestamp;
use crate::event::{Event, Sequence};

/// Rows of the first read of a page; each further one reads twice as many, so
/// that few large events are read beyond what the page may hold.
const FIRST_READ: usize = 8;

/// A page of a gateway's log.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// The gateway at that moment: its log's head, floor and epoch, and what it
    /// has confirmed.
    pub gateway: Gateway,
    /// Its rows, in order.
    pub rows: Vec<LogRow>,
}

/// An event in a gateway's log.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Its number.
    pub sequence: Sequence,
    /// The event.
    pub event: Arc<Event>,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// Where its delivery stands.
    pub state: DeliveryState,
}

/// Which part of a log is wanted.
#[derive(Clone, Copy, Debug)]
pub struct LogSpan {
    /// What follows this number.
    pub after: Sequence,
    /// At most so many rows, …
    pub limit: usize,
    /// … and about so many bytes of payload: at least one row, if there is any.
    pub max_bytes: usize,
}

/// How far a page has been read.
pub struct Progress {
    /// What the next read has to ask for; a limit of 0 when the page is complete.
    pub next: LogSpan,
    reads: u32,
}

impl Progress {
    /// Nothing has been read yet.
    pub fn new(whole: LogSpan) -> Self {
        Self { next: LogSpan { limit: whole.limit.min(FIRST_READ), ..whole }, reads: 1 }
    }

    /// Counts what a read brought. `left` rows are still wanted.
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
