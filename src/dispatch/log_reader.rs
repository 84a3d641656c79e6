//! A lane's reader of its gateway's log: what it sends next. Hints only wake it, and sequences decide: new rows that come with a hint
//! and are exactly next are taken from memory. Other rows are read from the log, one page at a
//! time, when they are needed. After a pause, a skip or a purge, the rows in memory are dropped and
//! read again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

use super::backoff::Backoff;
use super::window;
use crate::event::{GatewayKey, Reason, Sequence};
use crate::store::{Log, OutboxPage, OutboxRow, Range, Result, StoreError};
use crate::wake::{Control, Hint, Subscription};

/// Rows of a connection's first page.
const FIRST_PAGE: usize = 8;
/// Rows of the largest page, in windows. Each page costs a query, and small events are sent faster
/// than one page after another can be read.
const MAX_PAGE_WINDOWS: usize = 4;
/// Reads that must not find an event before it is given up.
const MISSING_READS: u32 = 3;
/// The size of a row besides its payload, in bytes: ids, timestamps and this struct.
const ROW: usize = 256;

/// What to send or skip next.
#[derive(Debug)]
pub(super) enum Item {
    /// An event. The instant is that of its commit, if it came with a hint.
    Event(OutboxRow, Option<Instant>),
    /// Sequences whose events are not in the log, and why.
    Lost(Range, Reason),
}

/// Reads a gateway's log for one lane.
pub(super) struct LogReader {
    store: Arc<dyn Log>,
    gateway: GatewayKey,
    /// Shared by all lanes, so that a fleet that reconnects at once takes turns reading.
    reads: Arc<Semaphore>,
    /// The maximum number of rows of a page ...
    most_rows: usize,
    /// ... and of bytes of payload, of a page and of what is ready when a page is requested.
    most_bytes: usize,
    subscription: Subscription,
    /// Items that can be taken. When a page is requested, at most `most_bytes` of them are left.
    ready: VecDeque<Item>,
    ready_bytes: usize,
    /// Rows of the next page. Few at first, because their size is unknown, and a store may produce
    /// all of them although they are too large together.
    page: usize,
    /// The last sequence in `ready` or taken from it.
    last: Sequence,
    head: Sequence,
    /// Rows up to here are read from the log: they may have been superseded when the connection was
    /// opened, after a hint with them was on its way.
    opened_at: Sequence,
    /// How the log is delivered.
    control: Control,
    /// Set when that has changed, until the rows are read again.
    is_outdated: bool,
    read: Option<BoxFuture<'static, Result<OutboxPage>>>,
    wait: Duration,
    backoff: Backoff,
    /// The sequence that the last reads did not find, and how many they were.
    missing: (Sequence, u32),
}

impl Item {
    /// Its last sequence.
    pub(super) const fn last(&self) -> Sequence {
        match self {
            Self::Event(row, _) => row.sequence,
            Self::Lost(range, _) => range.last,
        }
    }
}

impl LogReader {
    /// Starts after `position`. The subscription must be older than the reading of `head`, and know
    /// the control that was read with it.
    pub(super) fn new(
        store: Arc<dyn Log>,
        reads: Arc<Semaphore>,
        gateway: GatewayKey,
        limits: window::Limits,
        mut subscription: Subscription,
        position: Sequence,
        head: Sequence,
    ) -> Self {
        let state = *subscription.state.borrow_and_update();
        Self {
            store,
            gateway,
            reads,
            most_rows: MAX_PAGE_WINDOWS * limits.events,
            most_bytes: limits.bytes,
            subscription,
            ready: VecDeque::new(),
            ready_bytes: 0,
            page: FIRST_PAGE.min(limits.events),
            last: position,
            head: head.max(state.head),
            opened_at: head,
            control: state.control,
            is_outdated: false,
            read: None,
            wait: Duration::ZERO,
            backoff: Backoff::default(),
            missing: (Sequence::ZERO, 0),
        }
    }

