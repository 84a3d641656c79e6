//! The decisions of a client in reliable mode, without clock and I/O: what a frame means, which event
//! is handled next, what is confirmed, and from where to resume. A driver passes the inputs to it
//! (frames, results, time-outs) and executes the [`Action`]s. Tests and simulations drive it, too.
//!
//! Rules:
//! - Events are handled one at a time, in order, and once. A repeat is dropped and confirmed again.
//! - Only what is in the position store is confirmed, so that the service never knows a higher
//!   position than the client after a crash.
//! - `previous` above the last sequence that was seen means that an event was lost: reconnect, and
//!   resume after the stored position.
//! - After a retryable negative acknowledgement, the service sends the event and those after it again.
//!   Until then, everything that was in flight is dropped.
//! - What is being handled when a connection ends is handled to its end. If the next connection
//!   delivers it again meanwhile, that is the same delivery.
//!
//! A rejection is not acknowledged by the service, which may die before it has recorded it. So the last
//! ones are stored with the position. The next connection does not resume after that, which would confirm
//! them, but where the service is: if it sends such an event again, the rejection is repeated. The client
//! then checks itself what the service checks otherwise, and resumes after its own position if that fails.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::{MAX_REJECTIONS, Outcome, StoredPosition};
use crate::event::{Epoch, EventId, EventType, GatewayId, Sequence};
use crate::transport::frames::{
    Ack, Confirm, ConnectionError, ConnectionResumed, Credit, DeliveryGap, DeliveryMark, Envelope,
    EventFrame, GapReason, GatewayFrame, Hello, Limits, Nack, Position, Progress, Resume,
    ServerFrame,
};

#[cfg(test)]
mod tests;

/// How a client introduces itself, and how it confirms.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of this replica of the gateway; `None` shares the position of unnamed connections.
    pub instance: Option<String>,
    /// Where to start if no position is stored.
    pub start: Resume,
    /// The window in events; the service's limit if `None`.
    pub window: Option<u32>,
    /// The window in bytes; the service's limit if `None`.
    pub window_bytes: Option<u64>,
    /// The event types to receive; all if `None`.
    pub types: Option<Vec<EventType>>,
    /// What a confirmation means.
    pub confirm: Confirm,
    /// The form of events; the service's default if `None`.
    pub envelope: Option<Envelope>,
    /// How many events are confirmed together, at most. Less if that is more than half of the window.
    pub batch: u32,
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Action {
    /// Send this frame.
    Send(GatewayFrame),
    /// Handle this event, then call [`ClientState::handled`].
    Handle(Box<EventFrame>),
    /// Read a snapshot of what the gateway needs, then call [`ClientState::snapshot_read`].
    ReadSnapshot(DeliveryGap),
    /// Store this durably, then call [`ClientState::saved`].
    Save(StoredPosition),
    /// Close the connection, then call [`ClientState::disconnected`].
    Disconnect(Disconnect),
}

/// Why the client closes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// An event was lost on the way, or the service violated the protocol. Resuming repairs it.
    Broken(String),
    /// The service asked for it. Reconnect after this time.
    Drained(Duration),
    /// The client was stopped.
    Stopped,
    /// The position is of another gateway than the key. Reconnecting does not help.
    OtherGateway {
        /// The gateway of the position.
        stored: GatewayId,
        /// The gateway of the key.
        connected: GatewayId,
    },
}

/// The state of a client.
#[derive(Debug)]
pub struct ClientState {
    settings: Settings,
    /// Everything up to here is handled; `None` before the first connection.
    handled: Option<Position>,
    /// What is in the position store.
    saved: Option<Position>,
    /// What is being stored.
    saving: Option<Position>,
    /// The gateway whose position this is, if it is known.
    gateway: Option<GatewayId>,
    /// The last rejections that the service may not have recorded, up to `handled` and in its epoch.
    rejections: VecDeque<Nack>,
    /// Whether the next connection resumes after the stored position although there are rejections.
    resumes_exactly: bool,
    /// Events that were handled since the last position was stored.
    unsaved: u32,
    /// Store and confirm without waiting for a full batch.
    flush: bool,
    busy: Option<Busy>,
    connection: Option<Connection>,
    is_stopping: bool,
    actions: VecDeque<Action>,
}

