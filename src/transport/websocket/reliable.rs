//! WebSocket in reliable mode: one JSON object per text frame, in both directions. Pings are signs of
//! life only.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::frames::{ErrorCode, FrameError, GatewayFrame, Hello, ServerFrame};
use super::super::reliable::{self, Closing, Encoding};
use super::super::write_timeout::within;
use super::super::{
    Control, DeliveryRequest, Incoming, InvalidMessage, Outgoing, ReliableGreeting, TransportEnd,
};
use super::drive::{self, Close, Due, Timeouts, WriteEnd, drive};
use super::reading::{Malformed, ReadEnd, broken, closed_by_peer};
use super::{BURST_BYTES, text};
use crate::clock::Timestamp;
use crate::event::Reason;

/// The name of WebSocket in reliable mode.
pub const NAME: &str = "websocket.v1";

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The peer must read a write within this time.
    pub write_timeout: Duration,
    /// Timeout of the peer's part of the close handshake.
    pub close_timeout: Duration,
    /// The size of the largest frame.
    pub frame_bytes: u64,
}

/// A socket whose gateway was greeted.
pub struct Greeted {
    sink: SplitSink<WebSocket, Message>,
    stream: SplitStream<WebSocket>,
    encoding: Encoding,
    settings: Settings,
}

/// Greets a gateway and waits for its hello. `None` if the connection has ended meanwhile; `stopped`
/// closes it.
pub async fn greet(
    socket: WebSocket,
    greeting: &ReliableGreeting,
    settings: Settings,
    stopped: impl Future<Output = Reason>,
) -> Option<(Greeted, DeliveryRequest)> {
    let (sink, stream) = socket.split();
    let encoding = Encoding { epoch: greeting.greeting.epoch, envelope: None };
    let mut greeted = Greeted { sink, stream, encoding, settings };
    let deadline = Instant::now() + greeting.hello_timeout;
    let ack = reliable::connection_ack(greeting, settings.frame_bytes, Timestamp::now());
    let ack = ServerFrame::Ack(ack).to_text();
    let sent = within(settings.write_timeout, greeted.sink.send(text(ack)?)).await;
    if !matches!(sent, Ok(Ok(()))) {
        return None;
    }
    let hello = tokio::select! {
        biased;
        reason = stopped => Err(Closing::from(reason)),
        hello = timeout_at(deadline, first_frame(&mut greeted.stream)) => match hello {
            Ok(Some(Ok(hello))) => Ok(hello),
            Ok(Some(Err(error))) => Err(Closing::from(&error)),
            Ok(None) => return None,
            Err(_) => {
                let message = "connection.hello did not arrive in time";
                Err(Closing::from(&FrameError::new(ErrorCode::HelloTimeout, message)))
            }
        },
    };
    match hello {
        Ok(hello) => {
            greeted.encoding.envelope = hello.envelope;
            Some((greeted, reliable::request(hello)))
        }
        Err(closing) => {
            let (code, reason) = (reliable::close_code(closing.reason), closing.reason);
            tracing::info!(code, %reason, "no hello from a gateway");
            greeted.close(closing).await;
            None
        }
    }
}

/// The hello. `None` if the connection has ended.
async fn first_frame(stream: &mut SplitStream<WebSocket>) -> Option<Result<Hello, FrameError>> {
    loop {
        let parsed = match stream.next().await? {
            Ok(Message::Text(text)) => GatewayFrame::parse(text.as_bytes()),
            Ok(Message::Binary(_)) => Err(binary()),
            Ok(Message::Ping(_) | Message::Pong(_)) => continue,
            Ok(Message::Close(_)) => return None,
            Err(error) => match unreadable(error) {
                ReadEnd::Violation(error) => Err(error),
                _ => return None,
            },
        };
        return Some(match parsed {
            Ok(Some(GatewayFrame::Hello(hello))) => Ok(hello),
            Ok(Some(_)) => Err(FrameError::new(
                ErrorCode::HelloExpected,
                "the first frame must be connection.hello",
            )),
            // Unknown types are ignored.
            Ok(None) => continue,
            Err(error) => Err(error),
        });
    }
}

fn binary() -> FrameError {
    FrameError::new(ErrorCode::MalformedFrame, "a binary message instead of text")
}

/// What a failed read means: a violation, or the end of the connection.
fn unreadable(error: axum::Error) -> ReadEnd<FrameError> {
    broken(error).map_violation(|Malformed { code, detail }| {
        let is_size = code == close_code::SIZE;
        let code = if is_size { ErrorCode::FrameTooLarge } else { ErrorCode::MalformedFrame };
        FrameError::new(code, detail)
    })
}

impl Greeted {
    /// Closes the connection before it has a lane.
    pub async fn close(mut self, closing: Closing) {
        let wait = self.settings.close_timeout;
        let ending = async {
            send_close(&mut self.sink, closing, wait).await;
            // The peer's answer.
            while let Some(Ok(_)) = self.stream.next().await {}
        };
        let _ = timeout(wait, ending).await;
    }

    /// Runs the socket to its end.
    pub async fn run(self, end: TransportEnd) {
        let Self { sink, stream, encoding, settings } = self;
        let TransportEnd { events, control, incoming } = end;
        let due = Due::default();
        let mut writer = Writer { sink, events, control, encoding, due, settings };
        let reader = read(stream, &incoming, settings.close_timeout);
        let timeouts = Timeouts { write: settings.write_timeout, close: settings.close_timeout };
        let ended = drive(&mut writer, reader, timeouts).await;
        // Fails if the lane has ended, so that no one needs the report.
        let _ = incoming.send(Incoming::Ended(Box::new(ended))).await;
    }
}

