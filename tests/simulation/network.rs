//! The network between clients of reliable mode and nodes: a transport in memory with delays, whose
//! connections can break, with or without notice. What is in flight is lost then. Frames arrive in
//! order, as over TCP. Its server side serves a link, as every transport does, and watches the lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::client::reliable::{Closed, ConnectError, Link, Received, Transport};
use gateway_events::clock::Timestamp;
use gateway_events::event::Reason;
use gateway_events::transport::frames::{EventFrame, GatewayFrame, Hello, ServerFrame};
use gateway_events::transport::reliable::{
    Closing, Encoding, close_code, connection_ack, incoming, request,
};
use gateway_events::transport::{
    Control, Ended, Incoming, Outgoing, OutgoingEvent, TransportEnd, link,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::bugs::Bug;
use crate::promises;
use crate::service::Service;
use crate::watch::Watch;
use crate::world::{Id, World, note, one_in};

/// Frames that may be on their way, per direction.
const IN_FLIGHT: usize = 24;
/// A peer that takes nothing for this long has gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The size of the largest frame, which clients don't check.
const FRAME_BYTES: u64 = 1 << 20;
/// How long the service waits for the peer's part of a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection, as the network sees it.
#[derive(Default)]
pub(crate) struct Line {
    /// Both sides learn that it is broken.
    is_reset: AtomicBool,
    /// Nothing passes any more, and no side learns it.
    is_silent: AtomicBool,
    changed: Notify,
}

impl Line {
    pub(crate) fn reset(&self) {
        self.is_reset.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn silence(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Waits until both sides learn that it is broken.
    async fn was_reset(&self) {
        if self.has_failed().await {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until it is broken; whether no side learns it.
    pub(crate) async fn has_failed(&self) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_silent() || self.is_reset.load(Ordering::Relaxed) {
                return self.is_silent();
            }
            changed.await;
        }
    }
}

/// How long a frame takes.
pub(crate) fn delay() -> Duration {
    let usual = fastrand::u64(1..20);
    Duration::from_millis(if one_in(20) { fastrand::u64(100..1500) } else { usual })
}

/// What the service sends.
enum FromService {
    Frame(ServerFrame),
    Ping,
    Close(u16, Reason),
}

/// What a gateway sends.
enum FromGateway {
    Frame(GatewayFrame),
    Pong,
    Close,
}

/// One direction of a connection.
struct Receiver<T> {
    frames: mpsc::Receiver<(Instant, T)>,
    next: Option<(Instant, T)>,
}

impl<T> Receiver<T> {
    /// The next frame, when it arrives; `None` if the sender has gone. Cancel-safe.
    async fn next(&mut self, line: &Line) -> Option<T> {
        if line.is_silent() {
            return std::future::pending().await;
        }
        if self.next.is_none() {
            self.next = Some(self.frames.recv().await?);
        }
        if let Some((at, _)) = &self.next {
            sleep_until(*at).await;
        }
        if line.is_silent() {
            return std::future::pending().await;
        }
        self.next.take().map(|(_, frame)| frame)
    }
}

/// Connects a replica to any node.
pub(crate) struct SimTransport {
    pub(crate) world: Arc<World>,
    pub(crate) service: Arc<Service>,
    pub(crate) id: Id,
}

#[async_trait]
impl Transport for SimTransport {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let (world, id) = (&self.world, self.id);
        let failed = |why: &str| {
            note!(world, world.label(id), "connect: {why}");
            Err(ConnectError::Failed(why.to_owned()))
        };
        sleep_until(Instant::now() + delay()).await;
        let Some(node) = self.service.any() else { return failed("no node listens") };
        if world.is_faulty() && one_in(12) {
            return failed("the connection was refused on the way");
        }
        let refused = || ConnectError::Refused { status: 503, retry_after: None };
        let permit = node.dispatcher.try_admit().ok_or_else(refused)?;
        let admission = self.service.admission(id.gateway);
        let Ok(greeted) = node.dispatcher.greet(permit, admission).await else {
            return Err(refused());
        };
        let greeting = greeted.greeting();
        let ack = ServerFrame::Ack(connection_ack(&greeting, FRAME_BYTES, Timestamp::now()));
        sleep_until(Instant::now() + delay()).await;
        if world.is_faulty() && one_in(20) {
            return failed("the connection broke before the hello arrived");
        }
        note!(world, world.label(id), "connects to node {}: {:?}", node.number, shown(hello));
        let watch = Watch::begin(Arc::clone(world), id, hello);
        let session = match greeted.open(request(hello.clone())).await {
            Ok(session) => session,
            Err(error) => return failed(&format!("the service can't open it: {error}")),
        };
        promises::accepted(world, id);
        let (of_lane, end) = link();
        session.start(of_lane);
        let line = Arc::new(Line::default());
        world.state().lines.push((id, Arc::clone(&line)));
        let (down, frames) = mpsc::channel(IN_FLIGHT);
        let _ = down.try_send((Instant::now() + delay(), FromService::Frame(ack)));
        let (up, from_gateway) = mpsc::channel(IN_FLIGHT);
        let socket = Socket {
            line: Arc::clone(&line),
            down,
            up: Receiver { frames: from_gateway, next: None },
            end,
            encoding: Encoding { epoch: greeting.greeting.epoch, envelope: hello.envelope },
            node: node.number,
            last_at: Instant::now(),
            waiting: None,
            watch,
        };
        let stopped = node.down.clone();
        tokio::spawn(async move {
            // The sockets of a node that crashes are reset, if its host lives.
            let line = Arc::clone(&socket.line);
            if stopped.run_until_cancelled(socket.run()).await.is_none() {
                if one_in(3) { line.silence() } else { line.reset() }
            }
        });
        let frames = Receiver { frames, next: None };
        let (world, last_at) = (Arc::clone(world), Instant::now());
        Ok(Box::new(SimLink { world, id, line, frames, up, last_at }))
    }
}

fn shown(hello: &Hello) -> impl std::fmt::Debug {
    use gateway_events::transport::frames::Resume;
    match &hello.resume {
        Resume::After(position) => format!("after {}", position.sequence),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// The gateway's side.
struct SimLink {
    world: Arc<World>,
    id: Id,
    line: Arc<Line>,
    frames: Receiver<FromService>,
    up: mpsc::Sender<(Instant, FromGateway)>,
    /// When the last frame arrives: they don't overtake each other.
    last_at: Instant,
}

#[async_trait]
impl Link for SimLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        let line = Arc::clone(&self.line);
        let down = tokio::select! {
            biased;
            () = line.was_reset() => return Err(Closed::lost("reset")),
            down = self.frames.next(&line) => down,
        };
        match down {
            None => Err(Closed::lost("the service ended the connection")),
            Some(FromService::Close(code, reason)) => {
                note!(self.world, self.world.label(self.id), "closed with {code} ({reason})");
                Err(Closed { code: Some(code), why: reason.to_string() })
            }
            Some(FromService::Ping) => {
                let at = self.arrival();
                let _ = self.up.try_send((at, FromGateway::Pong));
                Ok(Received::Alive)
            }
            Some(FromService::Frame(frame)) => {
                note!(self.world, self.world.label(self.id), "< {}", frame_text(&frame));
                Ok(Received::Frame(frame))
            }
        }
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        for frame in frames {
            note!(self.world, self.world.label(self.id), "> {}", gateway_text(frame));
            crate::promises::said(&self.world, self.id, frame);
            let at = self.arrival();
            let sent =
                timeout(WRITE_TIMEOUT, self.up.send((at, FromGateway::Frame(frame.clone())))).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Closed::lost("reset")),
                Err(_) => return Err(Closed::lost("the service does not read")),
            }
        }
        Ok(())
    }

    async fn close(&mut self) {
        note!(self.world, self.world.label(self.id), "> close");
        let at = self.arrival();
        let _ = self.up.try_send((at, FromGateway::Close));
    }
}

