//! WebSocket in plain mode, for gateways that know nothing of us.
//!
//! Event frames are followed by pings that carry the last event's number.
//! These gateways handle one frame after another and echo a ping's payload, so
//! the pong says that everything up to that number has been handled. The lane
//! decides which events have a ping before them; a ping always follows the last
//! event of a burst.
//!
//! Reading and writing go on side by side; neither waits for the other. Knows
//! no store and decides nothing about delivery.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::patience::within;
use super::{Control, EventFrame, Incoming, PingBefore, TransportEnd};
use crate::event::{Reason, Sequence};

mod reading;

use reading::{ReadEnd, read};

/// Events are gathered up to this many bytes before they are flushed. As much
/// is to be buffered by the socket, so that a burst is one write, and (it is
/// the most that a record of TLS holds) one record.
pub const BURST_BYTES: usize = 16 * 1024;

/// Time for a peer that broke the protocol to read why it is parted with.
const LINGER: Duration = Duration::from_millis(250);

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To read what is written to it.
    pub write_timeout: Duration,
    /// To do its part of the close handshake.
    pub close_timeout: Duration,
}

/// Runs a socket to its end. `first` goes out before anything else.
pub async fn run(socket: WebSocket, first: Bytes, end: TransportEnd, limits: Limits) {
    let TransportEnd { events, control, incoming } = end;
    let (sink, stream) = socket.split();
    let mut writer = Writer { sink, events, control, last_written: None, ping_due: false, limits };
    let (reason, detail, by_peer) = talk(&mut writer, stream, &incoming, first).await;
    // The lane being gone is no error: then nobody asks.
    let detail = detail.into_boxed_str();
    let _ = incoming.send(Incoming::Ended { reason, detail, by_peer }).await;
}

/// Reads and writes until one of both ends, then ends the other. Answers why, and
/// whether the peer's host said so.
async fn talk(
    writer: &mut Writer,
    stream: SplitStream<WebSocket>,
    incoming: &mpsc::Sender<Incoming>,
    first: Bytes,
) -> (Reason, String, bool) {
    let limits = writer.limits;
    let mut reader = std::pin::pin!(read(stream, incoming, limits.close_timeout));
    let written = tokio::select! {
        read = &mut reader => {
            match &read {
                ReadEnd::Violation(code, detail) => {
                    writer.say_goodbye(*code, detail).await;
                    // What it went on sending is unread: ending at once would
                    // reset the connection, and the close frame be lost.
                    tokio::time::sleep(LINGER.min(limits.close_timeout)).await;
                }
                ReadEnd::Unheard => writer.say_goodbye(close_code::AWAY, "shutdown").await,
                ReadEnd::Closed(_) | ReadEnd::Lost(_) | ReadEnd::Silent(_) => {}
            }
            return read.into_end();
        }
        written = writer.run(first) => written,
    };
    // What the peer has said still counts; so reading goes on to the end.
    match written {
        WriteEnd::Told(reason) => {
            // A peer that has been silent for too long won't answer either, and
            // the failure is recorded only after this.
            let is_silent =
                matches!(reason, Reason::HeartbeatTimeout | Reason::ConfirmationTimeout);
            let patience = if is_silent { LINGER } else { limits.close_timeout };
            let ending = async {
                let goodbye = writer.say_goodbye(code_of(reason), reason.as_str());
                tokio::join!(goodbye, reader).1
            };
            match timeout(patience, ending).await {
                Ok(read) => (reason, String::new(), read.into_end().2),
                Err(_) => (reason, "the peer did not answer the close".to_owned(), false),
            }
        }
        WriteEnd::TimedOut => {
            let detail = format!("nothing was read for {} s", limits.write_timeout.as_secs());
            (Reason::WriteTimeout, detail, false)
        }
        WriteEnd::Failed(error) => match timeout(limits.close_timeout, reader).await {
            Ok(read) => read.into_end(),
            Err(_) => (Reason::ConnectionLost, error, false),
        },
    }
}

/// The close code that tells a gateway why.
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
    /// The lane said so.
    Told(Reason),
    /// The peer does not read.
    TimedOut,
    /// The socket broke.
    Failed(String),
}

struct Writer {
    sink: SplitSink<WebSocket, Message>,
    events: mpsc::Receiver<Box<EventFrame>>,
    control: mpsc::Receiver<Control>,
    last_written: Option<Sequence>,
    ping_due: bool,
    limits: Limits,
}

