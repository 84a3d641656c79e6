//! Watches one connection of reliable mode from the transport's end of its link, where the lane can't
//! blame the network: order and links of events, window and credit, marks, closes. Deliberate bugs of
//! the lane and the transport are planted here, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_events::event::{Epoch, Event, Reason, Sequence};
use gateway_events::transport::frames::{
    ConnectionError, Credit, EventFrame, GatewayFrame, Hello, Resume, ServerFrame,
};
use gateway_events::transport::{Outgoing, OutgoingEvent};
use tokio::time::Instant;

use crate::bugs::Bug;
use crate::promises;
use crate::service::{CONFIRMATION, WINDOW};
use crate::world::{GivenUp, Id, Rejection, World};

/// How long a node may take until it closes a connection that was replaced at another one.
const REPLACED: Duration = Duration::from_secs(6);
/// How long the lane may take until it knows of a message.
const GRACE: Duration = Duration::from_secs(1);

pub(crate) struct Watch {
    world: Arc<World>,
    id: Id,
    /// Its number among the connections of the replica.
    number: Option<u32>,
    window: u32,
    /// Since when it is zero.
    zero_since: Option<Instant>,
    /// The last sequence that was announced to the peer.
    announced: i64,
    epoch: Option<Epoch>,
    /// The last sequence that was announced to the peer before each event.
    previous: BTreeMap<i64, i64>,
    in_flight: BTreeSet<i64>,
    /// Events that the gateway has neither applied nor refused.
    held: BTreeSet<i64>,
    /// Events that are to be sent again.
    nacked: BTreeSet<i64>,
    progress_at: Option<Instant>,
    events: u32,
    /// What a dropped event was linked to.
    relinked: Option<Sequence>,
    /// The event that a bug drops.
    dropped: Option<i64>,
    last: Option<Arc<Event>>,
}

impl Watch {
    /// A connection whose hello is on its way to the service.
    pub(crate) fn begin(world: Arc<World>, id: Id, hello: &Hello) -> Self {
        if let Resume::After(position) = &hello.resume {
            let mut state = world.state();
            let replica = &mut state.gateways[id.gateway].replicas[id.replica];
            let progress = replica.in_log(position.epoch);
            progress.confirmed = progress.confirmed.max(position.sequence.0);
        }
        let window = hello.window.unwrap_or(WINDOW).min(WINDOW);
        Self {
            world,
            id,
            number: None,
            window,
            zero_since: (window == 0).then(Instant::now),
            announced: 0,
            epoch: None,
            previous: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            held: BTreeSet::new(),
            nacked: BTreeSet::new(),
            progress_at: None,
            events: 0,
            relinked: None,
            dropped: None,
            last: None,
        }
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.world.has(bug)
    }

    fn broken(&self, promise: &str, how: &str) {
        self.world.broken(promise, format!("{}: {how}", self.world.label(self.id)));
    }

    /// What a bug makes of a message; `None` if it drops it.
    pub(crate) fn inject(&mut self, outgoing: Outgoing) -> Option<Outgoing> {
        let Outgoing::Event(mut event) = outgoing else { return Some(outgoing) };
        self.events += 1;
        let sequence = event.sequence.0;
        let is_other = event.event.event_type.as_str() != crate::world::TYPES[0];
        let is_dropped = match self.world.bug {
            Some(Bug::SkipRow) => self.events == 3,
            Some(Bug::WrongFilter) => is_other,
            Some(Bug::ForgetGoBack) => self.dropped == Some(sequence) && event.attempt > 1,
            _ => false,
        };
        if is_dropped {
            self.relinked.get_or_insert(event.previous);
            return None;
        }
        if let Some(previous) = self.relinked.take() {
            event.previous = previous;
        }
        let own = Arc::clone(&event.event);
        if self.has(Bug::StaleContent)
            && self.events.is_multiple_of(4)
            && let Some(last) = self.last.take()
        {
            event.event = last;
        }
        self.last = Some(own);
        let OutgoingEvent { sequence, .. } = event;
        self.dropped = self.dropped.filter(|dropped| *dropped != sequence.0);
        Some(Outgoing::Event(event))
    }