    /// Whether nothing new may be sent for now.
    pub(super) const fn is_paused(&self) -> bool {
        self.control.is_paused
    }

    /// Takes notice of a change to the delivery of the log: drops all rows in memory, and reads the
    /// log again after `position`. Costs a load of an atomic number if there is none.
    pub(super) fn refresh(&mut self, position: Sequence) {
        if self.subscription.state.has_changed().unwrap_or(false) {
            self.note_state();
        }
        if !std::mem::take(&mut self.is_outdated) {
            return;
        }
        // Hints may contain a payload that was purged.
        self.rewind(position);
    }

    /// The log's last sequence, as far as is known.
    pub(super) const fn head(&self) -> Sequence {
        self.head
    }

    /// Drops all rows in memory, and reads the log again after `position`.
    pub(super) fn rewind(&mut self, position: Sequence) {
        self.subscription.hints = self.subscription.hints.resubscribe();
        self.ready.clear();
        self.ready_bytes = 0;
        self.last = position;
        self.read = None;
        self.wait = Duration::ZERO;
    }

    /// The next item, if it is ready.
    pub(super) fn front(&self) -> Option<&Item> {
        self.ready.front()
    }

    /// All items that are ready, in order.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Item> {
        self.ready.iter()
    }

    /// Removes and returns the next item.
    pub(super) fn pop(&mut self) -> Option<Item> {
        let item = self.ready.pop_front();
        if let Some(Item::Event(row, _)) = &item {
            self.ready_bytes = self.ready_bytes.saturating_sub(weight(row));
        }
        item
    }

    /// Waits until more is ready, or the delivery of the log has changed. Cancel safe.
    pub(super) async fn more(&mut self) {
        loop {
            if self.is_outdated {
                return;
            }
            if self.read.is_none() && self.runs_low() && self.last < self.head {
                self.read = Some(self.read_on());
            }
            let reading = self.read.is_some();
            tokio::select! {
                biased;
                // Hints first, because a head without rows costs a read.
                hint = self.subscription.hints.recv() => match hint {
                    Ok(hint) => {
                        if self.take_hint(&hint) {
                            return;
                        }
                    }
                    Err(RecvError::Lagged(_) | RecvError::Closed) => self.note_state(),
                },
                Ok(()) = self.subscription.state.changed() => self.note_state(),
                page = poll(&mut self.read), if reading => {
                    self.read = None;
                    if self.take_page(page) {
                        return;
                    }
                }
            }
        }
    }

    /// Whether to read the next page, so that it is read while the current one is sent.
    fn runs_low(&self) -> bool {
        self.ready.len() <= self.most_rows && self.ready_bytes <= self.most_bytes
    }

    fn note_state(&mut self) {
        let state = *self.subscription.state.borrow_and_update();
        self.head = self.head.max(state.head);
        if state.control.revision > self.control.revision {
            self.control = state.control;
            self.is_outdated = true;
        }
    }

    fn read_on(&mut self) -> BoxFuture<'static, Result<OutboxPage>> {
        let (store, reads) = (Arc::clone(&self.store), Arc::clone(&self.reads));
        let (gateway, last, rows, bytes) = (self.gateway, self.last, self.page, self.most_bytes);
        let wait = std::mem::take(&mut self.wait);
        Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let _turn = reads
                .acquire()
                .await
                .map_err(|_| StoreError::Unavailable("the node is shutting down".to_owned()))?;
            store.read(gateway, last, rows, bytes).await
        })
    }

    /// Takes the rows of a hint if they are next and there is room. Otherwise they are read later.
    fn take_hint(&mut self, hint: &Hint) -> bool {
        self.head = self.head.max(hint.head);
        let next = self.last.next();
        let before = self.ready.len();
        for (sequence, event) in hint.rows.iter().skip_while(|(sequence, _)| *sequence < next) {
            let full = self.ready.len() >= self.most_rows || self.ready_bytes >= self.most_bytes;
            if full || *sequence != self.last.next() || *sequence <= self.opened_at {
                break;
            }
            let event = Arc::clone(event);
            let row = OutboxRow { sequence: *sequence, event, withheld: None };
            self.push(row, Some(hint.committed_at));
        }
        self.ready.len() > before
    }

    /// Takes a page, except rows that a hint has brought meanwhile.
    fn take_page(&mut self, page: Result<OutboxPage>) -> bool {
        let before = self.ready.len();
        let is_better_left = match page {
            Err(error) => {
                tracing::warn!(gateway = self.gateway.0, %error, "failed to read the log; keeping the socket");
                true
            }
            Ok(page) => {
                self.head = self.head.max(page.head);
                if page.floor > self.last {
                    let lost = Range { first: self.last.next(), last: page.floor };
                    self.last = page.floor;
                    self.ready.push_back(Item::Lost(lost, Reason::Retention));
                }
                self.give_up_missing(&page);
                let (asked, got) = (self.page, page.rows.len());
                let is_all = page.rows.last().is_none_or(|row| row.sequence >= page.head);
                if got >= asked {
                    // No more than fit if they are as large: a store may produce the others in vain.
                    let bytes: usize = page.rows.iter().map(|row| weight(row) - ROW).sum();
                    let fit = self.most_bytes.saturating_mul(got) / bytes.max(1);
                    self.page = (2 * asked).min(fit.max(got)).min(self.most_rows);
                } else if !is_all {
                    // The page was limited by its bytes.
                    self.page = got.max(1);
                }
                for row in page.rows {
                    if row.sequence == self.last.next() {
                        self.push(row, None);
                    }
                }
                // The page added no rows, and no hint has supplied them either (`last < head`).
                self.ready.len() == before && self.last < self.head
            }
        };
        if is_better_left {
            self.wait = self.backoff.next_pause();
        } else {
            self.backoff.reset();
        }
        self.ready.len() > before
    }

    /// Gives up sequences up to the head that a page should have contained, once several reads have
    /// not found them. A page is read from one snapshot, so they are missing in the database.
    fn give_up_missing(&mut self, page: &OutboxPage) {
        let next = self.last.next();
        // A hint has supplied what follows.
        let is_old = page.rows.first().is_some_and(|row| row.sequence < next);
        let last = match (page.unreadable, page.rows.first()) {
            _ if is_old || page.head < next => return,
            (Some(sequence), _) => sequence,
            (None, Some(row)) => row.sequence.previous(),
            (None, None) => {
                // Of what was asked for, nothing was found.
                let asked = i64::try_from(self.page).unwrap_or(i64::MAX);
                page.head.min(Sequence(self.last.0.saturating_add(asked)))
            }
        };
        if last < next {
            return;
        }
        let (sequence, reads) = self.missing;
        self.missing = (next, if sequence == next { reads + 1 } else { 1 });
        if self.missing.1 < MISSING_READS {
            return;
        }
        tracing::error!(
            gateway = self.gateway.0,
            first = next.0,
            last = last.0,
            "events of a log are missing or unreadable; they are recorded as failed"
        );
        self.ready.push_back(Item::Lost(Range { first: next, last }, Reason::Unreadable));
        self.last = last;
    }

    fn push(&mut self, row: OutboxRow, committed_at: Option<Instant>) {
        self.last = row.sequence;
        self.ready_bytes += weight(&row);
        self.ready.push_back(Item::Event(row, committed_at));
    }
}

fn weight(row: &OutboxRow) -> usize {
    let attributes = row.event.attributes.as_ref().map_or(0, |attributes| attributes.bytes());
    ROW + row.event.payload.get().len() + attributes
}

async fn poll(read: &mut Option<BoxFuture<'static, Result<OutboxPage>>>) -> Result<OutboxPage> {
    match read {
        Some(read) => read.await,
        None => std::future::pending().await,
    }
}
