//! WebSocket in plain mode, for unmodified gateways.
//!
//! Such a gateway handles one frame after another and echoes the payload of each ping. So event
//! frames are followed by pings that contain the sequence of the last event, and a pong is a
//! receipt for everything up to that sequence. The [`cadence`] decides which events have a ping
//! before them. A ping always follows the last event of a burst.
//!
//! Reading and writing are concurrent, and neither waits for the other.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::write_timeout::within;
use super::{Control, Greeting, Incoming, Outgoing, TransportEnd, Violation, frame};
use crate::clock::Timestamp;
use crate::event::{Epoch, Reason, Sequence};

mod cadence;
mod drive;
mod reading;
mod receipts;
pub mod reliable;

use cadence::PingBefore;
use drive::{Close, Due, Timeouts, WriteEnd, drive};
use reading::{Malformed, read};
use receipts::Receipts;

/// The transport's name in the database, the API and the logs.
pub const NAME: &str = "websocket";

/// Events are gathered up to this many bytes before they are flushed. The socket's
/// write buffer should hold as much, so that a burst is one write and one TLS
/// record (RFC 8446, section 5.1, limits a record to this size).
pub const BURST_BYTES: usize = 16 * 1024;

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// For a write: the peer must read it within this time.
    pub write_timeout: Duration,
    /// For the peer's part of the close handshake.
    pub close_timeout: Duration,
    /// For the confirmation of an event. Events that share a ping must be
    /// expected to be handled well within it.
    pub confirmation_timeout: Duration,
}

/// Runs a socket to its end.
pub async fn run(socket: WebSocket, greeting: Greeting, end: TransportEnd, settings: Settings) {
    let TransportEnd { events, control, incoming } = end;
    let (sink, stream) = socket.split();
    let receipts = Mutex::new(Receipts::new(settings.confirmation_timeout));
    let mut writer = Writer {
        sink,
        events,
        control,
        receipts: &receipts,
        epoch: greeting.epoch,
        first: Some(frame::connection_ack(greeting, Timestamp::now())),
        due: Due::default(),
        settings,
    };
    let reader = read(stream, &incoming, &receipts, settings.close_timeout);
    let timeouts = Timeouts { write: settings.write_timeout, close: settings.close_timeout };
    let mut ended = drive(&mut writer, reader, timeouts).await;
    ended.shared = locked(&receipts).shared();
    // Fails if the lane has ended, so that no one needs the report.
    let _ = incoming.send(Incoming::Ended(Box::new(ended))).await;
}

/// The lock is never held across an await, and never contended: one task reads and writes.
fn locked(receipts: &Mutex<Receipts>) -> MutexGuard<'_, Receipts> {
    receipts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The close code for a reason.
const fn code_of(reason: Reason) -> u16 {
    match reason {
        Reason::Shutdown => close_code::AWAY,
        Reason::TokenRevoked | Reason::GatewayDisabled | Reason::GatewayDeleted => {
            close_code::POLICY
        }
        Reason::NodeLost => close_code::AGAIN,
        Reason::ProtocolError => close_code::PROTOCOL,
        Reason::HeartbeatTimeout | Reason::ConfirmationTimeout | Reason::WriteTimeout => {
            close_code::ERROR
        }
        _ => close_code::NORMAL,
    }
}

/// How the service closes a connection.
struct Closing {
    code: u16,
    text: &'static str,
    reason: Reason,
}

impl From<Reason> for Closing {
    fn from(reason: Reason) -> Self {
        Self { code: code_of(reason), text: reason.as_str(), reason }
    }
}

impl From<Violation> for Closing {
    fn from(_: Violation) -> Self {
        Reason::ProtocolError.into()
    }
}

impl From<&Malformed> for Closing {
    fn from(&Malformed { code, detail }: &Malformed) -> Self {
        Self { code, text: detail, reason: Reason::ProtocolError }
    }
}

impl Close for Closing {
    fn reason(&self) -> Reason {
        self.reason
    }
}

struct Writer<'a> {
    sink: SplitSink<WebSocket, Message>,
    events: mpsc::Receiver<Box<Outgoing>>,
    control: mpsc::Receiver<Control>,
    receipts: &'a Mutex<Receipts>,
    epoch: Epoch,
    /// The first frame, until it is written.
    first: Option<Bytes>,
    due: Due,
    settings: Settings,
}