/// What is being handled. It outlives connections.
#[derive(Debug)]
enum Busy {
    Event {
        epoch: Epoch,
        sequence: Sequence,
        id: EventId,
        /// What was seen before it.
        before: Sequence,
    },
    Snapshot(DeliveryGap),
}

#[derive(Debug)]
enum Item {
    Event { event: Box<EventFrame>, before: Sequence },
    Mark(Sequence),
    Gap(DeliveryGap),
}

/// The state of one connection.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
struct Connection {
    epoch: Option<Epoch>,
    limits: Option<Limits>,
    is_resumed: bool,
    /// Everything up to here was received or skipped; `None` before `connection.resumed`, and before a
    /// gap that precedes it.
    seen: Option<Sequence>,
    /// Whether the hello named a position of the client, so that the service may not skip anything
    /// without a gap.
    has_position: bool,
    /// Whether it named the service's position although the client has one.
    resumes_at_service: bool,
    /// The window that was announced to the service.
    credit: Credit,
    /// Received and not handled yet.
    queue: VecDeque<Item>,
    /// Whether delivery waits for a snapshot.
    has_gap: bool,
    /// The last sequence that may be confirmed: that of an event or after a snapshot.
    confirmable: Sequence,
    confirmed: Sequence,
    /// A snapshot was read; its position is confirmed as applied.
    snapshot: Option<Sequence>,
    /// The service is to send events again after a negative acknowledgement.
    is_retrying: bool,
    drain: Option<Duration>,
    error: Option<ConnectionError>,
    is_closing: bool,
}

impl ClientState {
    /// A client that resumes after a stored position, or starts as its settings say.
    pub fn new(settings: Settings, stored: Option<StoredPosition>) -> Self {
        let (position, gateway, rejections) = match stored {
            Some(StoredPosition { position, gateway, rejections }) => {
                (Some(position), gateway, rejections)
            }
            None => (None, None, Vec::new()),
        };
        Self {
            settings,
            handled: position.clone(),
            saved: position,
            saving: None,
            gateway,
            rejections: rejections.into(),
            resumes_exactly: false,
            unsaved: 0,
            flush: false,
            busy: None,
            connection: None,
            is_stopping: false,
            actions: VecDeque::new(),
        }
    }

    /// Begins a connection and returns its hello. All positions must have been
    /// [stored](Self::is_saving).
    pub fn connect(&mut self) -> Hello {
        debug_assert!(!self.is_saving(), "the position is still being stored");
        let has_position = self.saved.is_some();
        let is_exact = mem::take(&mut self.resumes_exactly) || self.rejections.is_empty();
        let resumes_at_service = has_position && !is_exact;
        let Settings { window, window_bytes, .. } = self.settings;
        let credit = Credit { window, window_bytes };
        self.connection =
            Some(Connection { has_position, resumes_at_service, credit, ..Connection::default() });
        let resume = match self.saved.clone() {
            Some(_) if resumes_at_service => Resume::Server,
            Some(position) => Resume::After(position),
            None => self.settings.start.clone(),
        };
        Hello {
            instance: self.settings.instance.clone(),
            resume,
            window: self.settings.window,
            window_bytes: self.settings.window_bytes,
            types: self.settings.types.clone(),
            confirm: self.settings.confirm,
            envelope: self.settings.envelope,
        }
    }

    /// A connection has ended, or could not be made.
    pub fn disconnected(&mut self) {
        self.connection = None;
        self.actions.retain(|action| !matches!(action, Action::Send(_) | Action::Disconnect(_)));
        self.proceed();
    }

    /// Processes a frame from the service. Ignored while the connection is closing.
    pub fn receive(&mut self, frame: ServerFrame) {
        let Some(connection) = self.connection.as_mut().filter(|it| !it.is_closing) else {
            return;
        };
        match frame {
            ServerFrame::Ack(ack) if connection.epoch.is_none() => {
                connection.epoch = Some(ack.epoch);
                connection.limits = Some(ack.limits);
                let connected = ack.gateway_id;
                match self.gateway.replace(connected) {
                    Some(stored) if stored != connected => {
                        self.gateway = Some(stored);
                        return self.disconnect(Disconnect::OtherGateway { stored, connected });
                    }
                    _ => {}
                }
            }
            ServerFrame::Ack(_) => self.broken("a second connection.ack".to_owned()),
            ServerFrame::Resumed(resumed) => self.resumed(resumed),
            ServerFrame::Event(event) => self.event(event),
            ServerFrame::Mark(mark) => self.mark(mark),
            ServerFrame::Gap(gap) => self.gap(gap),
            ServerFrame::Drain(drain) => {
                connection.drain = Some(Duration::from_millis(drain.reconnect_after_ms));
            }
            ServerFrame::Error(error) => connection.error = Some(error),
        }
        self.check_log();
        self.announce_credit();
        self.proceed();
    }

