//! One task per connection. Waits for whatever comes first: something to send,
//! something said, a deadline, the order to stop. What each means is decided by
//! the [`window`](super::window); what became of it goes to the recorder.
//!
//! The lane never waits for the database before it listens to its peer, and
//! never closes a socket because the database is away.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::feed::{Feed, Item};
use super::in_flight::{InFlight, logged};
use super::last_call::{Due, LastCall};
use super::outcomes::{Outcomes, Whose};
use super::recorder::Recorder;
use super::registry::Registration;
use super::reports::{Pushed, Reports};
use super::session::Permit;
use super::window::{Patience, Window};
use crate::clock::Timestamp;
use crate::event::{Epoch, Reason, Sequence};
use crate::socket::frame::{self, Message};
use crate::socket::{Control, EventFrame, Incoming, LINK_FRAMES, LaneEnd};

mod ending;
mod receipts;

use receipts::REPEATED;

/// Signs of life are recorded this often at the most.
const HEARTBEAT_RECORDS: Duration = Duration::from_secs(10);
/// For what is on its way when the node shuts down.
const LAST_RECEIPTS: Duration = Duration::from_secs(1);
/// An event that expired this long before the connection is on record already.
const LATE_EXPIRY: Duration = Duration::from_secs(2);
/// Lines in the log about one peer's nonsense; all of it is counted.
const NONSENSE_TOLD: u32 = 5;

/// The deadlines of a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) heartbeat_interval: Duration,
    pub(super) heartbeat_timeout: Duration,
    pub(super) confirmation_timeout: Duration,
    pub(super) last_call: LastCall,
    pub(super) patience: Patience,
    /// When the token expires.
    pub(super) token_expires: Option<Instant>,
}

/// Everything one connection needs.
pub(super) struct Lane {
    pub(super) whose: Whose,
    pub(super) epoch: Epoch,
    /// The last number that may have been sent on an earlier connection.
    pub(super) sent_before: Sequence,
    pub(super) timing: Timing,
    pub(super) window: Window,
    pub(super) feed: Feed,
    pub(super) outcomes: Outcomes,
    pub(super) reports: Reports,
    pub(super) recorder: Recorder,
    pub(super) link: LaneEnd,
    pub(super) stop: mpsc::Receiver<Reason>,
    pub(super) registration: Registration,
    pub(super) permit: Permit,
}

/// What changes while it runs.
struct State {
    opened_at: Instant,
    connected_at: Timestamp,
    alive_at: Instant,
    alive_recorded_at: Instant,
    /// When the last ping was asked for.
    pinged_at: Option<Instant>,
    /// The next event's frame, encoded once although there was no room yet.
    encoded: Option<Bytes>,
    in_flight: InFlight,
    /// The node shuts down: nothing more is sent, until then receipts are awaited.
    wind_down: Option<Instant>,
    nonsense: u32,
}

/// How a connection came to its end.
enum End {
    /// The transport has ended.
    Ended(Reason, String),
    /// The transport is to be told.
    Close(Reason),
}

impl Lane {
    /// Delivers until the connection ends, and records that.
    pub(super) async fn run(mut self: Box<Self>) {
        let now = Instant::now();
        let mut state = State {
            opened_at: now,
            connected_at: Timestamp::now(),
            alive_at: now,
            alive_recorded_at: now,
            pinged_at: None,
            encoded: None,
            in_flight: InFlight::default(),
            wind_down: None,
            nonsense: 0,
        };
        tracing::info!(
            gateway = %self.whose.gateway_id,
            connection = %self.whose.connection,
            position = self.window.position().0,
            "connected"
        );
        let talk = AssertUnwindSafe(self.talk(&mut state)).catch_unwind().await;
        let (reason, detail) = talk.unwrap_or_else(|_| {
            // Nobody is to blame but us, and a connection that stays open on
            // record would hide what its gateway misses from then on.
            tracing::error!(connection = %self.whose.connection, "a lane panicked");
            self.reports.forget();
            (Reason::NodeLost, "its lane broke down".to_owned())
        });
        // Boxed, like the lane itself: a task has room for all that it may come
        // to, from its beginning.
        Box::pin(self.finish(state, reason, detail)).await;
    }

