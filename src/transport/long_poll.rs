//! Long polling: a gateway requests its next events, and the answer comes when there are some. Its
//! connection lives between requests: the lane and this module's task stay, so that a request costs
//! no more than what it carries.
//!
//! A request says after which position it wants events. If that is not the one after the last answer,
//! because an answer was lost or another node gave it, the connection ends and a new one resumes
//! ([`Reply::Reopen`]): after the confirmed position, or else after the requested one.
//!
//! The gateway counts as alive for twice the time that its last request was willing to wait.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::frames::{ConnectionError, DeliveryGap, FrameError, Position, ServerFrame};
use super::push::{Fault, Inbound};
use super::{Control, Ended, Greeting, Incoming, Outgoing, TransportEnd, reliable};
use crate::event::{ConnectionId, Epoch, Reason, Sequence};

/// The transport's name in the database, the API and the logs.
pub const NAME: &str = "long_poll";

/// The most bytes of events in an answer, unless one event is larger.
const ANSWER_BYTES: usize = 1024 * 1024;
/// How long a connection lives at least after a request, so that one that waits for nothing can be
/// followed by another.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// Requests that wait to be read. Gateways send one after another.
const REQUESTS: usize = 4;

/// A request for events.
#[derive(Debug)]
pub struct Request {
    /// Confirms everything up to here as applied, first.
    pub ack: Option<Position>,
    /// The position of the gateway; `None` for the position that the service stores.
    pub after: Option<Position>,
    /// The maximum number of events, at least one.
    pub max: usize,
    /// How long to wait for one.
    pub wait: Duration,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// At least one event, or a gap.
    Events(Box<Events>),
    /// There were none in time.
    Nothing,
    /// The connection has ended or can't serve the request; open another one.
    Reopen,
    /// The connection was closed for this reason.
    Closed(Reason, Option<ConnectionError>),
}

/// Events, and what is known about the log.
#[derive(Debug)]
pub struct Events {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The last known sequence of the log.
    pub head: Sequence,
    /// The connection.
    pub connection: ConnectionId,
    /// The frames of the events, as JSON.
    pub events: Vec<bytes::Bytes>,
    /// Events that can't be delivered, after those of `events`.
    pub gap: Option<Box<DeliveryGap>>,
}

impl Events {
    /// The answer as JSON. Payloads are copied byte for byte.
    pub fn to_json(&self) -> Vec<u8> {
        let size: usize = self.events.iter().map(|event| event.len() + 1).sum();
        let mut json = Vec::with_capacity(size + 512);
        let Self { epoch, head, connection, events, gap } = self;
        let members = format!(
            r#"{{"epoch":"{epoch}","head":{head},"connectionId":"{connection}","events":["#
        );
        json.extend_from_slice(members.as_bytes());
        for (nth, event) in events.iter().enumerate() {
            if nth > 0 {
                json.push(b',');
            }
            json.extend_from_slice(event);
        }
        json.push(b']');
        if let Some(gap) = gap {
            json.extend_from_slice(br#","gap":"#);
            json.extend_from_slice(&ServerFrame::Gap(gap.as_ref().clone()).to_text());
        }
        json.push(b'}');
        json
    }
}

/// Whether another connection would end for the same reason.
pub const fn is_final(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TokenRevoked
            | Reason::GatewayDisabled
            | Reason::GatewayDeleted
            | Reason::ProtocolError
            | Reason::Shutdown
    )
}

/// A connection that answers requests.
#[derive(Clone, Debug)]
pub struct Poller {
    requests: mpsc::Sender<(Request, oneshot::Sender<Reply>)>,
    /// Where the frames of the gateway go.
    pub inbound: Inbound,
}

impl Poller {
    /// Waits for an answer.
    pub async fn ask(&self, request: Request) -> Reply {
        let (reply, answered) = oneshot::channel();
        if self.requests.send((request, reply)).await.is_err() {
            return Reply::Reopen;
        }
        answered.await.unwrap_or(Reply::Reopen)
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.requests.closed().await;
    }
}

/// Starts a connection over a link. It ends when no request comes in time, the first one included.
pub fn start(greeting: Greeting, end: TransportEnd, first_wait: Duration) -> (Poller, Connection) {
    let (requests_in, requests) = mpsc::channel(REQUESTS);
    let (inbound, faults) = Inbound::new(&end);
    let connection = Connection {
        greeting,
        end,
        requests,
        faults,
        answers: Answers::default(),
        expires: Instant::now() + (first_wait * 2).max(SHORTEST_LIFE),
    };
    (Poller { requests: requests_in, inbound }, connection)
}

