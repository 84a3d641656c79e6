//! The lane of a gateway that acknowledges events. Like the [lane of plain mode](super::lane), it
//! waits for the first of an event to send, a message from the peer, a deadline, or a request to
//! stop. Its [`window`] decides what each means.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::in_flight::InFlight;
use super::lane::{LAST_RECEIPTS, Metrics, Timing, transport_gone};
use super::log_reader::LogReader;
use super::outcomes::{ConnectionInfo, Outcomes};
use super::permit::Permit;
use super::recorder::Recorder;
use super::registry::Registration;
use super::silence::{Silence, probes};
use crate::clock::Timestamp;
use crate::event::{Epoch, EventType, Reason, Sequence};
use crate::metric;
use crate::store::{Gap, GapReason};
use crate::transport::{Control, Drain, Ended, Incoming, LINK_MESSAGES, LaneEnd, Violation};

mod acknowledgements;
mod ending;
mod sending;
mod window;

pub(super) use window::Window;

/// Gateways of a node that shuts down reconnect at different times within this time.
const RECONNECTS: Duration = Duration::from_secs(5);

/// Everything one connection needs.
pub(super) struct Lane {
    pub(super) info: ConnectionInfo,
    /// The epoch of the log.
    pub(super) epoch: Epoch,
    /// The transport's name.
    pub(super) transport: &'static str,
    pub(super) timing: Timing,
    pub(super) window: Window,
    /// The only types that are sent; `None` for all.
    pub(super) types: Option<BTreeSet<EventType>>,
    /// Where gateways find a snapshot.
    pub(super) snapshot_url: Option<String>,
    /// What can't be delivered of the events after the requested position.
    pub(super) gap: Option<Gap>,
    pub(super) reader: LogReader,
    pub(super) outcomes: Outcomes,
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
    /// When a negative acknowledgement was last recorded whose event is sent again.
    retried_at: Option<Instant>,
    /// Set when the gateway was asked to reconnect, for this reason: nothing more is sent, and
    /// confirmations are awaited until then.
    wind_down: Option<(Instant, Reason)>,
    /// Everything up to here was marked as complete.
    marked: Sequence,
    /// Whether a mark is due as soon as everything is sent.
    wants_mark: bool,
    /// Why the peer reads a snapshot, while it does.
    gap: Option<GapReason>,
    /// Whether the start of delivery was announced to the peer.
    is_resumed: bool,
}

/// Why delivery on a connection stops.
enum End {
    /// The transport has ended.
    Ended(Box<Ended>),
    /// The transport is to be closed.
    Close(Control, Reason),
}

/// How the connection ended.
struct Outcome {
    reason: Reason,
    detail: String,
}

impl Outcome {
    fn new(reason: Reason, detail: &str) -> Self {
        Self { reason, detail: detail.to_owned() }
    }
}

impl End {
    const fn close(reason: Reason) -> Self {
        Self::Close(Control::Close(reason), reason)
    }

    const fn violation(violation: Violation) -> Self {
        Self::Close(Control::Violation(violation), Reason::ProtocolError)
    }
}