impl SimLink {
    fn arrival(&mut self) -> Instant {
        self.last_at = self.last_at.max(Instant::now() + delay());
        self.last_at
    }
}

pub(crate) fn frame_text(frame: &ServerFrame) -> String {
    match frame {
        ServerFrame::Ack(ack) => format!("ack head={}", ack.head),
        ServerFrame::Resumed(it) => format!("resumed from={} head={}", it.from, it.head),
        ServerFrame::Event(it) => {
            format!("event {} previous={} attempt={}", it.sequence, it.previous, it.attempt)
        }
        ServerFrame::Mark(it) => format!("mark {}", it.sequence),
        ServerFrame::Gap(it) => {
            format!("gap {}..{} {} resume_at={}", it.from, it.to, it.reason.as_str(), it.resume_at)
        }
        ServerFrame::Drain(it) => format!("drain after={} ms", it.reconnect_after_ms),
        ServerFrame::Error(it) => format!("error {}: {}", it.code, it.message),
    }
}

fn gateway_text(frame: &GatewayFrame) -> String {
    match frame {
        GatewayFrame::Hello(_) => "hello".to_owned(),
        GatewayFrame::Ack(it) => match (it.received, it.applied) {
            (Some(sequence), _) => format!("received {sequence}"),
            (None, Some(sequence)) => format!("applied {sequence}"),
            (None, None) => "nothing".to_owned(),
        },
        GatewayFrame::Nack(it) if it.retryable => {
            format!("nack {} retry after {} ms", it.sequence, it.retry_after_ms.unwrap_or(0))
        }
        GatewayFrame::Nack(it) => format!("nack {} for good", it.sequence),
        GatewayFrame::Progress(it) => format!("progress {}", it.sequence),
        GatewayFrame::Credit(it) => format!("credit {:?} {:?}", it.window, it.window_bytes),
    }
}