/// The task of a connection.
#[derive(Debug)]
pub struct Connection {
    greeting: Greeting,
    end: TransportEnd,
    requests: mpsc::Receiver<(Request, oneshot::Sender<Reply>)>,
    faults: mpsc::Receiver<Fault>,
    answers: Answers,
    /// When the gateway counts as gone.
    expires: Instant,
}

/// What was answered, and what the next answer will be.
#[derive(Debug, Default)]
struct Answers {
    /// Whether the lane has said where delivery begins.
    is_resumed: bool,
    /// Whether a request has been answered. The connection was opened for the first one.
    is_used: bool,
    head: Sequence,
    /// The position after the last answer.
    position: Sequence,
    /// Confirmed as applied.
    confirmed: Sequence,
    /// Events and gaps that were taken from the lane, and are not answered.
    kept: Vec<Outgoing>,
}

/// A request that waits for events.
struct Waiting {
    max: usize,
    until: Instant,
    reply: oneshot::Sender<Reply>,
}

/// Why a connection ends.
struct End {
    reason: Reason,
    detail: &'static str,
    error: Option<ConnectionError>,
}

impl End {
    fn closed(reason: Reason) -> Self {
        Self { reason, detail: "", error: reliable::connection_error(reason) }
    }

    fn violation(error: &FrameError) -> Self {
        let error = Some(reliable::violation(error));
        Self { reason: Reason::ProtocolError, detail: "", error }
    }
}

impl Connection {
    /// Answers requests until the connection ends.
    pub async fn run(mut self) {
        let mut waiting = None;
        let End { reason, detail, error } = self.serve(&mut waiting).await;
        self.requests.close();
        if let Some(Waiting { reply, .. }) = waiting {
            let _ = reply.send(Reply::Closed(reason, error.clone()));
        }
        while let Ok((_, reply)) = self.requests.try_recv() {
            let _ = reply.send(Reply::Closed(reason, error.clone()));
        }
        let (detail, shared) = (detail.to_owned(), Vec::new());
        let ended = Ended { reason, detail, by_peer: false, shared };
        // Fails if the lane has ended, so that no one needs the report.
        let _ = self.end.incoming.send(Incoming::Ended(Box::new(ended))).await;
    }

    async fn serve(&mut self, waiting: &mut Option<Waiting>) -> End {
        loop {
            let wakes_at = waiting.as_ref().map_or(self.expires, |waiting| waiting.until);
            tokio::select! {
                biased;
                control = self.end.control.recv() => match control {
                    Some(Control::Probe) => {
                        // A full queue has other signs of life.
                        let _ = self.end.incoming.try_send(Incoming::Alive);
                    }
                    // The gateway sees it when its connection ends.
                    Some(Control::Drain(_)) => {}
                    Some(Control::Close(reason)) => return End::closed(reason),
                    Some(Control::Violation(error)) => return End::violation(&error),
                    None => return End::closed(Reason::Shutdown),
                },
                Some(fault) = self.faults.recv() => return match fault {
                    Fault::Frame(error) => End::violation(&error),
                    Fault::Closed => End::closed(Reason::ClosedByGateway),
                },
                Some((request, reply)) = self.requests.recv() => {
                    // The gateway has given up the earlier one.
                    if let Some(earlier) = waiting.take() {
                        let _ = earlier.reply.send(Reply::Nothing);
                    }
                    match self.begin(&request).await {
                        Begin::Wait => *waiting = Some(Self::wait(&request, reply)),
                        Begin::Reopen => {
                            let _ = reply.send(Reply::Reopen);
                            let detail = "the gateway resumes at another position";
                            return End { reason: Reason::ClosedByGateway, detail, error: None };
                        }
                        Begin::Ended => {
                            let _ = reply.send(Reply::Reopen);
                            return End::closed(Reason::Shutdown);
                        }
                    }
                    self.answer(waiting, None);
                }
                first = self.end.events.recv(), if waiting.is_some() => match first {
                    Some(first) => self.answer(waiting, Some(*first)),
                    None => return End::closed(Reason::Shutdown),
                },
                () = sleep_until(wakes_at) => {
                    let Some(waiting) = waiting.take() else {
                        let detail = "no request came in time";
                        return End { reason: Reason::HeartbeatTimeout, detail, error: None };
                    };
                    let _ = waiting.reply.send(Reply::Nothing);
                }
            }
        }
    }
}

