//! Long polling: a gateway requests its next events, and the response comes when there are some. Its
//! connection lives between requests: the lane and this module's task stay, so that a request costs
//! no more than what it carries.
//!
//! A request says which events the gateway has, and apart from that, which it has applied. If it does
//! not have those of the last response, because that was lost or another node gave it, the connection
//! ends and a new one delivers what is not confirmed ([`Reply::Reopen`]), except for what the gateway
//! has.
//!
//! A request may be a repeat, because its response was lost. So what it confirms may be what it confirmed
//! before it was answered with a gap, which is returned again then: only what the gateway can't have
//! said before confirms that it has read the snapshot.
//!
//! The gateway counts as alive for twice the time that its last request was willing to wait. The lane
//! passes events while no request waits, too. Those that have waited for some time when a request comes
//! are read from the log again, because they may have been purged or skipped, or the gateway paused.
//! They, and those that were in no response when the connection ends, count as not sent
//! ([`Incoming::Unsent`]).

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::frames::{Envelope, Position, ServerFrame};
use super::push::{Fault, Inbound};
use super::reliable::{Closing, Encoding};
use super::{Control, Ended, Gap, Greeting, Incoming, Outgoing, TransportEnd, Violation};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, Epoch, Reason, Sequence};

mod responses;

use responses::{Next, Responses};

/// The transport's name in the database, the API and the logs.
pub const NAME: &str = "long_poll";

/// How long a connection lives at least after a request, so that one that waits for nothing can be
/// followed by another.
const MIN_LIFETIME: Duration = Duration::from_secs(1);
/// How long a request waits at least if the lane is about to pass events. It reads its first page
/// after the connection has opened.
const FIRST_PAGE_WAIT: Duration = Duration::from_secs(2);
/// How long events may wait for a request before they are read from the log again.
const MAX_KEPT_TIME: Duration = Duration::from_millis(500);
/// Requests that wait to be read. Gateways send one after another.
const REQUESTS: usize = 4;

/// The parameters of a request for events.
#[derive(Debug)]
pub struct Request {
    /// Confirms everything up to here as applied, first.
    pub ack: Option<Position>,
    /// The position of the gateway; `None` for the position that the service stores.
    pub after: Option<Position>,
    /// The connection whose response had the gap that `ack` confirms.
    pub snapshot: Option<ConnectionId>,
    /// The maximum number of events, at least one.
    pub max: usize,
    /// How long to wait for one.
    pub wait: Duration,
}

/// The response to a request.
#[derive(Debug)]
pub enum Reply {
    /// At least one event, or a gap.
    Events(Box<Events>),
    /// There were none in time.
    Nothing,
    /// A later request or connection of the instance takes the place of this one.
    Superseded,
    /// The connection has ended or can't serve the request; open another one.
    Reopen,
    /// The connection starts after the position of the request; open one that starts there.
    Rewind,
    /// The connection was closed for this reason.
    Closed(Closing),
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
    pub gap: Option<Box<Gap>>,
}

impl Events {
    /// The response as JSON. Payloads are copied byte for byte.
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
            json.extend_from_slice(&ServerFrame::Gap(gap.as_ref().into()).to_text());
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
    commands: mpsc::Sender<Command>,
    /// Where the frames of the gateway go.
    pub inbound: Inbound,
}

/// What the connection's task is to do.
#[derive(Debug)]
enum Command {
    Events(Request, oneshot::Sender<Reply>),
    /// To end.
    Replace,
}

impl Poller {
    /// Passes a request to the connection, and waits for its response.
    pub async fn request(&self, request: Request) -> Reply {
        let (reply, response) = oneshot::channel();
        if self.commands.send(Command::Events(request, reply)).await.is_err() {
            return Reply::Reopen;
        }
        response.await.unwrap_or(Reply::Reopen)
    }

    /// Ends the connection because another one replaces it.
    pub async fn replace(&self) {
        // Fails if it has ended.
        let _ = self.commands.send(Command::Replace).await;
        self.closed().await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        self.commands.closed().await;
    }
}

/// Starts a connection over a link. It ends when no request comes in time, the first one included.
pub fn start(
    greeting: Greeting,
    envelope: Option<Envelope>,
    end: TransportEnd,
    first_wait: Duration,
) -> (Poller, Connection) {
    let (commands_in, commands) = mpsc::channel(REQUESTS);
    let (inbound, messages, faults) = Inbound::relayed();
    let connection = Connection {
        greeting,
        end,
        commands,
        messages,
        faults,
        responses: Responses::new(Encoding { epoch: greeting.epoch, envelope }),
        kept_since: Some(Instant::now()),
        expires: Instant::now() + (first_wait * 2).max(MIN_LIFETIME),
    };
    (Poller { commands: commands_in, inbound }, connection)
}