impl Writer {
    async fn run(&mut self, first: Bytes) -> WriteEnd {
        let Some(first) = text(first) else {
            return WriteEnd::Failed("the first frame is no text".to_owned());
        };
        let mut event = None;
        let mut first = Some(first);
        loop {
            let sent = tokio::select! {
                biased;
                reason = told_to_close(&mut self.control, &mut self.ping_due) => {
                    return WriteEnd::Told(reason);
                }
                sent = within(
                    self.limits.write_timeout,
                    burst(&mut self.sink, first.take(), event.take(), &mut self.events, &mut self.last_written),
                ) => sent,
            };
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return WriteEnd::Failed(error.to_string()),
                Err(_) => return WriteEnd::TimedOut,
            }
            event = match self.next().await {
                Next::Event(frame) => Some(frame),
                Next::Ping => match self.ping().await {
                    Some(end) => return end,
                    None => None,
                },
                Next::Close(reason) => return WriteEnd::Told(reason),
            };
        }
    }

    /// Waits for something to write; control passes events.
    async fn next(&mut self) -> Next {
        if std::mem::take(&mut self.ping_due) {
            return Next::Ping;
        }
        tokio::select! {
            biased;
            control = self.control.recv() => match control {
                Some(Control::Ping) => Next::Ping,
                Some(Control::Close(reason)) => Next::Close(reason),
                None => Next::Close(Reason::Shutdown),
            },
            Some(frame) = self.events.recv() => Next::Event(frame),
        }
    }

    async fn ping(&mut self) -> Option<WriteEnd> {
        let ping = ping(self.last_written);
        match within(self.limits.write_timeout, self.sink.send(ping)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(WriteEnd::Failed(error.to_string())),
            Err(_) => Some(WriteEnd::TimedOut),
        }
    }

    /// Sends the close frame; a peer that does not read won't get it.
    async fn say_goodbye(&mut self, code: u16, reason: &str) {
        let close = CloseFrame { code, reason: Utf8Bytes::from(reason) };
        let sending = self.sink.send(Message::Close(Some(close)));
        match timeout(self.limits.close_timeout, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the close frame was not sent"),
            Err(_) => tracing::debug!("the close frame was not read"),
        }
    }
}

enum Next {
    Event(Box<EventFrame>),
    Ping,
    Close(Reason),
}

/// While something is being written: a close must not wait for it, a ping may.
async fn told_to_close(control: &mut mpsc::Receiver<Control>, ping_due: &mut bool) -> Reason {
    loop {
        match control.recv().await {
            Some(Control::Ping) => *ping_due = true,
            Some(Control::Close(reason)) => return reason,
            None => return Reason::Shutdown,
        }
    }
}

/// Writes what waits, with its pings, and flushes once.
async fn burst(
    sink: &mut SplitSink<WebSocket, Message>,
    first: Option<Message>,
    event: Option<Box<EventFrame>>,
    events: &mut mpsc::Receiver<Box<EventFrame>>,
    last_written: &mut Option<Sequence>,
) -> Result<(), axum::Error> {
    let mut next = event;
    let mut bytes = 0;
    if let Some(first) = first {
        sink.feed(first).await?;
        bytes = BURST_BYTES;
    }
    let mut is_pinged = true;
    while let Some(frame) = next.take() {
        let EventFrame { sequence, text: frame, ping_before } = *frame;
        if ping_before == PingBefore::Always || ping_before == PingBefore::Between && !is_pinged {
            sink.feed(ping(*last_written)).await?;
        }
        bytes += frame.len();
        let Some(frame) = text(frame) else {
            return Err(axum::Error::new(std::io::Error::other("an event frame is no text")));
        };
        sink.feed(frame).await?;
        *last_written = Some(sequence);
        if bytes < BURST_BYTES {
            next = events.try_recv().ok();
        }
        is_pinged = false;
    }
    if !is_pinged {
        sink.feed(ping(*last_written)).await?;
    }
    sink.flush().await
}

fn text(frame: Bytes) -> Option<Message> {
    Utf8Bytes::try_from(frame).ok().map(Message::Text)
}

/// A ping without a number confirms nothing: no event has been written yet.
fn ping(last_written: Option<Sequence>) -> Message {
    let payload = last_written.map_or_else(Bytes::new, |sequence| sequence.to_string().into());
    Message::Ping(payload)
}

/// A real socket over loopback, for the tests; the client's end is returned.
#[cfg(test)]
async fn served(
    end: TransportEnd,
    limits: Limits,
) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = std::sync::Mutex::new(Some(end));
    let upgrade = move |upgrade: axum::extract::ws::WebSocketUpgrade| {
        let end = end.lock().unwrap().take().unwrap();
        let first = Bytes::from_static(b"first");
        let run = move |socket| run(socket, first, end, limits);
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
