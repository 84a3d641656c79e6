//! Reliable mode over long polling: a task polls, and what the client sends are requests of their own,
//! which must reach the same node.
//!
//! There is no `connection.ack` on this transport, and the first event says where delivery starts. The
//! link makes `connection.resumed` of that. The service may replace a connection between two answers.
//! The link ends then, because what was sent on the earlier one counts no more.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::link::{Closed, ConnectError, Link, Received, Transport};
use super::requests::{CONNECT_TIMEOUT, Requests, not_connected, refused, why};
use crate::api::PolledEvents;
use crate::client::socket::Endpoint;
use crate::event::{ConnectionId, Epoch, Sequence};
use crate::transport::frames::{
    Ack, Confirm, ConnectionResumed, Credit, Envelope, GatewayFrame, Hello, Resume, ResumeMode,
    ServerFrame,
};

/// How long a request waits for an event.
const WAIT: Duration = Duration::from_secs(20);
/// A request that was not refused in this time was admitted, and waits for an event.
const ADMISSION: Duration = Duration::from_secs(1);
/// The most events that the service puts into an answer.
const MAX_EVENTS: u32 = 256;

/// Connects by long polling, which has fewer options than the other transports: events are confirmed as
/// applied, all types are delivered, and delivery starts at the stored position or at the service's. The
/// id of the event at that position is not checked.
#[derive(Clone, Debug)]
pub struct LongPoll(Requests);

impl LongPoll {
    /// Connects to this service with a gateway's key. The local address of the endpoint counts, too.
    pub fn new(endpoint: &Endpoint, key: &SecretString) -> Result<Self, ConnectError> {
        Ok(Self(Requests::new(endpoint, key)?))
    }
}

#[async_trait]
impl Transport for LongPoll {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let start = start(hello)?;
        let (answers, mut answered) = mpsc::channel(1);
        let applied = watch::Sender::new(start);
        let (window, window_bytes) = (hello.window, hello.window_bytes);
        let polls = Polls {
            requests: self.0.clone(),
            instance: hello.instance.clone(),
            envelope: hello.envelope,
            max: window.map_or(MAX_EVENTS, |window| window.clamp(1, MAX_EVENTS)),
            credit: Credit { window, window_bytes },
            applied: applied.clone(),
            position: start,
            connection: None,
        };
        let task = tokio::spawn(polls.run(answers));
        let mut link = LongPollLink {
            requests: self.0.clone(),
            answers: mpsc::channel(1).1,
            task,
            queue: VecDeque::new(),
            applied,
            epoch: None,
            connection: None,
        };
        match timeout(ADMISSION, answered.recv()).await {
            Ok(Some(Ok(answer))) => link.take(answer),
            Ok(Some(Err(failed))) => return Err(failed.connecting),
            Ok(None) | Err(_) => {}
        }
        link.answers = answered;
        Ok(Box::new(link))
    }
}

/// The position that the hello names, if any.
fn start(hello: &Hello) -> Result<Option<(Epoch, Sequence)>, ConnectError> {
    if hello.types.is_some() {
        return Err(ConnectError::Unsupported("long polling has no filter of event types"));
    }
    if hello.confirm == Confirm::Received {
        return Err(ConnectError::Unsupported("long polling confirms events as applied only"));
    }
    match &hello.resume {
        Resume::After(position) => Ok(Some((position.epoch, position.sequence))),
        Resume::Server => Ok(None),
        Resume::Latest | Resume::Earliest => Err(ConnectError::Unsupported(
            "long polling starts at a stored position or at the service's",
        )),
    }
}

/// Polls, one request after another.
struct Polls {
    requests: Requests,
    instance: Option<String>,
    envelope: Option<Envelope>,
    max: u32,
    /// What the requests have no parameters for. Sent when the connection is known.
    credit: Credit,
    /// What the client has applied; `None` before the first answer of a client without a position, and
    /// while it reads a snapshot. A connection starts after it.
    applied: watch::Sender<Option<(Epoch, Sequence)>>,
    /// The position after the last answer.
    position: Option<(Epoch, Sequence)>,
    connection: Option<ConnectionId>,
}

/// The answer to a request: no frames if there was no event in time.
#[derive(Default)]
struct Answer {
    frames: Vec<ServerFrame>,
    connection: Option<ConnectionId>,
}

/// Why a request has no answer: as the failure to connect, and as the end of a connection.
struct Failed {
    connecting: ConnectError,
    closed: Closed,
}

impl Failed {
    fn lost(why: impl Into<String>) -> Self {
        let closed = Closed::lost(why);
        Self { connecting: ConnectError::Failed(closed.why.clone()), closed }
    }
}

impl Polls {
    /// Polls until the connection ends.
    async fn run(mut self, answers: mpsc::Sender<Result<Answer, Failed>>) {
        loop {
            if self.connection.is_some() {
                // A request while a snapshot is read would confirm it.
                let _ = self.applied.subscribe().wait_for(Option::is_some).await;
            }
            let answer = self.poll().await;
            let is_last = answer.is_err();
            if answers.send(answer).await.is_err() || is_last {
                return;
            }
        }
    }