/// The service's side.
struct Socket {
    line: Arc<Line>,
    down: mpsc::Sender<(Instant, FromService)>,
    up: Receiver<FromGateway>,
    end: TransportEnd,
    encoding: Encoding,
    node: u32,
    last_at: Instant,
    /// What waits for room on the way, and since when.
    waiting: Option<(Instant, FromService)>,
    watch: Watch,
}

/// What happens to a socket.
enum Next {
    Reset,
    Overdue,
    Sent,
    Control(Option<Control>),
    Frame(Option<FromGateway>),
    Outgoing(Option<Box<Outgoing>>),
}

impl Socket {
    async fn run(mut self) {
        let ended = self.serve().await;
        drop(self.down);
        let _ = self.end.incoming.send(Incoming::Ended(Box::new(ended))).await;
    }

    async fn serve(&mut self) -> Ended {
        loop {
            match self.next().await {
                Next::Reset => return Ended::new(Reason::ConnectionLost, "reset".to_owned(), true),
                Next::Overdue => {
                    return Ended::new(Reason::WriteTimeout, "nothing was read".to_owned(), false);
                }
                Next::Sent => {}
                Next::Control(control) => {
                    if let Some(closing) = self.control(control) {
                        return self.close(closing).await;
                    }
                }
                Next::Frame(Some(frame)) => {
                    if let Some(end) = self.receive(frame).await {
                        return end;
                    }
                }
                Next::Frame(None) => {
                    let detail = "the peer has gone".to_owned();
                    return Ended::new(Reason::ConnectionLost, detail, true);
                }
                Next::Outgoing(Some(outgoing)) => self.outgoing(*outgoing).await,
                Next::Outgoing(None) => return self.close(Reason::Shutdown.into()).await,
            }
        }
    }

    async fn next(&mut self) -> Next {
        let Self { line, down, up, end, waiting, last_at, .. } = self;
        let full_since = waiting.as_ref().map(|(since, _)| *since);
        tokio::select! {
            biased;
            () = line.was_reset() => Next::Reset,
            control = end.control.recv() => Next::Control(control),
            frame = up.next(line) => Next::Frame(frame),
            Ok(place) = down.reserve(), if full_since.is_some() => {
                if let Some((_, packet)) = waiting.take() {
                    *last_at = (*last_at).max(Instant::now() + delay());
                    place.send((*last_at, packet));
                }
                Next::Sent
            }
            () = until(full_since.map(|since| since + WRITE_TIMEOUT)) => Next::Overdue,
            outgoing = end.events.recv(), if full_since.is_none() => Next::Outgoing(outgoing),
        }
    }

