//! One task per connection. It waits for the first of an event to send, a message from the peer, a
//! deadline, or a request to stop. The [`window`](super::window) decides what each means, and
//! outcomes go to the recorder.
//!
//! The lane never waits for the database before it receives messages from its peer, and never
//! closes a connection because the database is unavailable.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep_until};

use super::final_ping::FinalPing;
use super::in_flight::{InFlight, logged};
use super::log_reader::{Item, LogReader};
use super::outcomes::{ConnectionInfo, Outcomes};
use super::permit::Permit;
use super::recorder::Recorder;
use super::registry::Registration;
use super::reports::{Pushed, Reports};
use super::silence::{Silence, probes};
use super::window::{GiveUpPolicy, Window};
use crate::clock::Timestamp;
use crate::event::{Event, Reason, Sequence};
use crate::metric;
use crate::store::OutboxRow;
use crate::transport::{Ended, Incoming, LINK_MESSAGES, LaneEnd, Outgoing, OutgoingEvent};

mod ending;
mod metrics;
mod receipts;

use ending::leave_unmatched;
pub(super) use metrics::Metrics;
pub use receipts::INVALID_MESSAGES;
use receipts::{REPEATED, TOO_MANY_REPORTS};

/// How long a node that shuts down waits for the receipts of sent events.
pub(super) const LAST_RECEIPTS: Duration = Duration::from_secs(1);
/// The expiry of an event that expired this long before the connection was
/// opened is recorded already.
pub(super) const LATE_EXPIRY: Duration = Duration::from_secs(2);
/// How many invalid messages of one connection are logged. All are counted.
const INVALID_LOGGED: u32 = 5;
/// The size of an event on the wire besides its payload and ids, in bytes.
const ENVELOPE: usize = 256;

/// The deadlines of a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) heartbeat_interval: Duration,
    pub(super) heartbeat_timeout: Duration,
    pub(super) confirmation_timeout: Duration,
    pub(super) final_ping: FinalPing,
    pub(super) give_up: GiveUpPolicy,
    /// When the token expires.
    pub(super) token_expires: Option<Instant>,
}

/// Everything one connection needs.
pub(super) struct Lane {
    pub(super) info: ConnectionInfo,
    /// The last sequence that may have been sent on an earlier connection.
    pub(super) sent_before: Sequence,
    /// The transport's name.
    pub(super) transport: &'static str,
    pub(super) timing: Timing,
    pub(super) window: Window,
    pub(super) reader: LogReader,
    pub(super) outcomes: Outcomes,
    pub(super) reports: Reports,
    pub(super) recorder: Recorder,
    pub(super) link: LaneEnd,
    pub(super) stop: mpsc::Receiver<Reason>,
    pub(super) registration: Registration,
    pub(super) permit: Permit,
}

/// The state of a running lane.
struct State {
    opened_at: Instant,
    connected_at: Timestamp,
    silence: Silence,
    in_flight: InFlight,
    metrics: Metrics,
    /// Set when the node shuts down: nothing more is sent, and receipts are
    /// awaited until then.
    wind_down: Option<Instant>,
    /// Invalid messages so far.
    invalid: u32,
}

/// Why delivery on a connection stops.
enum End {
    /// The transport has ended.
    Ended(Box<Ended>),
    /// The transport is to be closed.
    Close(Reason),
}

/// How the connection ended.
struct Outcome {
    reason: Reason,
    detail: String,
    /// The events that were to share a receipt; `None` if the transport did not say.
    shared: Option<Vec<Sequence>>,
}