/// How a request begins.
enum Begin {
    /// It waits for events.
    Wait,
    /// It needs another connection.
    Reopen,
    /// The lane has ended.
    Ended,
}

impl Connection {
    /// Confirms what a request confirms, and compares its position.
    async fn begin(&mut self, request: &Request) -> Begin {
        self.expires = Instant::now() + (request.wait * 2).max(SHORTEST_LIFE);
        // The lane says first where delivery begins.
        while !self.answers.is_resumed {
            let Some(message) = self.end.events.recv().await else { return Begin::Ended };
            self.answers.keep(*message);
        }
        let is_used = std::mem::replace(&mut self.answers.is_used, true);
        let is_of_log = |position: &Position| position.epoch == self.greeting.epoch;
        if !request.ack.iter().chain(&request.after).all(is_of_log) {
            return if is_used { Begin::Reopen } else { Begin::Wait };
        }
        let answers = &mut self.answers;
        if let Some(ack) = request.ack.as_ref().map(|ack| ack.sequence) {
            if ack > answers.position {
                return if is_used { Begin::Reopen } else { Begin::Wait };
            }
            if ack > answers.confirmed {
                answers.confirmed = ack;
                if self.end.incoming.send(Incoming::Applied(ack)).await.is_err() {
                    return Begin::Ended;
                }
            }
        }
        let expected = request.after.as_ref().map_or(answers.confirmed, |after| after.sequence);
        if !is_used || expected == answers.position { Begin::Wait } else { Begin::Reopen }
    }

    fn wait(request: &Request, reply: oneshot::Sender<Reply>) -> Waiting {
        Waiting { max: request.max.max(1), until: Instant::now() + request.wait, reply }
    }

    /// Answers with what the lane has passed, or waits if that is nothing for the gateway.
    fn answer(&mut self, waiting: &mut Option<Waiting>, first: Option<Outgoing>) {
        let Some(Waiting { max, until, reply }) = waiting.take() else { return };
        if let Some(first) = first {
            self.answers.keep(first);
        }
        while self.answers.kept.len() < max
            && let Ok(next) = self.end.events.try_recv()
        {
            self.answers.keep(*next);
        }
        let kept = std::mem::take(&mut self.answers.kept);
        let before = self.answers.position;
        let events = self.answers.encode(&kept, self.greeting, max);
        if events.events.is_empty() && events.gap.is_none() {
            *waiting = Some(Waiting { max, until, reply });
            return;
        }
        let taken = events.events.len() + usize::from(events.gap.is_some());
        if reply.send(Reply::Events(Box::new(events))).is_ok() {
            self.answers.kept = kept.into_iter().skip(taken).collect();
        } else {
            // The gateway has given the request up, and has seen none of it.
            self.answers.kept = kept;
            self.answers.position = before;
        }
    }
}

impl Answers {
    /// Keeps what a gateway is to be told, and notes the rest.
    fn keep(&mut self, message: Outgoing) {
        match message {
            Outgoing::Resumed(resumed) => {
                self.is_resumed = true;
                self.head = resumed.head;
                self.position = resumed.from;
                self.confirmed = resumed.from;
            }
            Outgoing::Mark(mark) => self.head = self.head.max(mark.head),
            Outgoing::Event(_) => self.kept.push(message),
            // It may come before the lane says where delivery begins, which then waits for the gateway.
            Outgoing::Gap(_) => {
                self.is_resumed = true;
                self.kept.push(message);
            }
        }
    }

    /// The answer with the first of the kept messages.
    fn encode(&mut self, kept: &[Outgoing], greeting: Greeting, max: usize) -> Events {
        let Greeting { epoch, connection_id: connection, .. } = greeting;
        let (mut events, mut gap, mut bytes) = (Vec::new(), None, 0);
        for message in kept.iter().take(max) {
            match message {
                Outgoing::Event(event) => {
                    let text = reliable::outgoing_text(message.clone(), epoch);
                    bytes += text.len();
                    if bytes > ANSWER_BYTES && !events.is_empty() {
                        break;
                    }
                    events.push(text);
                    self.position = event.sequence;
                }
                Outgoing::Gap(found) => {
                    self.position = found.resume_at;
                    gap = Some(found.clone());
                    break;
                }
                Outgoing::Resumed(_) | Outgoing::Mark(_) => {}
            }
        }
        self.head = self.head.max(self.position);
        Events { epoch, head: self.head, connection, events, gap }
    }
}