/// What happens at the lane's next deadline.
enum Deadline {
    /// The connection ends for this reason.
    Missed(Reason),
    /// Events are sent again.
    Retry,
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
            retried_at: None,
            wind_down: None,
            marked: self.window.position(),
            wants_mark: true,
            gap: None,
            is_resumed: false,
        };
        tracing::info!(
            gateway = %self.info.gateway_id,
            connection = %self.info.connection,
            instance = &*self.info.instance,
            position = self.window.position().0,
            "connected"
        );
        let connected = AssertUnwindSafe(self.connected(&mut state)).catch_unwind().await;
        let outcome = connected.unwrap_or_else(|_| {
            // The connection must be recorded as closed: while it looked live, undelivered events
            // would not be recorded as failed.
            tracing::error!(connection = %self.info.connection, "the task of a connection panicked");
            Outcome::new(Reason::NodeLost, "the task of the connection failed")
        });
        // Boxed, like the lane itself: a task reserves the memory of its largest
        // state from its start.
        Box::pin(self.finish(state, outcome)).await;
    }

    async fn connected(&mut self, state: &mut State) -> Outcome {
        match self.deliver(state).await {
            End::Ended(ended) => Outcome { reason: ended.reason, detail: ended.detail },
            End::Close(control, reason) => self.close(state, control, reason).await,
        }
    }

    async fn deliver(&mut self, state: &mut State) -> End {
        // Clones, because room in these queues is awaited while the lane is borrowed.
        let (recorder, events) = (self.recorder.clone(), self.link.events.clone());
        let mut probes = probes(self.timing.heartbeat_interval);
        loop {
            let link_is_full = self.send_ready(state);
            if let Some((_, reason)) = state.wind_down
                && self.window.is_idle()
            {
                return End::close(reason);
            }
            let (at, deadline) = self.deadline(state);
            tokio::select! {
                biased;
                Some(reason) = self.stop.recv() => {
                    match reason {
                        Reason::Shutdown | Reason::Resync => self.drain(state, reason),
                        _ => return End::close(reason),
                    }
                }
                // Deadlines before messages, because otherwise a peer that sends continuously would
                // have none.
                () = sleep_until(at) => match deadline {
                    Deadline::Retry => self.window.retry(),
                    Deadline::Missed(reason) => {
                        if let Some(end) = self.overdue(state, reason) {
                            return end;
                        }
                    }
                },
                _ = probes.tick() => {
                    state.wants_mark = true;
                    state.silence.probe(&self.link.control);
                }
                () = self.registration.probe() => state.silence.probe(&self.link.control),
                incoming = self.link.incoming.recv() => {
                    if let Some(end) = self.receive_all(state, incoming) {
                        return end;
                    }
                }
                Some(slot) = recorder.reserve(), if !self.outcomes.is_empty() => {
                    self.outcomes.hand_in(slot);
                }
                Ok(_) = events.reserve(), if link_is_full => {}
                () = self.reader.more(), if state.wind_down.is_none() => {}
            }
        }
    }

    /// The next deadline.
    fn deadline(&self, state: &State) -> (Instant, Deadline) {
        let timing = &self.timing;
        let (deadline, missed) = self.silence_deadline(state);
        let others = [
            timing.token_expires.map(|at| (at, Deadline::Missed(Reason::TokenRevoked))),
            state.wind_down.map(|(at, reason)| (at, Deadline::Missed(reason))),
            self.window.retry_at().map(|at| (at, Deadline::Retry)),
        ];
        others.into_iter().flatten().fold(
            (state.silence.wakes_at(deadline), Deadline::Missed(missed)),
            |first, other| {
                if other.0 < first.0 { other } else { first }
            },
        )
    }

    /// The deadline of a silent peer. A gateway in this mode shows activity even while it handles an
    /// event.
    fn silence_deadline(&self, state: &State) -> (Instant, Reason) {
        let timing = &self.timing;
        let silent = (state.silence.reaches(timing.heartbeat_timeout), Reason::HeartbeatTimeout);
        match self.window.confirmation_deadline(timing.confirmation_timeout) {
            Some(unconfirmed) if unconfirmed < silent.0 => {
                (unconfirmed, Reason::ConfirmationTimeout)
            }
            _ => silent,
        }
    }

    /// Handles a deadline that is due. Returns the end if it was missed.
    fn overdue(&mut self, state: &mut State, missed: Reason) -> Option<End> {
        if !matches!(missed, Reason::HeartbeatTimeout | Reason::ConfirmationTimeout) {
            return Some(End::close(missed));
        }
        // Messages that were received already count, and may move the deadline.
        if let Ok(incoming) = self.link.incoming.try_recv()
            && let Some(end) = self.receive_all(state, Some(incoming))
        {
            return Some(end);
        }
        let (deadline, missed) = self.silence_deadline(state);
        let is_over = state.silence.misses(deadline, &self.link.control);
        is_over.then_some(End::close(missed))
    }

    /// Asks the peer to reconnect, and sends nothing more.
    fn drain(&self, state: &mut State, reason: Reason) {
        if state.wind_down.is_some() {
            return;
        }
        state.wind_down = Some((Instant::now() + LAST_RECEIPTS, reason));
        let within = if reason == Reason::Shutdown { RECONNECTS } else { Duration::ZERO };
        let reconnect_after = within.mul_f64(fastrand::f64());
        let drain = Drain { reason, reconnect_after, grace: LAST_RECEIPTS };
        let _ = self.link.control.try_send(Control::Drain(Box::new(drain)));
    }

    /// Receives a message and those that wait behind it, up to a limit, because a peer that sends
    /// continuously must not block everything else. Returns the end, if there is one.
    fn receive_all(&mut self, state: &mut State, first: Option<Incoming>) -> Option<End> {
        let mut next = first.or_else(|| Some(Incoming::Ended(Box::new(transport_gone()))));
        for _ in 0..LINK_MESSAGES {
            match next? {
                Incoming::Ended(ended) => {
                    state.silence.disconnected(ended.by_peer);
                    return Some(End::Ended(ended));
                }
                Incoming::Unsent(first) => self.take_back(state, first),
                incoming => {
                    if let Err(violation) = self.receive(state, incoming) {
                        return Some(End::violation(violation));
                    }
                }
            }
            next = self.link.incoming.try_recv().ok();
        }
        None
    }

    fn receive(&mut self, state: &mut State, incoming: Incoming) -> Result<(), Violation> {
        let now = Instant::now();
        if state.silence.note_activity(now) {
            self.outcomes.alive();
        }
        match incoming {
            Incoming::Receipt(sequence) => self.received(state, sequence, now)?,
            Incoming::Applied(sequence) => self.applied(state, sequence, now)?,
            Incoming::Nack(nack) => self.nack(state, *nack, now)?,
            Incoming::Progress(sequence) => self.window.progress(sequence, now)?,
            Incoming::Postponed(sequence) => self.window.postpone(sequence, now)?,
            Incoming::Credit(credit) => self.window.credit(*credit),
            Incoming::Invalid(message) => {
                ::metrics::counter!(metric::INVALID_MESSAGES, "what" => message.as_str())
                    .increment(1);
            }
            // Transports send reports in plain mode only.
            Incoming::Alive | Incoming::Report(_) | Incoming::Unsent(_) | Incoming::Ended(_) => {}
        }
        Ok(())
    }
}