    /// Notes that this is the newest connection of the replica.
    fn begun(&mut self) {
        if self.number.is_some() {
            return;
        }
        let mut state = self.world.state();
        let replica = &mut state.gateways[self.id.gateway].replicas[self.id.replica];
        let number = replica.connection.map_or(1, |(last, _)| last + 1);
        replica.connection = Some((number, Instant::now()));
        self.number = Some(number);
    }

    /// Whether a later connection of the same instance has replaced this one some time ago.
    fn is_replaced(&self) -> bool {
        let state = self.world.state();
        let replica = &state.gateways[self.id.gateway].replicas[self.id.replica];
        replica.name.is_some()
            && replica.connection.is_some_and(|(newest, at)| {
                self.number.is_some_and(|own| own < newest) && at.elapsed() > REPLACED
            })
    }

    /// The lane has sent a frame.
    pub(crate) fn sent(&mut self, frame: &ServerFrame) {
        if matches!(frame, ServerFrame::Resumed(_) | ServerFrame::Gap(_)) {
            self.begun();
        }
        if self.is_replaced() {
            self.broken("a replaced connection is closed", "it was sent a frame");
        }
        match frame {
            ServerFrame::Resumed(resumed) => {
                self.announced = resumed.from.0;
                self.epoch = Some(resumed.epoch);
                promises::resumed(&self.world, self.id, resumed.epoch, resumed.from.0);
            }
            ServerFrame::Event(event) => self.event(event),
            ServerFrame::Mark(mark) => self.mark(mark.sequence.0),
            ServerFrame::Gap(gap) => {
                self.announced = gap.resume_at.0;
                self.epoch = Some(gap.epoch);
                self.in_flight.clear();
                self.held.clear();
                let mut state = self.world.state();
                let replica = &mut state.gateways[self.id.gateway].replicas[self.id.replica];
                let progress = replica.in_log(gap.epoch);
                progress.sent = progress.sent.max(gap.resume_at.0);
            }
            ServerFrame::Ack(_) | ServerFrame::Drain(_) | ServerFrame::Error(_) => {}
        }
    }

    fn event(&mut self, event: &EventFrame) {
        let (sequence, previous) = (event.sequence.0, event.previous.0);
        let is_next = previous == self.announced && sequence > self.announced;
        // The refused event itself may have been skipped meanwhile.
        let goes_back = self
            .nacked
            .range(..=sequence)
            .any(|refused| self.previous.get(refused).is_some_and(|before| *before == previous));
        if !is_next && !goes_back && !self.injects_bugs() {
            let announced = self.announced;
            let how = format!("{sequence} with previous {previous} was sent after {announced}");
            self.broken("events are sent in order, each linked to the one before", &how);
        }
        self.announced = sequence;
        self.previous.insert(sequence, previous);
        self.in_flight.insert(sequence);
        self.held.insert(sequence);
        if self.nacked.is_empty() && self.zero_since.is_none() {
            let state = self.world.state();
            let known = &state.gateways[self.id.gateway];
            let given_up = GivenUp::of(&self.world.database, known.key());
            let is_over = |it: i64| given_up.is_dead(it) || known.was_given_up(it);
            let in_flight = self.in_flight.iter().filter(|it| !is_over(**it)).count();
            drop(state);
            if in_flight > self.window as usize {
                let how = format!("{:?} of a window of {}", self.in_flight, self.window);
                self.broken("no more events are in flight than the window allows", &how);
            }
        }
        if self.zero_since.is_some_and(|since| since.elapsed() > GRACE) {
            self.broken("without credit nothing is sent", &format!("{sequence} was"));
        }
        let mut state = self.world.state();
        let replica = &mut state.gateways[self.id.gateway].replicas[self.id.replica];
        let progress = replica.in_log(event.epoch);
        progress.sent = progress.sent.max(sequence);
    }