impl Lane {
    /// Delivers until the connection ends, and records that.
    pub(super) async fn run(mut self: Box<Self>) {
        let now = Instant::now();
        let mut state = State {
            opened_at: now,
            connected_at: Timestamp::now(),
            silence: Silence::new(self.timing.final_ping),
            in_flight: InFlight::default(),
            metrics: Metrics::new(self.transport),
            wind_down: None,
            invalid: 0,
        };
        tracing::info!(
            gateway = %self.info.gateway_id,
            connection = %self.info.connection,
            position = self.window.position().0,
            "connected"
        );
        let connected = AssertUnwindSafe(self.connected(&mut state)).catch_unwind().await;
        let outcome = connected.unwrap_or_else(|_| {
            // The connection must be recorded as closed: while it looked live, undelivered events
            // would not be recorded as failed.
            tracing::error!(connection = %self.info.connection, "the task of a connection panicked");
            leave_unmatched(&self.window, &mut self.reports, &mut self.outcomes);
            let detail = "the task of the connection failed".to_owned();
            Outcome { reason: Reason::NodeLost, detail, shared: None }
        });
        // Boxed, like the lane itself: a task reserves the memory of its largest
        // state from its start.
        Box::pin(self.finish(state, outcome)).await;
    }

    async fn connected(&mut self, state: &mut State) -> Outcome {
        match self.deliver(state).await {
            End::Ended(ended) => {
                let Ended { reason, detail, shared, .. } = *ended;
                Outcome { reason, detail, shared: Some(shared) }
            }
            End::Close(reason) => self.close(state, reason).await,
        }
    }

    async fn deliver(&mut self, state: &mut State) -> End {
        // Clones, because room in these queues is awaited while the lane is borrowed.
        let (recorder, events) = (self.recorder.clone(), self.link.events.clone());
        let mut probes = probes(self.timing.heartbeat_interval);
        loop {
            let link_is_full = self.send_ready(state);
            if state.wind_down.is_some() && self.window.is_idle() {
                return End::Close(Reason::Shutdown);
            }
            let (deadline, missed) = self.deadline(state);
            let matching = !self.reports.is_empty() && self.outcomes.has_room();
            tokio::select! {
                biased;
                Some(reason) = self.stop.recv() => {
                    if reason != Reason::Shutdown {
                        return End::Close(reason);
                    }
                    state.wind_down.get_or_insert_with(|| Instant::now() + LAST_RECEIPTS);
                }
                // Deadlines before messages, because otherwise a peer that sends continuously would
                // have none.
                () = sleep_until(deadline) => {
                    if let Some(end) = self.overdue(state, missed) {
                        return end;
                    }
                }
                _ = probes.tick() => state.silence.probe(&self.link.control),
                () = self.registration.probe() => state.silence.probe(&self.link.control),
                incoming = self.link.incoming.recv() => {
                    if let Some(end) = self.receive_all(state, incoming) {
                        return end;
                    }
                }
                Some(slot) = recorder.reserve(), if !self.outcomes.is_empty() => {
                    self.outcomes.hand_in(slot);
                }
                matched = self.reports.next(), if matching => {
                    if let Some(matched) = matched {
                        self.reported(state, &matched);
                    }
                }
                Ok(_) = events.reserve(), if link_is_full => {}
                () = self.reader.more(), if state.wind_down.is_none() => {}
            }
        }
    }

    /// The next deadline, and the reason if it is missed.
    fn deadline(&self, state: &State) -> (Instant, Reason) {
        let timing = &self.timing;
        let (deadline, missed) = self.silence_deadline(state);
        let others = [
            timing.token_expires.map(|at| (at, Reason::TokenRevoked)),
            state.wind_down.map(|at| (at, Reason::Shutdown)),
        ];
        others.into_iter().flatten().fold(
            (state.silence.wakes_at(deadline), missed),
            |first, other| {
                if other.0 < first.0 { other } else { first }
            },
        )
    }

    /// The deadline of a silent peer. A handler may run for longer than the heartbeat
    /// timeout, so while an event is unconfirmed, only the deadline of its
    /// confirmation counts here. The kernel detects a dead host meanwhile (`TCP_USER_TIMEOUT`, see
    /// "A dead peer" in docs/ARCHITECTURE.md).
    fn silence_deadline(&self, state: &State) -> (Instant, Reason) {
        let timing = &self.timing;
        match self.window.confirmation_deadline(timing.confirmation_timeout) {
            Some(unconfirmed) => (unconfirmed, Reason::ConfirmationTimeout),
            None => (state.silence.reaches(timing.heartbeat_timeout), Reason::HeartbeatTimeout),
        }
    }

