//! The WebSocket transport (RFC 6455), plain mode.
//!
//! Every event frame is followed by a ping that carries its sequence. An
//! unmodified gateway handles frames one by one and echoes the ping in the same
//! loop, so the pong says that the event has been handled; one ping per event
//! lets a slow gateway show its progress within a burst.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;

use super::{Control, EventFrame, Incoming, TransportEnd};
use crate::event::{Reason, Sequence};

/// How long a peer may take to answer our close before we hang up.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// Event frames written before the socket is flushed, at the most.
const BURST: usize = 32;

/// Deadlines of a transport.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For every write.
    pub write_timeout: Duration,
}

type Ending = (Reason, String);

/// Runs a socket until it has ended. `first` is sent before anything else.
pub async fn run(socket: WebSocket, first: Bytes, end: TransportEnd, limits: Limits) {
    let TransportEnd { events, control, incoming } = end;
    let (sink, stream) = socket.split();
    let mut writer = Writer { sink, last: Sequence::ZERO, limits };
    let (reason, detail) = {
        let reading = read(stream, &incoming);
        let writing = write(&mut writer, first, events, control);
        tokio::pin!(reading, writing);
        // Reading goes on while a write waits, or pongs would stall behind it.
        tokio::select! {
            ending = &mut reading => ending,
            ending = &mut writing => {
                if matches!(ending.0, Reason::ConnectionLost | Reason::WriteTimeout) {
                    ending
                } else {
                    // Our close is out; the peer's answer may still bring receipts.
                    let _ = timeout(CLOSE_WAIT, &mut reading).await;
                    ending
                }
            }
        }
    };
    if reason == Reason::ProtocolError {
        writer.close(reason).await;
    }
    // A lane that is gone needs no last word.
    let _ = incoming.send(Incoming::Ended { reason, detail }).await;
}

struct Writer {
    sink: SplitSink<WebSocket, Message>,
    /// The last event written: what the next ping asks about.
    last: Sequence,
    limits: Limits,
}

impl Writer {
    async fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), Ending> {
        let sending = async {
            for message in messages {
                self.sink.feed(message).await?;
            }
            self.sink.flush().await
        };
        match timeout(self.limits.write_timeout, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((Reason::ConnectionLost, error.to_string())),
            Err(_) => Err((
                Reason::WriteTimeout,
                format!("the gateway did not read for {:?}", self.limits.write_timeout),
            )),
        }
    }

    fn ping(&self) -> Message {
        Message::Ping(Bytes::from(self.last.to_string()))
    }

    async fn close(&mut self, reason: Reason) {
        let frame = CloseFrame {
            code: close_code_of(reason),
            reason: Utf8Bytes::from_static(reason.as_str()),
        };
        // A peer that can't be told is told by the end of the connection.
        let _ = timeout(CLOSE_WAIT, self.sink.send(Message::Close(Some(frame)))).await;
    }
}

fn close_code_of(reason: Reason) -> u16 {
    match reason {
        Reason::Shutdown => close_code::AWAY,
        Reason::TokenRevoked | Reason::GatewayDisabled | Reason::GatewayDeleted => {
            close_code::POLICY
        }
        Reason::ProtocolError => close_code::SIZE,
        Reason::NodeLost => close_code::AGAIN,
        _ => close_code::ERROR,
    }
}

async fn write(
    writer: &mut Writer,
    first: Bytes,
    mut events: tokio::sync::mpsc::Receiver<EventFrame>,
    mut control: tokio::sync::mpsc::Receiver<Control>,
) -> Ending {
    if let Err(ending) = writer.send([text(first)]).await {
        return ending;
    }
    let mut burst = Vec::with_capacity(BURST);
    loop {
        burst.clear();
        let sent = tokio::select! {
            biased;
            control = control.recv() => match control {
                Some(Control::Ping) => {
                    let ping = writer.ping();
                    writer.send([ping]).await
                }
                Some(Control::Close(reason)) => {
                    writer.close(reason).await;
                    return (reason, String::new());
                }
                None => {
                    writer.close(Reason::Shutdown).await;
                    return (Reason::Shutdown, String::new());
                }
            },
            count = events.recv_many(&mut burst, BURST), if !events.is_closed() => {
                if count == 0 { continue }
                let mut messages = Vec::with_capacity(2 * count);
                for event in burst.drain(..) {
                    writer.last = event.sequence;
                    messages.push(text(event.text));
                    messages.push(writer.ping());
                }
                writer.send(messages).await
            }
        };
        if let Err(ending) = sent {
            return ending;
        }
    }
}

fn text(bytes: Bytes) -> Message {
    // Frames are JSON that we encoded: UTF-8 by construction.
    Message::Text(Utf8Bytes::try_from(bytes).unwrap_or_default())
}

async fn read(
    mut stream: SplitStream<WebSocket>,
    incoming: &tokio::sync::mpsc::Sender<Incoming>,
) -> Ending {
    let mut closed = None;
    // Past a close frame we read on to the end, or the close would be unclean.
    while let Some(message) = stream.next().await {
        let said = match message {
            Ok(Message::Pong(payload)) => receipt(&payload),
            Ok(Message::Ping(_)) => Incoming::Alive,
            Ok(Message::Text(text)) => Incoming::Message(Bytes::copy_from_slice(text.as_bytes())),
            Ok(Message::Binary(_)) => Incoming::Malformed("a binary frame"),
            Ok(Message::Close(frame)) => {
                closed = Some(
                    frame.map_or_else(String::new, |frame| format!("close code {}", frame.code)),
                );
                continue;
            }
            Err(error) => {
                return match closed {
                    Some(detail) => (Reason::ClosedByGateway, detail),
                    None => (broken(&error), error.to_string()),
                };
            }
        };
        if incoming.send(said).await.is_err() {
            return (Reason::Shutdown, String::new());
        }
    }
    match closed {
        Some(detail) => (Reason::ClosedByGateway, detail),
        None => (Reason::ConnectionLost, "the connection ended without a close frame".to_owned()),
    }
}

/// Whether the peer broke the protocol or the network broke the connection.
fn broken(error: &axum::Error) -> Reason {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<std::io::Error>() {
            return Reason::ConnectionLost;
        }
        source = cause.source();
    }
    let text = error.to_string();
    if text.contains("without closing handshake") || text.contains("closed") {
        Reason::ConnectionLost
    } else {
        Reason::ProtocolError
    }
}

/// A pong that echoes one of our pings confirms; any other is a sign of life.
fn receipt(payload: &[u8]) -> Incoming {
    std::str::from_utf8(payload)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .map_or(Incoming::Alive, |sequence| Incoming::Receipt(Sequence(sequence)))
}