/// Reads to the end. A slow lane slows the reading down.
async fn read(
    mut stream: SplitStream<WebSocket>,
    incoming: &mpsc::Sender<Incoming>,
    close_timeout: Duration,
) -> ReadEnd<FrameError> {
    while let Some(message) = stream.next().await {
        let received = match message {
            Ok(Message::Text(text)) => match GatewayFrame::parse(text.as_bytes()) {
                Ok(Some(frame)) => match reliable::incoming(frame) {
                    Ok(messages) => {
                        for message in messages {
                            if incoming.send(message).await.is_err() {
                                return ReadEnd::LaneGone;
                            }
                        }
                        continue;
                    }
                    Err(error) => return ReadEnd::Violation(error),
                },
                Ok(None) => Incoming::Invalid(InvalidMessage::UnknownType),
                Err(error) => return ReadEnd::Violation(error),
            },
            Ok(Message::Ping(_) | Message::Pong(_)) => Incoming::Alive,
            Ok(Message::Binary(_)) => return ReadEnd::Violation(binary()),
            Ok(Message::Close(frame)) => {
                return closed_by_peer(stream, incoming, close_timeout, frame).await;
            }
            Err(error) => return unreadable(error),
        };
        if incoming.send(received).await.is_err() {
            return ReadEnd::LaneGone;
        }
    }
    ReadEnd::Lost("the stream ended without a close frame".to_owned())
}

struct Writer {
    sink: SplitSink<WebSocket, Message>,
    events: mpsc::Receiver<Box<Outgoing>>,
    control: mpsc::Receiver<Control>,
    encoding: Encoding,
    due: Due,
    settings: Settings,
}

impl Close for Closing {
    fn reason(&self) -> Reason {
        self.reason
    }
}

impl drive::Writer for Writer {
    type Close = Closing;

    async fn run(&mut self) -> WriteEnd<Closing> {
        loop {
            self.announce_drain().await;
            let mut first = None;
            if !self.due.ping {
                tokio::select! {
                    biased;
                    control = self.control.recv() => {
                        if let Some(closing) = self.due.note(control) {
                            return WriteEnd::Closed(closing);
                        }
                    }
                    Some(outgoing) = self.events.recv() => first = Some(outgoing),
                }
            }
            let Self { sink, events, control, encoding, due, settings } = self;
            let ping = std::mem::take(&mut due.ping).then(|| Message::Ping(Bytes::new()));
            let writing = write(sink, ping, first, events, *encoding);
            let writing = within(settings.write_timeout, writing);
            let written = tokio::select! {
                biased;
                // A close does not wait for the write; everything else does.
                closing = due.closed(control) => Err(closing),
                written = writing => Ok(written),
            };
            match written {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => return WriteEnd::Failed(error.to_string()),
                Ok(Err(_)) => return WriteEnd::TimedOut,
                Err(closing) => {
                    self.announce_drain().await;
                    return WriteEnd::Closed(closing);
                }
            }
        }
    }

    async fn close(&mut self, closing: Closing) {
        send_close(&mut self.sink, closing, self.settings.close_timeout).await;
    }
}

impl Writer {
    /// Asks the peer to reconnect, if that is due. The close that follows waits for it.
    async fn announce_drain(&mut self) {
        if let Some(drain) = self.due.drain.take()
            && let Some(message) = text(ServerFrame::Drain((*drain).into()).to_text())
        {
            // An error is found by the next write.
            let _ = timeout(self.settings.close_timeout, self.sink.send(message)).await;
        }
    }
}

/// Writes the waiting messages, up to a limit, and flushes once.
async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    ping: Option<Message>,
    first: Option<Box<Outgoing>>,
    events: &mut mpsc::Receiver<Box<Outgoing>>,
    encoding: Encoding,
) -> Result<(), axum::Error> {
    if let Some(ping) = ping {
        sink.feed(ping).await?;
    }
    let mut next = first;
    let mut bytes = 0;
    while let Some(outgoing) = next.take() {
        let frame = encoding.text(&outgoing);
        bytes += frame.len();
        let Some(frame) = text(frame) else {
            return Err(axum::Error::new(std::io::Error::other("a frame is not UTF-8")));
        };
        sink.feed(frame).await?;
        if bytes < BURST_BYTES {
            next = events.try_recv().ok();
        }
    }
    sink.flush().await
}

/// Sends the peer the reason and the close frame, if it reads.
async fn send_close(
    sink: &mut SplitSink<WebSocket, Message>,
    Closing { reason, error }: Closing,
    limit: Duration,
) {
    let code = reliable::close_code(reason);
    let sending = async {
        if let Some(message) = error.and_then(|error| text(ServerFrame::Error(error).to_text())) {
            sink.feed(message).await?;
        }
        let reason = Utf8Bytes::from(reason.as_str());
        sink.send(Message::Close(Some(CloseFrame { code, reason }))).await
    };
    match timeout(limit, sending).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "failed to send the close frame"),
        Err(_) => tracing::debug!("the close frame was not read"),
    }
}