/// The task of a connection.
#[derive(Debug)]
pub struct Connection {
    greeting: Greeting,
    end: TransportEnd,
    commands: mpsc::Receiver<Command>,
    /// What the gateway sends besides requests.
    messages: mpsc::Receiver<Incoming>,
    faults: mpsc::Receiver<Fault>,
    responses: Responses,
    /// Since when events may be waiting for a request; `None` if they are to be read from the log again in
    /// any case.
    kept_since: Option<Instant>,
    /// When the gateway counts as gone.
    expires: Instant,
}

/// A request that waits for events.
struct Waiting {
    max: usize,
    since: Instant,
    until: Instant,
    /// When it is answered with the gap that an earlier one was answered with.
    gap_at: Option<Instant>,
    reply: oneshot::Sender<Reply>,
}

/// Why a connection ends.
struct End {
    closing: Closing,
    detail: &'static str,
}

impl<T: Into<Closing>> From<T> for End {
    fn from(closing: T) -> Self {
        Self { closing: closing.into(), detail: "" }
    }
}

impl End {
    /// Ends without an error for the gateway.
    const fn silent(reason: Reason, detail: &'static str) -> Self {
        Self { closing: Closing { reason, error: None }, detail }
    }

    /// The response to requests that can't be served any more.
    fn reply(&self) -> Reply {
        match self.closing.reason {
            Reason::Replaced => Reply::Superseded,
            _ => Reply::Closed(self.closing.clone()),
        }
    }
}

/// The lane has ended, because the node shuts down.
struct LaneGone;

impl From<LaneGone> for Closing {
    fn from(_: LaneGone) -> Self {
        Reason::Shutdown.into()
    }
}

impl Connection {
    /// Answers requests until the connection ends.
    pub async fn run(mut self) {
        let mut waiting = None;
        let Err(end) = self.serve(&mut waiting).await;
        self.commands.close();
        if let Some(Waiting { reply, .. }) = waiting {
            let _ = reply.send(end.reply());
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Events(_, reply) = command {
                let _ = reply.send(end.reply());
            }
        }
        // These frames were accepted.
        self.messages.close();
        while let Ok(message) = self.messages.try_recv() {
            let _ = self.pass(message).await;
        }
        self.end.events.close();
        while let Ok(message) = self.end.events.try_recv() {
            self.responses.keep(*message);
        }
        if let Some(first) = self.responses.unsent() {
            let _ = self.report(Incoming::Unsent(first)).await;
        }
        let End { closing: Closing { reason, .. }, detail } = end;
        let ended = Ended::new(reason, detail.to_owned(), false);
        // Fails if the lane has ended, so that no one needs the report.
        let _ = self.report(Incoming::Ended(Box::new(ended))).await;
    }

    async fn serve(&mut self, waiting: &mut Option<Waiting>) -> Result<Infallible, End> {
        loop {
            let wakes_at = self.wakes_at(waiting.as_ref());
            tokio::select! {
                biased;
                control = self.end.control.recv() => match control {
                    Some(Control::Probe) => self.report_alive(waiting.is_some()).await?,
                    // The gateway sees it when its connection ends.
                    Some(Control::Drain(_)) => {}
                    Some(Control::Close(reason)) => return Err(reason.into()),
                    Some(Control::Violation(violation)) => return Err(violation.into()),
                    None => return Err(LaneGone.into()),
                },
                Some(fault) = self.faults.recv() => return Err(match fault {
                    Fault::Frame(error) => (&error).into(),
                    Fault::Closed => Reason::ClosedByGateway.into(),
                }),
                // The first request says what the gateway has.
                Some(message) = self.messages.recv(), if self.responses.is_used => {
                    self.pass(message).await?;
                }
                Some(command) = self.commands.recv() => {
                    if let Some(earlier) = waiting.take() {
                        let _ = earlier.reply.send(Reply::Superseded);
                    }
                    let Command::Events(request, reply) = command else {
                        return Err(Reason::Replaced.into());
                    };
                    let instead = match self.begin(&request).await? {
                        Begin::Wait => {
                            *waiting = Some(Self::wait(&request, reply));
                            self.respond(waiting).await?;
                            continue;
                        }
                        Begin::Gap => {
                            let gap_at = Some(Instant::now() + self.responses.repeat_gap());
                            *waiting = Some(Waiting { gap_at, ..Self::wait(&request, reply) });
                            continue;
                        }
                        Begin::Reopen => Reply::Reopen,
                        Begin::Rewind => Reply::Rewind,
                    };
                    let _ = reply.send(instead);
                    let detail = "the gateway resumes at another position";
                    return Err(End::silent(Reason::ClosedByGateway, detail));
                }
                message = self.end.events.recv(), if waiting.is_some() || self.responses.is_ahead() => {
                    let Some(message) = message else { return Err(LaneGone.into()) };
                    self.responses.keep(*message);
                    self.respond(waiting).await?;
                }
                () = sleep_until(wakes_at) => {
                    let Some(waiting) = waiting.take() else {
                        let detail = "no request came in time";
                        return Err(End::silent(Reason::HeartbeatTimeout, detail));
                    };
                    let again = waiting.gap_at.and_then(|_| self.responses.gap_again(self.greeting));
                    let _ = waiting.reply.send(again.map_or(Reply::Nothing, Reply::Events));
                    self.extend_expiry();
                }
            }
        }
    }

