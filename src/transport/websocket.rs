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
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::write_timeout::within;
use super::{Control, Ended, Greeting, Incoming, Outgoing, TransportEnd, frame};
use crate::clock::Timestamp;
use crate::event::{Epoch, Reason, Sequence};

mod cadence;
mod reading;
mod receipts;
pub mod reliable;

use cadence::PingBefore;
use reading::{ReadEnd, read};
use receipts::Receipts;

/// The transport's name in the database, the API and the logs.
pub const NAME: &str = "websocket";

/// Events are gathered up to this many bytes before they are flushed. The socket's
/// write buffer should hold as much, so that a burst is one write and one TLS
/// record (RFC 8446, section 5.1, limits a record to this size).
pub const BURST_BYTES: usize = 16 * 1024;

/// How long a peer that violated the protocol has to read the close frame.
const LINGER: Duration = Duration::from_millis(250);

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
        ping_due: false,
        settings,
    };
    let first = frame::connection_ack(greeting, Timestamp::now());
    let (reason, detail, by_peer) = drive(&mut writer, stream, &incoming, first).await;
    let shared = locked(&receipts).shared();
    // Fails if the lane has ended, so that no one needs the report.
    let _ =
        incoming.send(Incoming::Ended(Box::new(Ended { reason, detail, by_peer, shared }))).await;
}

/// The lock is never held across an await, and never contended: one task reads and writes.
fn locked(receipts: &Mutex<Receipts>) -> MutexGuard<'_, Receipts> {
    receipts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads and writes until one of them ends, then ends the other. Returns the reason, details, and
/// whether the peer's host ended it.
async fn drive(
    writer: &mut Writer<'_>,
    stream: SplitStream<WebSocket>,
    incoming: &mpsc::Sender<Incoming>,
    first: Bytes,
) -> (Reason, String, bool) {
    let settings = writer.settings;
    let mut reader =
        std::pin::pin!(read(stream, incoming, writer.receipts, settings.close_timeout));
    let written = tokio::select! {
        read = &mut reader => {
            match &read {
                ReadEnd::Violation(code, detail) => {
                    writer.close(*code, detail).await;
                    // The peer may have sent more. Closing now would reset the connection before
                    // the peer has read the close frame.
                    tokio::time::sleep(LINGER.min(settings.close_timeout)).await;
                }
                ReadEnd::LaneGone => writer.close(close_code::AWAY, "shutdown").await,
                ReadEnd::Closed(_) | ReadEnd::Lost(_) | ReadEnd::Silent(_) => {}
            }
            return read.into_end();
        }
        written = writer.run(first) => written,
    };
    // What the peer has sent still counts, so reading continues to the end.
    match written {
        WriteEnd::Closed(reason) => {
            // A silent peer will not answer, and its failure is recorded only after this.
            let is_silent =
                matches!(reason, Reason::HeartbeatTimeout | Reason::ConfirmationTimeout);
            let wait = if is_silent { LINGER } else { settings.close_timeout };
            let ending = async {
                let closing = writer.close(code_of(reason), reason.as_str());
                tokio::join!(closing, reader).1
            };
            match timeout(wait, ending).await {
                Ok(read) => (reason, String::new(), read.into_end().2),
                Err(_) => (reason, "the peer did not answer the close".to_owned(), false),
            }
        }
        WriteEnd::TimedOut => {
            let detail = format!("nothing was read for {} s", settings.write_timeout.as_secs());
            (Reason::WriteTimeout, detail, false)
        }
        WriteEnd::Failed(error) => match timeout(settings.close_timeout, reader).await {
            Ok(read) => read.into_end(),
            Err(_) => (Reason::ConnectionLost, error, false),
        },
    }
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

enum WriteEnd {
    /// The lane closed the connection.
    Closed(Reason),
    /// The peer does not read.
    TimedOut,
    /// The socket failed.
    Failed(String),
}

struct Writer<'a> {
    sink: SplitSink<WebSocket, Message>,
    events: mpsc::Receiver<Box<Outgoing>>,
    control: mpsc::Receiver<Control>,
    receipts: &'a Mutex<Receipts>,
    epoch: Epoch,
    ping_due: bool,
    settings: Settings,
}

impl Writer<'_> {
    async fn run(&mut self, first: Bytes) -> WriteEnd {
        let Some(first) = text(first) else {
            return WriteEnd::Failed("the first frame is not UTF-8".to_owned());
        };
        let mut event = None;
        let mut first = Some(first);
        loop {
            let sent = tokio::select! {
                biased;
                reason = closed(&mut self.control, &mut self.ping_due) => {
                    return WriteEnd::Closed(reason);
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
                Next::Close(reason) => return WriteEnd::Closed(reason),
            };
        }
    }

    /// Waits for something to write. Control messages overtake events.
    async fn next(&mut self) -> Next {
        if std::mem::take(&mut self.ping_due) {
            return Next::Ping;
        }
        tokio::select! {
            biased;
            control = self.control.recv() => match control {
                // There are no frames for a drain and for violations in plain mode.
                Some(Control::Probe | Control::Drain(_)) => Next::Ping,
                Some(Control::Close(reason)) => Next::Close(reason),
                Some(Control::Violation(_)) => Next::Close(Reason::ProtocolError),
                None => Next::Close(Reason::Shutdown),
            },
            Some(outgoing) = self.events.recv() => Next::Event(outgoing),
        }
    }

    async fn ping(&mut self) -> Option<WriteEnd> {
        let ping = ping(locked(self.receipts).last());
        match within(self.settings.write_timeout, self.sink.send(ping)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(WriteEnd::Failed(error.to_string())),
            Err(_) => Some(WriteEnd::TimedOut),
        }
    }

    /// Sends the close frame, if the peer reads.
    async fn close(&mut self, code: u16, reason: &str) {
        let close = CloseFrame { code, reason: Utf8Bytes::from(reason) };
        let sending = self.sink.send(Message::Close(Some(close)));
        match timeout(self.settings.close_timeout, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "failed to send the close frame"),
            Err(_) => tracing::debug!("the close frame was not read"),
        }
    }
}

enum Next {
    Event(Box<Outgoing>),
    Ping,
    Close(Reason),
}

/// Waits for the lane to close the connection while something is written. A close does not wait for
/// the write; a ping does.
async fn closed(control: &mut mpsc::Receiver<Control>, ping_due: &mut bool) -> Reason {
    loop {
        match control.recv().await {
            Some(Control::Probe | Control::Drain(_)) => *ping_due = true,
            Some(Control::Close(reason)) => return reason,
            Some(Control::Violation(_)) => return Reason::ProtocolError,
            None => return Reason::Shutdown,
        }
    }
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