    /// Resumes after the own position if the service's log is another one, because a backup was restored,
    /// and the hello did not say that: it must answer with a gap then.
    fn check_log(&mut self) {
        let is_unstated = self.connection.as_ref().is_some_and(|connection| {
            let is_stated = connection.has_position && !connection.resumes_at_service;
            let of = connection.epoch;
            !is_stated
                && of.is_some()
                && self.handled.as_ref().is_some_and(|it| Some(it.epoch) != of)
        });
        if is_unstated {
            self.resume_exactly("the log is another one than before".to_owned());
        }
    }

    fn resumed(&mut self, resumed: ConnectionResumed) {
        let Some(connection) = &mut self.connection else { return };
        if mem::replace(&mut connection.is_resumed, true) {
            return self.broken("a second connection.resumed".to_owned());
        }
        if connection.has_gap {
            // The gap says where delivery starts.
            return;
        }
        let ConnectionResumed { epoch, from, head, .. } = resumed;
        connection.epoch = Some(epoch);
        if connection.resumes_at_service
            && let Some(handled) = &self.handled
        {
            if !(from..=head).contains(&handled.sequence) {
                return self.resume_exactly("the service is at another position".to_owned());
            }
            // The position is behind what is recorded.
            self.rejections.retain(|rejection| rejection.sequence > from);
        }
        connection.seen = match &self.handled {
            // A jump ahead is only allowed with a gap. Without one, the next event is a loss.
            Some(handled) if connection.has_position && handled.epoch == epoch => {
                Some(from.min(handled.sequence))
            }
            _ => Some(from),
        };
        if self.handled.is_none() && self.settings.start == Resume::Latest {
            // If the connection ends before the first event, the next one must not skip any.
            self.handled = Some(Position { epoch, sequence: from, event_id: None });
            self.flush = true;
        }
    }

    fn event(&mut self, event: Box<EventFrame>) {
        let Some(connection) = &mut self.connection else { return };
        let Some(seen) = connection.seen else {
            return self.broken("an event before connection.resumed".to_owned());
        };
        let (epoch, sequence, previous) = (event.epoch, event.sequence, event.previous);
        let is_continued = connection.epoch == Some(epoch)
            && (connection.has_gap
                || !connection.has_position
                || self.handled.as_ref().is_none_or(|handled| handled.epoch == epoch));
        if !is_continued {
            return self
                .broken(format!("event {sequence} belongs to another log, but no gap was sent"));
        }
        if connection.is_retrying {
            if previous > seen || sequence <= seen {
                // It was in flight when its predecessor was refused.
                return;
            }
            connection.is_retrying = false;
        }
        if previous > seen {
            return self.broken(format!("lost events after {seen}: the next is {sequence}"));
        }
        if sequence <= seen {
            return;
        }
        if connection.resumes_at_service
            && let Some(Position { sequence: at, event_id: Some(id), .. }) = &self.handled
            && *at == sequence
            && *id != event.event_id
        {
            return self.resume_exactly(format!("event {sequence} is another one than before"));
        }
        connection.seen = Some(sequence);
        connection.confirmable = sequence;
        let is_handled = self
            .handled
            .as_ref()
            .is_some_and(|it| it.epoch == epoch && sequence <= it.sequence && !connection.has_gap);
        let is_being_handled = matches!(
            &self.busy,
            Some(Busy::Event { epoch: of, sequence: number, .. })
                if *of == epoch && *number == sequence
        );
        if !is_handled && !is_being_handled {
            connection.queue.push_back(Item::Event { event, before: seen });
        } else if let Some(rejection) = self.rejections.iter().find(|it| it.sequence == sequence) {
            // Before the confirmation of what follows.
            let rejection = rejection.clone();
            self.send(GatewayFrame::Nack(rejection));
        }
    }

    /// Reconnects, and lets the service check the stored position: there may be a gap.
    fn resume_exactly(&mut self, why: String) {
        self.resumes_exactly = true;
        self.broken(why);
    }