    async fn outgoing(&mut self, outgoing: Outgoing) {
        let Some(outgoing) = self.watch.inject(outgoing) else { return };
        let frame = frame(outgoing, self.encoding);
        self.watch.sent(&frame);
        if let ServerFrame::Gap(gap) = &frame
            && self.watch.has(Bug::ResumePastGap)
        {
            let _ = self.end.incoming.send(Incoming::Applied(gap.resume_at)).await;
        }
        self.waiting = Some((Instant::now(), FromService::Frame(frame)));
    }

    /// Handles a control message; returns the reason if the connection is to be closed.
    fn control(&mut self, control: Option<Control>) -> Option<Closing> {
        let at = self.last_at.max(Instant::now() + delay());
        match control {
            Some(Control::Probe) => drop(self.down.try_send((at, FromService::Ping))),
            Some(Control::Drain(drain)) => {
                let drain = ServerFrame::Drain((*drain).into());
                let _ = self.down.try_send((at, FromService::Frame(drain)));
            }
            Some(Control::Close(reason)) => return Some(reason.into()),
            Some(Control::Violation(violation)) => return Some(violation.into()),
            None => return Some(Reason::Shutdown.into()),
        }
        self.last_at = at;
        None
    }

    async fn receive(&mut self, frame: FromGateway) -> Option<Ended> {
        let frame = match frame {
            FromGateway::Pong => {
                let _ = self.end.incoming.send(Incoming::Alive).await;
                return None;
            }
            FromGateway::Close => {
                let why = "the gateway closed the connection".to_owned();
                return Some(Ended::new(Reason::ClosedByGateway, why, false));
            }
            FromGateway::Frame(frame) => frame,
        };
        let is_ignored = match &frame {
            GatewayFrame::Credit(_) => self.watch.has(Bug::IgnoreCredit),
            GatewayFrame::Progress(_) => self.watch.has(Bug::IgnoreProgress),
            _ => false,
        };
        self.watch.received(&frame, self.node);
        if !is_ignored && let Ok(messages) = incoming(frame) {
            for message in messages {
                let _ = self.end.incoming.send(message).await;
            }
        }
        None
    }

    async fn close(&mut self, Closing { reason, error }: Closing) -> Ended {
        self.watch.closing(reason, error.as_ref());
        let at = self.last_at.max(Instant::now() + delay());
        if let Some(error) = error {
            let _ = self.down.try_send((at, FromService::Frame(ServerFrame::Error(error))));
        }
        let _ = self.down.try_send((at, FromService::Close(close_code(reason), reason)));
        // What the peer has sent before it reads this still counts.
        let by = Instant::now() + CLOSE_TIMEOUT;
        loop {
            tokio::select! {
                biased;
                () = self.line.was_reset() => break,
                frame = self.up.next(&self.line) => match frame {
                    Some(frame) => if self.receive(frame).await.is_some() { break },
                    None => break,
                },
                () = sleep_until(by) => break,
            }
        }
        Ended::new(reason, String::new(), false)
    }
}

/// The frame of a message to the peer.
pub(crate) fn frame(outgoing: Outgoing, encoding: Encoding) -> ServerFrame {
    match outgoing {
        Outgoing::Event(OutgoingEvent { sequence, previous, attempt, event, .. }) => {
            ServerFrame::Event(Box::new(EventFrame {
                event_type: event.event_type.clone(),
                payload: event.payload.clone(),
                timestamp: event.occurred_at,
                correlation_id: event.correlation_id.clone(),
                user_id: event.user_id.clone(),
                event_id: event.id.clone(),
                sequence,
                previous,
                epoch: encoding.epoch,
                attempt,
                expires_at: event.expires_at,
                traceparent: None,
                attributes: None,
            }))
        }
        Outgoing::Resumed(it) => ServerFrame::Resumed(encoding.resumed(it)),
        Outgoing::Mark(it) => ServerFrame::Mark(it.into()),
        Outgoing::Gap(it) => ServerFrame::Gap(it.as_ref().into()),
    }
}

pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