    fn injects_bugs(&self) -> bool {
        matches!(self.world.bug, Some(Bug::SkipRow | Bug::WrongFilter | Bug::ForgetGoBack))
    }

    /// A mark must not cover an event that was not sent.
    fn mark(&mut self, sequence: i64) {
        let state = self.world.state();
        let known = &state.gateways[self.id.gateway];
        let replica = &known.replicas[self.id.replica];
        let given_up = GivenUp::of(&self.world.database, known.key());
        let log = known.log();
        let missed = (self.announced + 1..=sequence).find(|it| {
            log.row(*it).is_some_and(|row| replica.wants(row))
                && !(given_up.has(*it) || known.was_given_up(*it) || replica.rejected.contains(it))
        });
        let is_current = self.epoch == Some(log.epoch);
        drop(state);
        if let Some(missed) = missed.filter(|_| is_current && !self.injects_bugs()) {
            let how = format!("the mark {sequence} covers {missed}, which was not sent");
            self.broken("a mark covers only what is not sent", &how);
        }
        self.announced = sequence;
    }

    /// The lane receives a frame.
    pub(crate) fn received(&mut self, frame: &GatewayFrame, node: u32) {
        match frame {
            GatewayFrame::Ack(ack) => {
                let to = ack.applied.max(ack.received).map_or(0, |it| it.0);
                self.in_flight.retain(|it| *it > to);
                let applied = ack.applied.map_or(0, |it| it.0);
                self.held.retain(|it| *it > applied);
            }
            GatewayFrame::Nack(nack) if nack.retryable => {
                self.nacked.insert(nack.sequence.0);
                self.dropped = Some(nack.sequence.0);
                self.in_flight.retain(|it| *it < nack.sequence.0);
                self.held.retain(|it| *it < nack.sequence.0);
            }
            GatewayFrame::Nack(nack) => {
                self.in_flight.remove(&nack.sequence.0);
                self.held.remove(&nack.sequence.0);
                let mut state = self.world.state();
                let known = &mut state.gateways[self.id.gateway];
                if self.epoch == Some(known.log().epoch) {
                    known.replicas[self.id.replica].rejected.insert(nack.sequence.0);
                }
                // What another replica has confirmed need not fail.
                if self.epoch == Some(known.log().epoch) && known.replicas.len() == 1 {
                    let by = known.replicas[self.id.replica].name.clone().unwrap_or_default();
                    known.rejections.push(Rejection { sequence: nack.sequence.0, node, by });
                }
            }
            GatewayFrame::Progress(progress) => {
                if self.in_flight.contains(&progress.sequence.0) {
                    self.progress_at = Some(Instant::now());
                }
            }
            GatewayFrame::Credit(Credit { window: Some(window), .. }) => {
                // A window that shrinks leaves more in flight than it allows.
                self.window = self.window.max(*window).min(WINDOW);
                let is_zero = *window == 0;
                self.zero_since = is_zero.then(|| self.zero_since.unwrap_or_else(Instant::now));
            }
            GatewayFrame::Credit(_) | GatewayFrame::Hello(_) => {}
        }
    }

    /// The lane closes the connection.
    pub(crate) fn closing(&self, reason: Reason, error: Option<&ConnectionError>) {
        if reason == Reason::ProtocolError {
            let how = error.map_or(String::new(), |error| error.message.clone());
            self.broken("a gateway that keeps the protocol is not accused", &how);
        }
        if reason == Reason::ConfirmationTimeout && self.held.is_empty() {
            let how = "closed although it waits for events to be sent again";
            self.broken("a gateway that has handled all its events is not overdue", how);
        }
        let was_busy = self.progress_at.is_some_and(|at| at.elapsed() + GRACE < CONFIRMATION);
        if reason == Reason::ConfirmationTimeout && was_busy {
            let how = "closed although it reported progress";
            self.broken("a gateway that reports progress is not overdue", how);
        }
    }
}