    fn mark(&mut self, mark: DeliveryMark) {
        let Some(connection) = &mut self.connection else { return };
        // While events are being sent again, a mark may still be one from before.
        let Some(seen) = connection.seen.filter(|_| !connection.is_retrying) else { return };
        if mark.sequence > seen && !connection.has_gap {
            connection.seen = Some(mark.sequence);
            connection.queue.push_back(Item::Mark(mark.sequence));
        }
    }

    fn gap(&mut self, gap: DeliveryGap) {
        let Some(connection) = &mut self.connection else { return };
        connection.epoch = Some(gap.epoch);
        connection.seen = Some(gap.resume_at);
        connection.is_retrying = false;
        connection.has_gap = true;
        connection.queue.push_back(Item::Gap(gap));
    }

    /// The event of the last [`Action::Handle`] was handled.
    pub fn handled(&mut self, outcome: Outcome) {
        let Some(Busy::Event { epoch, sequence, id, before }) = self.busy.take() else {
            debug_assert!(false, "no event is being handled");
            return;
        };
        // If the connection on which it came has ended, it comes again.
        let in_flight = self.connection.as_mut().filter(|it| it.has_received(epoch, sequence));
        let nack = |(code, detail), retry: Option<Duration>| Nack {
            sequence,
            code,
            retryable: retry.is_some(),
            retry_after_ms: retry.map(|after| {
                let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                after.min(crate::transport::frames::MAX_RETRY_AFTER_MS)
            }),
            detail,
        };
        let mut rejection = None;
        let is_done = match (outcome, in_flight) {
            (Outcome::Applied, _) => true,
            (Outcome::Reject { code, detail }, Some(_)) => {
                rejection = Some(nack((code, shortened(detail)), None));
                true
            }
            (Outcome::RetryAfter { after, code, detail }, Some(connection)) => {
                connection.go_back(before);
                // The next connection begins with the event anyway. A negative acknowledgement would
                // only count as one more failed attempt, and so would the end of the connection if
                // no progress was reported.
                let frame = if self.is_stopping {
                    GatewayFrame::Progress(Progress { sequence })
                } else {
                    GatewayFrame::Nack(nack((code, shortened(detail)), Some(after)))
                };
                self.actions.push_back(Action::Send(frame));
                false
            }
            (Outcome::Reject { .. } | Outcome::RetryAfter { .. }, None) => false,
        };
        // A position in another log, to which a snapshot led meanwhile, stays.
        if is_done && self.handled.as_ref().is_none_or(|handled| handled.epoch == epoch) {
            self.handled = Some(Position { epoch, sequence, event_id: Some(id) });
            self.unsaved += 1;
            if let Some(rejection) = &rejection {
                if self.rejections.len() == MAX_REJECTIONS {
                    self.rejections.pop_front();
                }
                self.rejections.push_back(rejection.clone());
            }
        }
        if let Some(rejection) = rejection {
            self.send(GatewayFrame::Nack(rejection));
        }
        self.check_log();
        self.proceed();
    }

    /// The snapshot of the last [`Action::ReadSnapshot`] was read.
    pub fn snapshot_read(&mut self) {
        let Some(Busy::Snapshot(gap)) = self.busy.take() else {
            debug_assert!(false, "no snapshot is being read");
            return;
        };
        let DeliveryGap { epoch, resume_at, reason, .. } = gap;
        // An event that was being handled when its connection ended may be beyond the gap.
        let is_beyond = reason != GapReason::Epoch
            && self.handled.as_ref().is_some_and(|it| it.epoch == epoch && it.sequence > resume_at);
        if !is_beyond {
            self.handled = Some(Position { epoch, sequence: resume_at, event_id: None });
            // The snapshot includes whatever they were about.
            self.rejections.clear();
        }
        self.flush = true;
        if let Some(connection) = &mut self.connection
            && connection.epoch == Some(epoch)
            && connection.has_gap
            && !connection.is_gap_waiting()
        {
            connection.has_gap = false;
            connection.snapshot = Some(resume_at);
        }
        self.proceed();
    }

    /// The position of the last [`Action::Save`] is stored.
    pub fn saved(&mut self) {
        debug_assert!(self.saving.is_some(), "no position is being stored");
        self.saved = self.saving.take();
        self.confirm();
        self.proceed();
    }