    async fn poll(&mut self) -> Result<Answer, Failed> {
        let text = |(epoch, sequence)| format!("{epoch}.{sequence}");
        let mut query =
            vec![("max", self.max.to_string()), ("wait", format!("{}s", WAIT.as_secs()))];
        query.extend(self.instance.clone().map(|instance| ("instance", instance)));
        query.extend(self.envelope.map(|envelope| ("envelope", envelope.as_str().to_owned())));
        query.extend(self.position.map(|after| ("after", text(after))));
        let applied = *self.applied.borrow();
        query.extend(applied.map(|applied| ("ack", text(applied))));
        let request = self.requests.get(&["events"], &query).timeout(WAIT + CONNECT_TIMEOUT);
        let response = request.send().await.map_err(|error| Failed::lost(why(&error)))?;
        match response.status() {
            StatusCode::NO_CONTENT => return Ok(Answer::default()),
            status if status.is_success() => {}
            _ => {
                let connecting = not_connected(&response);
                return Err(Failed { connecting, closed: refused(&response, "a poll") });
            }
        }
        let events = response.json().await.map_err(|error| Failed::lost(why(&error)))?;
        let answer = self.read(events)?;
        let credit = std::mem::take(&mut self.credit);
        if let Some(connection) = answer.connection.filter(|_| credit != Credit::default()) {
            let sent = send(&self.requests, connection, &[GatewayFrame::Credit(credit)]).await;
            sent.map_err(|closed| Failed::lost(closed.why))?;
        }
        Ok(answer)
    }

    /// The frames of an answer, after `connection.resumed` if it is the first one.
    fn read(&mut self, events: PolledEvents) -> Result<Answer, Failed> {
        let PolledEvents { epoch, head, connection_id, events, gap } = events;
        let connection = Some(connection_id);
        if self.connection.is_some() && self.connection != connection {
            return Err(Failed::lost("the service has opened another connection"));
        }
        let is_first = self.connection.is_none();
        self.connection = connection;
        let mut frames = Vec::with_capacity(events.len() + 1);
        for text in events.iter().chain(&gap) {
            match ServerFrame::parse(text.get().as_bytes()) {
                Ok(frame) => frames.extend(frame),
                Err(error) => {
                    let why = format!("the service sent an invalid frame: {error}");
                    return Err(Failed::lost(why));
                }
            }
        }
        if let (true, Some(ServerFrame::Event(event))) = (is_first, frames.first()) {
            let from = event.previous;
            let pending = u64::try_from(head.0 - from.0).unwrap_or_default();
            let mode = ResumeMode::Replay;
            let envelope = None;
            let resumed = ConnectionResumed { from, head, epoch, mode, pending, envelope };
            frames.insert(0, ServerFrame::Resumed(resumed));
        }
        let last = frames.iter().rev().find_map(|frame| match frame {
            ServerFrame::Event(event) => Some((event.epoch, event.sequence)),
            ServerFrame::Gap(gap) => Some((gap.epoch, gap.resume_at)),
            _ => None,
        });
        self.position = last.or(self.position);
        if let Some(ServerFrame::Gap(_)) = frames.last() {
            // Known again when the snapshot is applied.
            self.applied.send_replace(None);
        }
        Ok(Answer { frames, connection })
    }
}

async fn send(
    requests: &Requests,
    connection: ConnectionId,
    frames: &[GatewayFrame],
) -> Result<(), Closed> {
    requests.send(&["connections", &connection.to_string(), "frames"], frames).await
}

struct LongPollLink {
    requests: Requests,
    answers: mpsc::Receiver<Result<Answer, Failed>>,
    task: JoinHandle<()>,
    queue: VecDeque<ServerFrame>,
    applied: watch::Sender<Option<(Epoch, Sequence)>>,
    /// The epoch of the log.
    epoch: Option<Epoch>,
    connection: Option<ConnectionId>,
}

#[async_trait]
impl Link for LongPollLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        loop {
            if let Some(frame) = self.queue.pop_front() {
                return Ok(Received::Frame(frame));
            }
            match self.answers.recv().await {
                Some(Ok(answer)) if answer.frames.is_empty() => return Ok(Received::Alive),
                Some(Ok(answer)) => self.take(answer),
                Some(Err(failed)) => return Err(failed.closed),
                None => return Err(Closed::lost("closed")),
            }
        }
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        let Some(connection) = self.connection else {
            return Err(Closed::lost("the service has answered no request yet"));
        };
        send(&self.requests, connection, frames).await?;
        for frame in frames {
            if let GatewayFrame::Ack(Ack { applied: Some(applied), .. }) = frame {
                self.note_applied(*applied);
            }
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.task.abort();
    }
}

impl LongPollLink {
    fn take(&mut self, answer: Answer) {
        for frame in &answer.frames {
            match frame {
                ServerFrame::Resumed(resumed) => {
                    self.epoch = Some(resumed.epoch);
                    self.note_applied(resumed.from);
                }
                ServerFrame::Gap(gap) => self.epoch = Some(gap.epoch),
                _ => {}
            }
        }
        self.connection = answer.connection.or(self.connection);
        self.queue.extend(answer.frames);
    }

    fn note_applied(&self, sequence: Sequence) {
        let Some(epoch) = self.epoch else { return };
        self.applied.send_if_modified(|known| {
            let is_ahead = known.is_none_or(|it| it.0 != epoch || it.1 < sequence);
            if is_ahead {
                *known = Some((epoch, sequence));
            }
            is_ahead
        });
    }
}

impl Drop for LongPollLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}