impl drive::Writer for Writer<'_> {
    type Close = Closing;

    async fn run(&mut self) -> WriteEnd<Closing> {
        let Some(first) = self.first.take().and_then(text) else {
            return WriteEnd::Failed("the first frame is not UTF-8".to_owned());
        };
        let mut event = None;
        let mut first = Some(first);
        loop {
            let sent = tokio::select! {
                biased;
                // A close does not wait for the write; a ping does.
                closing = self.due.closed(&mut self.control) => {
                    return WriteEnd::Closed(closing);
                }
                sent = within(
                    self.settings.write_timeout,
                    Burst { sink: &mut self.sink, receipts: self.receipts, epoch: self.epoch }
                        .write(first.take(), event.take(), &mut self.events),
                ) => sent,
            };
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return WriteEnd::Failed(error.to_string()),
                Err(_) => return WriteEnd::TimedOut,
            }
            event = match self.next().await {
                Next::Event(outgoing) => Some(outgoing),
                Next::Ping => match self.ping().await {
                    Some(end) => return end,
                    None => None,
                },
                Next::Close(closing) => return WriteEnd::Closed(closing),
            };
        }
    }

    async fn close(&mut self, Closing { code, text, .. }: Closing) {
        let close = CloseFrame { code, reason: Utf8Bytes::from_static(text) };
        let sending = self.sink.send(Message::Close(Some(close)));
        match timeout(self.settings.close_timeout, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "failed to send the close frame"),
            Err(_) => tracing::debug!("the close frame was not read"),
        }
    }
}

impl Writer<'_> {
    /// Waits for something to write. Control messages overtake events.
    async fn next(&mut self) -> Next {
        loop {
            // There is no frame for a drain in plain mode.
            let has_drain = self.due.drain.take().is_some();
            if std::mem::take(&mut self.due.ping) || has_drain {
                return Next::Ping;
            }
            tokio::select! {
                biased;
                control = self.control.recv() => {
                    if let Some(closing) = self.due.note(control) {
                        return Next::Close(closing);
                    }
                }
                Some(outgoing) = self.events.recv() => return Next::Event(outgoing),
            }
        }
    }

    async fn ping(&mut self) -> Option<WriteEnd<Closing>> {
        let ping = ping(locked(self.receipts).last());
        match within(self.settings.write_timeout, self.sink.send(ping)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(WriteEnd::Failed(error.to_string())),
            Err(_) => Some(WriteEnd::TimedOut),
        }
    }
}

enum Next {
    Event(Box<Outgoing>),
    Ping,
    Close(Closing),
}

/// One write of all waiting events.
struct Burst<'a> {
    sink: &'a mut SplitSink<WebSocket, Message>,
    receipts: &'a Mutex<Receipts>,
    epoch: Epoch,
}

impl Burst<'_> {
    /// Writes the waiting events with their pings, and flushes once.
    async fn write(
        self,
        first: Option<Message>,
        event: Option<Box<Outgoing>>,
        events: &mut mpsc::Receiver<Box<Outgoing>>,
    ) -> Result<(), axum::Error> {
        let mut next = event;
        let mut bytes = 0;
        if let Some(first) = first {
            self.sink.feed(first).await?;
            bytes = BURST_BYTES;
        }
        let mut is_pinged = true;
        while let Some(outgoing) = next.take() {
            // A lane passes nothing else in plain mode.
            let Outgoing::Event(outgoing) = *outgoing else { continue };
            let (ping_before, last) = {
                let mut receipts = locked(self.receipts);
                (receipts.plan(&outgoing, is_pinged, Instant::now()), receipts.last())
            };
            if ping_before == PingBefore::Always || ping_before == PingBefore::Between && !is_pinged
            {
                self.sink.feed(ping(last)).await?;
            }
            let frame = frame::event_text(&outgoing.event, outgoing.sequence, self.epoch);
            bytes += frame.len();
            let Some(frame) = text(frame) else {
                return Err(axum::Error::new(std::io::Error::other("an event frame is not UTF-8")));
            };
            self.sink.feed(frame).await?;
            locked(self.receipts).wrote(outgoing.sequence);
            if bytes < BURST_BYTES {
                next = events.try_recv().ok();
            }
            is_pinged = false;
        }
        if !is_pinged {
            let last = locked(self.receipts).last();
            self.sink.feed(ping(last)).await?;
        }
        self.sink.flush().await
    }
}

fn text(frame: Bytes) -> Option<Message> {
    Utf8Bytes::try_from(frame).ok().map(Message::Text)
}

/// A ping. Before the first event it contains no sequence, and its pong confirms nothing. Which pong
/// is a receipt is decided by [`reading::receipt`], and what it confirms by the window.
fn ping(last: Option<Sequence>) -> Message {
    let payload = last.map_or_else(Bytes::new, |sequence| sequence.to_string().into());
    Message::Ping(payload)
}

/// Serves a real socket over loopback, for tests. Returns the client's end.
#[cfg(test)]
async fn served(
    end: TransportEnd,
    settings: Settings,
) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = std::sync::Mutex::new(Some(end));
    let upgrade = move |upgrade: axum::extract::ws::WebSocketUpgrade| {
        let end = end.lock().unwrap().take().unwrap();
        let run = move |socket| run(socket, tests::GREETING, end, settings);
        std::future::ready(upgrade.max_message_size(1024).max_frame_size(1024).on_upgrade(run))
    };
    let upgrade = std::sync::Arc::new(upgrade);
    let route = axum::routing::get(move |given| upgrade(given));
    let app = axum::Router::new().route("/", route);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(format!("ws://{address}/"), tcp).await.unwrap().0
}

#[cfg(test)]
mod tests;