    /// Stores and confirms what was handled, without waiting for a full batch. To be called some time
    /// after [`has_unconfirmed`](Self::has_unconfirmed) became true.
    pub fn flush(&mut self) {
        self.flush = true;
        self.proceed();
    }

    /// The event is still being handled. To be called from time to time.
    pub fn progress(&mut self) {
        if let Some(Busy::Event { epoch, sequence, .. }) = &self.busy
            && self.connection.as_ref().is_some_and(|it| it.has_received(*epoch, *sequence))
        {
            let sequence = *sequence;
            self.send(GatewayFrame::Progress(Progress { sequence }));
        }
    }

    /// Changes the window, also for later connections. 0 pauses delivery.
    pub fn credit(&mut self, window: Option<u32>, window_bytes: Option<u64>) {
        self.settings.window = window.or(self.settings.window);
        self.settings.window_bytes = window_bytes.or(self.settings.window_bytes);
        self.announce_credit();
    }

    /// Announces the window to the service if it has changed since the last announcement, which may
    /// be the hello. Frames must not precede the service's answer to that.
    fn announce_credit(&mut self) {
        let Settings { window, window_bytes, .. } = self.settings;
        let wanted = Credit { window, window_bytes };
        let Some(connection) = self.connection.as_mut().filter(|it| it.seen.is_some()) else {
            return;
        };
        if mem::replace(&mut connection.credit, wanted) != wanted {
            self.send(GatewayFrame::Credit(wanted));
        }
    }

    /// Begins to stop: the event that is being handled is finished, stored and confirmed, a snapshot is
    /// abandoned; then the connection is closed with [`Disconnect::Stopped`].
    pub fn stop(&mut self) {
        self.is_stopping = true;
        // A snapshot may take long, and the next start reads it anyway.
        if matches!(self.busy, Some(Busy::Snapshot(_))) {
            self.busy = None;
        }
        self.proceed();
    }

    /// The next thing to do. To be called until it returns `None`, after each input.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether something was handled that is not confirmed yet.
    pub fn has_unconfirmed(&self) -> bool {
        self.handled != self.saved || self.ack().is_some()
    }

    /// Whether a position is being stored. A new connection must wait for it.
    pub fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Whether the service is to send events again after a negative acknowledgement.
    pub fn is_retrying(&self) -> bool {
        self.connection.as_ref().is_some_and(|it| it.is_retrying)
    }

    /// Whether the client was stopped and has nothing left to do.
    pub fn is_finished(&self) -> bool {
        self.is_stopping
            && self.busy.is_none()
            && self.saving.is_none()
            && self.handled == self.saved
    }

    /// The number of frames that wait for being handled.
    pub fn waiting(&self) -> usize {
        self.connection.as_ref().map_or(0, |it| it.queue.len())
    }

    /// The service's limits on this connection.
    pub fn limits(&self) -> Option<Limits> {
        self.connection.as_ref()?.limits
    }

    /// The `connection.error` of this connection.
    pub fn error(&self) -> Option<&ConnectionError> {
        self.connection.as_ref()?.error.as_ref()
    }

    /// The `reconnectAfterMs` of the `connection.drain` of this connection.
    pub fn drain(&self) -> Option<Duration> {
        self.connection.as_ref()?.drain
    }

    /// Everything up to here is handled.
    pub fn position(&self) -> Option<&Position> {
        self.handled.as_ref()
    }

    /// Does what the state allows.
    fn proceed(&mut self) {
        while self.busy.is_none() && !self.is_stopping && self.take_next() {}
        let is_ending = self.busy.is_none()
            && (self.is_stopping || self.connection.as_ref().is_some_and(|it| it.drain.is_some()));
        // A hello states what is stored.
        self.flush |= is_ending || self.connection.is_none();
        if self.saving.is_none() {
            if self.handled == self.saved {
                if self.flush {
                    self.confirm();
                }
                self.flush = false;
            } else if self.flush || self.unsaved >= self.batch() {
                self.flush = false;
                self.unsaved = 0;
                self.saving.clone_from(&self.handled);
                self.actions.extend(self.saving.clone().map(|position| {
                    let rejections = self.rejections.iter().cloned().collect();
                    Action::Save(StoredPosition { position, gateway: self.gateway, rejections })
                }));
            }
        }
        if is_ending && self.saving.is_none() && self.handled == self.saved {
            let why = match self.connection.as_ref().and_then(|it| it.drain) {
                _ if self.is_stopping => Disconnect::Stopped,
                Some(after) => Disconnect::Drained(after),
                None => return,
            };
            self.disconnect(why);
        }
    }