    /// When the connection expires, or the waiting request is answered in any case.
    fn wakes_at(&self, waiting: Option<&Waiting>) -> Instant {
        match waiting {
            None => self.expires,
            Some(Waiting { gap_at: Some(at), .. }) if self.responses.has_gap() => *at,
            Some(waiting) if self.responses.is_behind() => {
                waiting.until.max(waiting.since + FIRST_PAGE_WAIT)
            }
            Some(waiting) => waiting.until,
        }
    }

    /// Leaves time for another request after a response.
    fn extend_expiry(&mut self) {
        self.expires = self.expires.max(Instant::now() + MIN_LIFETIME);
    }
}

/// How a request begins.
enum Begin {
    /// It waits for events.
    Wait,
    /// It is answered with the gap that an earlier one was answered with.
    Gap,
    /// It needs another connection.
    Reopen,
    /// It needs one that starts at an earlier position.
    Rewind,
}

impl Connection {
    /// Confirms what a request confirms, and compares its position.
    async fn begin(&mut self, request: &Request) -> Result<Begin, End> {
        self.expires = Instant::now() + (request.wait * 2).max(MIN_LIFETIME);
        // The lane says first where delivery begins.
        while !self.responses.is_resumed {
            let message = self.next_of_lane().await?;
            self.responses.keep(message);
        }
        let is_first = !std::mem::replace(&mut self.responses.is_used, true);
        // The first request has the connection that was opened for it. What does not fit is a gap.
        let or_first = if is_first { Begin::Wait } else { Begin::Reopen };
        let is_of_log = |position: &Position| position.epoch == self.greeting.epoch;
        if !request.ack.iter().chain(&request.after).all(is_of_log) {
            return Ok(or_first);
        }
        let after = request.after.as_ref().map(|after| after.sequence);
        if is_first
            && let Some(after) = after
            && !self.responses.continue_after(after)
        {
            return Ok(Begin::Rewind);
        }
        let ack = request.ack.as_ref().map(|ack| ack.sequence);
        self.responses.stated(after.max(ack));
        if ack.is_some_and(|ack| ack > self.responses.position) {
            return Ok(or_first);
        }
        let is_of_this = request.snapshot.map(|it| it == self.greeting.connection_id);
        if let Some(ack) = ack.filter(|_| self.responses.may_confirm(is_of_this)) {
            self.applied(ack).await?;
        }
        if self.responses.may_repeat_gap(after, is_of_this) {
            return Ok(Begin::Gap);
        }
        let is_there = after.unwrap_or(self.responses.acked) == self.responses.position;
        if !is_there {
            return Ok(or_first);
        }
        self.read_again().await?;
        Ok(Begin::Wait)
    }

    /// Lets the lane read the events again that have waited for a request for too long.
    async fn read_again(&mut self) -> Result<(), End> {
        while let Ok(message) = self.end.events.try_recv() {
            self.responses.keep(*message);
        }
        let is_fresh = self.kept_since.is_some_and(|since| since.elapsed() < MAX_KEPT_TIME);
        self.kept_since = Some(Instant::now());
        if is_fresh && !self.responses.has_expired(Timestamp::now()) {
            return Ok(());
        }
        // Without events there may be a gap, which stays one.
        let Some(first) = self.responses.first_kept() else { return Ok(()) };
        self.report(Incoming::Unsent(first)).await?;
        loop {
            // What was passed before the lane knew that.
            if let Outgoing::Resumed(resumed) = self.next_of_lane().await? {
                self.responses.restart(&resumed);
                return Ok(());
            }
        }
    }