    async fn talk(&mut self, state: &mut State) -> (Reason, String) {
        match self.deliver(state).await {
            End::Ended(reason, detail) => (reason, detail),
            End::Close(reason) => self.say_goodbye(state, reason).await,
        }
    }

    async fn deliver(&mut self, state: &mut State) -> End {
        // Places in the queues are waited for while the lane is changed.
        let (recorder, events) = (self.recorder.clone(), self.link.events.clone());
        let period = self.timing.heartbeat_interval;
        let mut pings = interval_at(Instant::now() + period, period);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                // Deadlines before what is heard, or a peer that chatters would have none.
                () = sleep_until(deadline) => {
                    if let Some(end) = self.overdue(state, missed) {
                        return end;
                    }
                }
                _ = pings.tick() => {
                    state.pinged_at = Some(Instant::now());
                    // Full: the transport is behind with writing, which has a deadline of its own.
                    let _ = self.link.control.try_send(Control::Ping);
                }
                incoming = self.link.incoming.recv() => {
                    if let Some(end) = self.hear_all(state, incoming) {
                        return end;
                    }
                }
                Some(place) = recorder.reserve(), if !self.outcomes.is_empty() => {
                    self.outcomes.hand_in(place);
                }
                matched = self.reports.next(), if matching => self.reported(state, &matched),
                Ok(_) = events.reserve(), if link_is_full => {}
                () = self.feed.more(), if state.wind_down.is_none() => {}
            }
        }
    }

    /// When to look at the next deadline, and what it means to miss it.
    fn deadline(&self, state: &State) -> (Instant, Reason) {
        let timing = &self.timing;
        let (silence, missed) = self.silence(state);
        let others = [
            timing.token_expires.map(|at| (at, Reason::TokenRevoked)),
            state.wind_down.map(|at| (at, Reason::Shutdown)),
        ];
        others.into_iter().flatten().fold(
            (timing.last_call.wakes_at(silence), missed),
            |first, other| {
                if other.0 < first.0 { other } else { first }
            },
        )
    }

    /// The deadline of a silent peer. A handler may run longer than a heartbeat:
    /// while an event is unconfirmed, only the deadline for its confirmation counts.
    fn silence(&self, state: &State) -> (Instant, Reason) {
        let timing = &self.timing;
        match self.window.confirmation_deadline(timing.confirmation_timeout) {
            Some(unconfirmed) => (unconfirmed, Reason::ConfirmationTimeout),
            None => (state.alive_at + timing.heartbeat_timeout, Reason::HeartbeatTimeout),
        }
    }

    /// It is time to look at a deadline. The end, if it has been missed.
    fn overdue(&mut self, state: &mut State, missed: Reason) -> Option<End> {
        if !matches!(missed, Reason::HeartbeatTimeout | Reason::ConfirmationTimeout) {
            return Some(End::Close(missed));
        }
        // What was received already counts, and may move the deadline.
        if let Ok(incoming) = self.link.incoming.try_recv()
            && let Some(end) = self.hear_all(state, Some(incoming))
        {
            return Some(end);
        }
        let (deadline, missed) = self.silence(state);
        match self.timing.last_call.due(deadline, Instant::now()) {
            Due::Wait => None,
            Due::Ping => {
                let _ = self.link.control.try_send(Control::Ping);
                None
            }
            Due::Close => Some(End::Close(missed)),
        }
    }

    /// Sends what is ready and fits. True if only the link has no room.
    fn send_ready(&mut self, state: &mut State) -> bool {
        if state.wind_down.is_some() {
            return false;
        }
        let now = Timestamp::now();
        while let Some(item) = self.feed.front() {
            let row = match item {
                Item::Lost(range) => {
                    let (last, reason) = (range.last, Reason::Retention);
                    if !self.pass_over(last, reason) {
                        return false;
                    }
                    continue;
                }
                Item::Event(row) if row.event.expires_at.is_some_and(|at| at <= now) => {
                    let (last, event) = (row.sequence, logged(row.sequence, &row.event));
                    let before = state.connected_at.minus(LATE_EXPIRY);
                    let is_known = row.event.expires_at.is_some_and(|at| at < before);
                    if !self.pass_over(last, Reason::Expired) {
                        return false;
                    }
                    if is_known {
                        self.outcomes.expired_before(last);
                    } else {
                        self.outcomes.name(event);
                    }
                    state.encoded = None;
                    continue;
                }
                Item::Event(row) => row,
            };
            let text = state
                .encoded
                .get_or_insert_with(|| frame::event_text(&row.event, row.sequence, self.epoch));
            if !self.window.has_room(text.len()) {
                return false;
            }
            let place = match self.link.events.try_reserve() {
                Ok(place) => place,
                Err(TrySendError::Full(())) => return true,
                // Then the transport has said why, or is about to.
                Err(TrySendError::Closed(())) => return false,
            };
            let (event_type, sent_at) = (&row.event.event_type, Instant::now());
            let offered = self.window.offer(row.sequence, event_type, text.len(), sent_at, now);
            let ping_before = match offered {
                Ok(ping_before) => ping_before,
                Err(refusal) => {
                    tracing::error!(
                        sequence = row.sequence.0,
                        ?refusal,
                        "the window refused an event"
                    );
                    return false;
                }
            };
            self.registration.note_sent(row.sequence);
            place.send(Box::new(EventFrame {
                sequence: row.sequence,
                text: text.clone(),
                ping_before,
            }));
            state.in_flight.sent(row.sequence, &row.event);
            state.encoded = None;
            self.feed.pop();
            metrics::counter!("gateway_events_events_written_total").increment(1);
        }
        false
    }

    /// Passes over what comes next, once nothing before it is unconfirmed.
    fn pass_over(&mut self, last: Sequence, reason: Reason) -> bool {
        if !self.outcomes.has_room() {
            return false;
        }
        let Ok(range) = self.window.skip(last) else {
            return false;
        };
        if reason == Reason::Retention {
            tracing::warn!(
                gateway = %self.whose.gateway_id,
                first = range.first.0,
                last = range.last.0,
                "retention has removed events that were never delivered"
            );
        }
        self.outcomes.skipped(range, reason);
        self.feed.pop();
        true
    }

    /// Hears what came, and what came right after it, up to a bound: a peer that
    /// chatters is not to keep the lane from all else. Answers the end, if it came.
    fn hear_all(&mut self, state: &mut State, first: Option<Incoming>) -> Option<End> {
        let mut next = first.or_else(|| {
            let detail = "the transport is gone".into();
            Some(Incoming::Ended { reason: Reason::ConnectionLost, detail, by_peer: false })
        });
        for _ in 0..LINK_FRAMES {
            match next? {
                Incoming::Ended { reason, detail, by_peer } => {
                    self.note_end(state, by_peer);
                    return Some(End::Ended(reason, detail.into()));
                }
                incoming => self.hear(state, incoming),
            }
            next = self.link.incoming.try_recv().ok();
        }
        None
    }

    fn hear(&mut self, state: &mut State, incoming: Incoming) {
        let now = Instant::now();
        state.alive_at = now;
        if now.duration_since(state.alive_recorded_at) >= HEARTBEAT_RECORDS {
            state.alive_recorded_at = now;
            self.outcomes.alive();
        }
        match incoming {
            Incoming::Receipt(sequence) => self.receipt(state, sequence, now),
            Incoming::Message(text) => match frame::parse_incoming(&text) {
                Message::DeploymentAck(ack) => {
                    let sent = self.registration.sent().max(self.sent_before);
                    match self.reports.push(ack, sent) {
                        Pushed::Waiting => {}
                        Pushed::Repeated => self.nonsense(state, REPEATED),
                        Pushed::Refused => {
                            self.nonsense(state, "a report that finds too many others waiting");
                        }
                    }
                }
                Message::Unknown => self.nonsense(state, "a message of an unknown type"),
                Message::Malformed => self.nonsense(state, "a malformed message"),
            },
            Incoming::Malformed(what) => self.nonsense(state, what),
            Incoming::Alive | Incoming::Ended { .. } => {}
        }
    }

    /// What no peer should say is counted, and no reason to part.
    fn nonsense(&self, state: &mut State, what: &'static str) {
        metrics::counter!("gateway_events_odd_messages_total", "what" => what).increment(1);
        state.nonsense = state.nonsense.saturating_add(1);
        if state.nonsense <= NONSENSE_TOLD {
            tracing::warn!(
                gateway = %self.whose.gateway_id,
                connection = %self.whose.connection,
                what,
                "a gateway sent something odd; it is ignored"
            );
        }
    }
}