    /// Handles a deadline that is due. Returns the end if it was missed.
    fn overdue(&mut self, state: &mut State, missed: Reason) -> Option<End> {
        if !matches!(missed, Reason::HeartbeatTimeout | Reason::ConfirmationTimeout) {
            return Some(End::Close(missed));
        }
        // Messages that were received already count, and may move the deadline.
        if let Ok(incoming) = self.link.incoming.try_recv()
            && let Some(end) = self.receive_all(state, Some(incoming))
        {
            return Some(end);
        }
        let (deadline, missed) = self.silence_deadline(state);
        let is_over = state.silence.misses(deadline, &self.link.control);
        is_over.then_some(End::Close(missed))
    }

    /// Sends what is ready and fits; nothing new while delivery is paused. Returns true if only the
    /// link has no room.
    fn send_ready(&mut self, state: &mut State) -> bool {
        if state.wind_down.is_some() {
            return false;
        }
        self.reader.refresh(self.window.position());
        let (now, at) = (Timestamp::now(), Instant::now());
        while let Some(item) = self.reader.front() {
            if item.last() <= self.window.sent() {
                self.pass_over(state);
                continue;
            }
            if self.reader.is_paused() {
                return false;
            }
            let sent = match item {
                Item::Lost(range, reason) => {
                    let (last, reason) = (range.last, *reason);
                    self.skip(last, reason)
                }
                Item::Event(OutboxRow { sequence, withheld: Some(reason), .. }, _) => {
                    let (last, reason) = (*sequence, *reason);
                    self.skip(last, reason)
                }
                Item::Event(row, _) if row.event.expires_at.is_some_and(|at| at <= now) => {
                    let row = row.clone();
                    self.skip_expired(state, &row)
                }
                Item::Event(row, committed_at) => {
                    let (row, committed_at) = (row.clone(), *committed_at);
                    match self.send(state, row, now, at) {
                        Sent::LinkFull => return true,
                        Sent::Refused => false,
                        Sent::Done => {
                            if let Some(committed_at) = committed_at {
                                state.metrics.dispatch_delay.record(committed_at.elapsed());
                            }
                            true
                        }
                    }
                }
            };
            if !sent {
                return false;
            }
        }
        false
    }

    /// Drops a row that was sent before it was read again. If an admin has skipped it meanwhile, the
    /// lane no longer waits for its receipt.
    fn pass_over(&mut self, state: &mut State) {
        let Some(Item::Event(OutboxRow { sequence, withheld: Some(Reason::Skipped), .. }, _)) =
            self.reader.pop()
        else {
            return;
        };
        if self.window.settle(sequence, Instant::now()) {
            state.in_flight.remove(sequence);
            self.pass_settled();
        }
    }

    /// Moves the position past skipped events, once everything before them is confirmed.
    pub(super) fn pass_settled(&mut self) {
        if let Some(range) = self.window.pass_settled() {
            self.outcomes.skipped(range, Reason::Skipped);
        }
    }

    fn send(&mut self, state: &mut State, row: OutboxRow, now: Timestamp, at: Instant) -> Sent {
        let OutboxRow { sequence, event, .. } = row;
        let bytes = size(&event);
        if !self.window.has_room(bytes) {
            return Sent::Refused;
        }
        let slot = match self.link.events.try_reserve() {
            Ok(slot) => slot,
            Err(TrySendError::Full(())) => return Sent::LinkFull,
            // The transport reports why it has ended.
            Err(TrySendError::Closed(())) => return Sent::Refused,
        };
        let own_receipt = self.window.needs_own_receipt(sequence);
        if let Err(refusal) = self.window.offer(sequence, bytes, at, now) {
            tracing::error!(
                sequence = sequence.0,
                ?refusal,
                "failed to add an event to the window of unconfirmed events"
            );
            return Sent::Refused;
        }
        self.registration.note_sent(sequence);
        state.in_flight.sent(sequence, &event, at);
        let (previous, attempt) = (sequence.previous(), 1);
        let outgoing = OutgoingEvent { sequence, previous, attempt, event, own_receipt };
        slot.send(Box::new(Outgoing::Event(outgoing)));
        self.reader.pop();
        state.metrics.written.increment(1);
        Sent::Done
    }