    /// The next message of the lane, unless it ends the connection.
    async fn next_of_lane(&mut self) -> Result<Outgoing, End> {
        loop {
            tokio::select! {
                biased;
                message = self.end.events.recv() => {
                    return message.map(|message| *message).ok_or_else(|| LaneGone.into());
                }
                control = self.end.control.recv() => match control {
                    Some(Control::Probe | Control::Drain(_)) => {}
                    Some(Control::Close(reason)) => return Err(reason.into()),
                    Some(Control::Violation(violation)) => return Err(violation.into()),
                    None => return Err(LaneGone.into()),
                },
            }
        }
    }

    fn wait(request: &Request, reply: oneshot::Sender<Reply>) -> Waiting {
        let since = Instant::now();
        let (max, until) = (request.max.max(1), since + request.wait);
        Waiting { max, since, until, gap_at: None, reply }
    }

    /// Answers with what the lane has passed, or waits if that is nothing for the gateway.
    async fn respond(&mut self, waiting: &mut Option<Waiting>) -> Result<(), LaneGone> {
        let max = waiting.as_ref().map_or(0, |waiting| waiting.max);
        while self.responses.len() < max
            && let Ok(message) = self.end.events.try_recv()
        {
            self.responses.keep(*message);
        }
        if let Some(to) = self.responses.confirmable() {
            self.report(Incoming::Applied(to)).await?;
        }
        let Some(Next { events, count, position, gap }) = self.responses.next(self.greeting, max)
        else {
            return Ok(());
        };
        let Some(Waiting { reply, .. }) = waiting.take() else { return Ok(()) };
        let (first, is_confirmed) = (self.responses.first_kept(), self.responses.is_confirmed());
        // Fails if the gateway has given the request up. It has seen none of the response then.
        if reply.send(Reply::Events(events)).is_ok() {
            self.responses.returned(count, position, gap);
            if self.responses.len() == 0 && self.end.events.is_empty() {
                self.kept_since = self.kept_since.and(Some(Instant::now()));
            }
            self.extend_expiry();
            if let Some(first) = first.filter(|_| is_confirmed) {
                // The time to confirm it begins now, not when the lane passed it.
                self.report(Incoming::Postponed(first)).await?;
            }
        }
        Ok(())
    }

    /// Reports the gateway as alive, which it is until the connection expires.
    async fn report_alive(&mut self, is_waiting: bool) -> Result<(), LaneGone> {
        let mut alive = Incoming::Alive;
        if !is_waiting && self.responses.is_confirmed() {
            while let Ok(message) = self.end.events.try_recv() {
                self.responses.keep(*message);
            }
            // Events that wait for a request are not overdue.
            if let Some(first) = self.responses.first_kept() {
                alive = Incoming::Postponed(first);
            }
        }
        if let Some(to) = self.responses.confirmable() {
            self.report(Incoming::Applied(to)).await?;
        }
        // A full queue has other signs of life.
        let _ = self.end.incoming.try_send(alive);
        Ok(())
    }

    /// Passes on what the gateway has sent. It may be about what it has, even if the lane has not passed
    /// that on this connection. More than that is a violation, even if the lane has passed it.
    async fn pass(&mut self, message: Incoming) -> Result<(), End> {
        let about = match &message {
            Incoming::Applied(sequence)
            | Incoming::Receipt(sequence)
            | Incoming::Progress(sequence) => Some(*sequence),
            Incoming::Nack(nack) => Some(nack.sequence),
            _ => None,
        };
        if let Some(sequence) = about.filter(|sequence| *sequence > self.responses.position) {
            return Err(Violation::BeyondSent(sequence).into());
        }
        match message {
            Incoming::Applied(sequence) => self.applied(sequence).await?,
            Incoming::Receipt(sequence) => {
                self.report(Incoming::Receipt(sequence.min(self.responses.passed))).await?;
            }
            message => {
                if let Incoming::Credit(_) = message {
                    // The lane has passed some events without regard to it.
                    self.kept_since = None;
                }
                self.report(message).await?;
            }
        }
        Ok(())
    }

    /// The gateway has applied everything up to here.
    async fn applied(&mut self, ack: Sequence) -> Result<(), LaneGone> {
        match self.responses.acked(ack) {
            Some(to) => self.report(Incoming::Applied(to)).await,
            None => Ok(()),
        }
    }

    /// Sends a message to the lane.
    async fn report(&self, message: Incoming) -> Result<(), LaneGone> {
        self.end.incoming.send(message).await.map_err(|_| LaneGone)
    }
}