    /// How many events are confirmed together: at most half of the window, so that the service can go on
    /// sending.
    fn batch(&self) -> u32 {
        let limit = self.limits().map(|limits| limits.window);
        let window = self.settings.window.into_iter().chain(limit).min();
        window.map_or(self.settings.batch, |window| self.settings.batch.min(window / 2)).max(1)
    }

    /// Takes the next item from the queue; whether there was one.
    fn take_next(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let (Some(epoch), Some(item)) = (connection.epoch, connection.queue.pop_front()) else {
            return false;
        };
        match item {
            Item::Event { event, before } => {
                self.busy = Some(Busy::Event {
                    epoch: event.epoch,
                    sequence: event.sequence,
                    id: event.event_id.clone(),
                    before,
                });
                self.actions.push_back(Action::Handle(event));
            }
            Item::Gap(gap) => {
                self.busy = Some(Busy::Snapshot(gap.clone()));
                self.actions.push_back(Action::ReadSnapshot(gap));
            }
            Item::Mark(sequence) => {
                let is_ahead =
                    |handled: &Position| handled.epoch == epoch && handled.sequence < sequence;
                if self.handled.as_ref().is_none_or(is_ahead) {
                    self.handled = Some(Position { epoch, sequence, event_id: None });
                }
            }
        }
        true
    }

    /// The confirmation of what is stored, if it is more than was confirmed on this connection.
    fn ack(&self) -> Option<(Sequence, Ack)> {
        let (connection, saved) = (self.connection.as_ref()?, self.saved.as_ref()?);
        if connection.seen.is_none() || connection.epoch != Some(saved.epoch) {
            return None;
        }
        if let Some(sequence) = connection.snapshot.filter(|it| saved.sequence >= *it) {
            return Some((sequence, Ack { received: None, applied: Some(sequence) }));
        }
        let sequence = saved.sequence.min(connection.confirmable);
        let ack = match self.settings.confirm {
            Confirm::Received => Ack { received: Some(sequence), applied: None },
            Confirm::Applied => Ack { received: None, applied: Some(sequence) },
        };
        (sequence > connection.confirmed).then_some((sequence, ack))
    }

    fn confirm(&mut self) {
        while let Some((sequence, ack)) = self.ack() {
            let Some(connection) = &mut self.connection else { return };
            if connection.snapshot.take().is_some() {
                connection.confirmable = connection.confirmable.max(sequence);
            }
            connection.confirmed = sequence;
            self.send(GatewayFrame::Ack(ack));
        }
    }

    fn send(&mut self, frame: GatewayFrame) {
        self.actions.push_back(Action::Send(frame));
    }

    fn broken(&mut self, why: String) {
        self.disconnect(Disconnect::Broken(why));
    }

    fn disconnect(&mut self, why: Disconnect) {
        if let Some(connection) = &mut self.connection
            && !mem::replace(&mut connection.is_closing, true)
        {
            connection.queue.clear();
            self.actions.push_back(Action::Disconnect(why));
        }
    }
}

impl Connection {
    /// Whether a gap is in the queue.
    fn is_gap_waiting(&self) -> bool {
        self.queue.iter().any(|item| matches!(item, Item::Gap(_)))
    }

    /// Drops what was in flight after a refused event, which the service sends again.
    fn go_back(&mut self, before: Sequence) {
        // The snapshot of a gap will include the refused event and those after it.
        while self.queue.front().is_some_and(|item| !matches!(item, Item::Gap(_))) {
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            self.seen = Some(before);
            self.is_retrying = true;
        }
    }

    /// Whether an event was received on this connection.
    fn has_received(&self, epoch: Epoch, sequence: Sequence) -> bool {
        !self.is_closing
            && self.epoch == Some(epoch)
            && !self.is_retrying
            && self.confirmable >= sequence
    }
}

/// Cuts a detail at the protocol's limit.
fn shortened(detail: Option<String>) -> Option<String> {
    detail.map(|mut detail| {
        let mut end = detail.len().min(crate::transport::frames::MAX_DETAIL_BYTES);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        detail.truncate(end);
        detail
    })
}