    fn skip_expired(&mut self, state: &State, row: &OutboxRow) -> bool {
        if !self.skip(row.sequence, Reason::Expired) {
            return false;
        }
        let before = state.connected_at.minus(LATE_EXPIRY);
        if row.event.expires_at.is_some_and(|at| at < before) {
            self.outcomes.expired_before(row.sequence);
        } else {
            self.outcomes.name(logged(row.sequence, &row.event));
        }
        true
    }

    /// Skips what comes next, once nothing before it is unconfirmed.
    fn skip(&mut self, last: Sequence, reason: Reason) -> bool {
        if !self.outcomes.has_room() {
            return false;
        }
        let Ok(range) = self.window.skip(last) else {
            return false;
        };
        if reason == Reason::Retention {
            tracing::warn!(
                gateway = %self.info.gateway_id,
                first = range.first.0,
                last = range.last.0,
                "retention has removed events that were never delivered"
            );
        }
        self.outcomes.skipped(range, reason);
        self.reader.pop();
        true
    }

    /// Receives a message and those that wait behind it, up to a limit, because a peer that sends
    /// continuously must not block everything else. Returns the end, if it was received.
    fn receive_all(&mut self, state: &mut State, first: Option<Incoming>) -> Option<End> {
        let mut next = first.or_else(|| Some(Incoming::Ended(Box::new(transport_gone()))));
        for _ in 0..LINK_MESSAGES {
            match next? {
                Incoming::Ended(ended) => {
                    state.silence.disconnected(ended.by_peer);
                    return Some(End::Ended(ended));
                }
                incoming => self.receive(state, incoming),
            }
            next = self.link.incoming.try_recv().ok();
        }
        None
    }

    fn receive(&mut self, state: &mut State, incoming: Incoming) {
        let now = Instant::now();
        if state.silence.note_activity(now) {
            self.outcomes.alive();
        }
        match incoming {
            Incoming::Receipt(sequence) => self.receipt(state, sequence, now),
            Incoming::Report(report) => {
                let sent = self.registration.sent().max(self.sent_before);
                match self.reports.push(*report, sent) {
                    Pushed::Waiting => {}
                    Pushed::Repeated => self.invalid(state, REPEATED),
                    Pushed::Refused => self.invalid(state, TOO_MANY_REPORTS),
                }
            }
            Incoming::Invalid(message) => self.invalid(state, message.as_str()),
            // Transports send the others in reliable mode only.
            Incoming::Alive
            | Incoming::Ended(_)
            | Incoming::Unsent(_)
            | Incoming::Applied(_)
            | Incoming::Nack(_)
            | Incoming::Progress(_)
            | Incoming::Postponed(_)
            | Incoming::Credit(_) => {}
        }
    }

    /// Counts and logs an invalid message. The connection continues.
    fn invalid(&self, state: &mut State, what: &'static str) {
        ::metrics::counter!(metric::INVALID_MESSAGES, "what" => what).increment(1);
        state.invalid = state.invalid.saturating_add(1);
        if state.invalid <= INVALID_LOGGED {
            tracing::warn!(
                gateway = %self.info.gateway_id,
                connection = %self.info.connection,
                what,
                "ignored an invalid message from a gateway"
            );
        }
    }
}

/// What happened to an event that was ready.
enum Sent {
    Done,
    LinkFull,
    /// It must wait for a receipt, or the connection is ending.
    Refused,
}

/// The approximate size of an event on the wire, in bytes.
pub(super) fn size(event: &Event) -> usize {
    let user_id = event.user_id.as_ref().map_or(0, String::len);
    let attributes = event.attributes.as_ref().map_or(0, |attributes| attributes.bytes());
    ENVELOPE + event.payload.get().len() + user_id + attributes
}

pub(super) fn transport_gone() -> Ended {
    let detail = "the transport ended without a report".to_owned();
    Ended::new(Reason::ConnectionLost, detail, false)
}
