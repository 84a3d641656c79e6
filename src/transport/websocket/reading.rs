//! Reads a socket to its end and reports its messages.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite;

use super::super::{Ended, Incoming, InvalidMessage, frame};
use super::receipts::Receipts;
use crate::event::{Reason, Sequence};

/// Errors which mean that nothing arrives from the peer's host any more.
const SILENCE: [ErrorKind; 3] =
    [ErrorKind::TimedOut, ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];

/// Why reading ended. `V` is a violation of the protocol in one of the modes.
pub(super) enum ReadEnd<V> {
    /// The peer closed the connection cleanly.
    Closed(String),
    /// The peer's host ended or reset the socket without a close frame.
    Lost(String),
    /// The socket failed because the peer's host is unreachable.
    Silent(String),
    /// The peer violated the protocol.
    Violation(V),
    /// The lane has ended.
    LaneGone,
}

/// A violation of RFC 6455, or a message that exceeds the limit.
pub(super) struct Malformed {
    /// The close code that the peer is sent.
    pub(super) code: u16,
    pub(super) detail: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail)
    }
}

impl<V> ReadEnd<V> {
    /// The same, with a violation of the other mode.
    pub(super) fn map_violation<W>(self, violation: impl FnOnce(V) -> W) -> ReadEnd<W> {
        match self {
            Self::Closed(detail) => ReadEnd::Closed(detail),
            Self::Lost(detail) => ReadEnd::Lost(detail),
            Self::Silent(detail) => ReadEnd::Silent(detail),
            Self::Violation(violated) => ReadEnd::Violation(violation(violated)),
            Self::LaneGone => ReadEnd::LaneGone,
        }
    }
}

impl<V: fmt::Display> ReadEnd<V> {
    /// The end of the connection.
    pub(super) fn into_ended(self) -> Ended {
        let by_peer = matches!(self, Self::Lost(_));
        let (reason, detail) = match self {
            Self::Closed(detail) => (Reason::ClosedByGateway, detail),
            Self::Lost(detail) | Self::Silent(detail) => (Reason::ConnectionLost, detail),
            Self::Violation(violation) => (Reason::ProtocolError, violation.to_string()),
            Self::LaneGone => (Reason::Shutdown, "the lane ended first".to_owned()),
        };
        Ended::new(reason, detail, by_peer)
    }
}

/// Reads to the end, even after a close frame, because the answer to it is only sent while reading
/// continues. A slow lane slows the reading down.
pub(super) async fn read(
    mut stream: SplitStream<WebSocket>,
    incoming: &mpsc::Sender<Incoming>,
    receipts: &Mutex<Receipts>,
    close_timeout: Duration,
) -> ReadEnd<Malformed> {
    while let Some(message) = stream.next().await {
        let received = match message {
            Ok(Message::Pong(payload)) => match receipt(&payload) {
                Some(sequence) => {
                    super::locked(receipts).pong(sequence, Instant::now());
                    Incoming::Receipt(sequence)
                }
                None => Incoming::Alive,
            },
            Ok(Message::Ping(_)) => Incoming::Alive,
            Ok(Message::Text(text)) => match frame::parse_incoming(text.as_bytes()) {
                Ok(report) => Incoming::Report(Box::new(report)),
                Err(invalid) => Incoming::Invalid(invalid),
            },
            Ok(Message::Binary(_)) => Incoming::Invalid(InvalidMessage::Binary),
            Ok(Message::Close(frame)) => {
                return closed_by_peer(stream, incoming, close_timeout, frame).await;
            }
            Err(error) => return broken(error),
        };
        if incoming.send(received).await.is_err() {
            return ReadEnd::LaneGone;
        }
    }
    ReadEnd::Lost("the stream ended without a close frame".to_owned())
}

/// Completes a close handshake that the peer has begun.
pub(super) async fn closed_by_peer<V>(
    mut stream: SplitStream<WebSocket>,
    incoming: &mpsc::Sender<Incoming>,
    close_timeout: Duration,
    frame: Option<CloseFrame>,
) -> ReadEnd<V> {
    // Reported now, because waiting for the end does not count as activity.
    let _ = incoming.send(Incoming::Alive).await;
    // The answer is queued, and is sent while reading continues.
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = timeout(close_timeout, rest).await;
    ReadEnd::Closed(describe(frame))
}

/// The sequence in a pong, if it has the format of our pings. Any other payload confirms nothing.
pub(super) fn receipt(payload: &[u8]) -> Option<Sequence> {
    let canonical =
        matches!(payload, [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    let number = std::str::from_utf8(payload).ok().filter(|_| canonical)?.parse().ok()?;
    Some(Sequence(number)).filter(|sequence| *sequence <= Sequence::MAX)
}

fn describe(frame: Option<CloseFrame>) -> String {
    frame.map_or_else(
        || "without a code".to_owned(),
        |CloseFrame { code, reason }| {
            let reason: String = reason.as_str().escape_debug().take(200).collect();
            if reason.is_empty() {
                format!("code {code}")
            } else {
                format!("code {code}: {reason}")
            }
        },
    )
}

/// Distinguishes a protocol violation from a failed connection.
pub(super) fn broken(error: axum::Error) -> ReadEnd<Malformed> {
    use tungstenite::Error;
    use tungstenite::error::ProtocolError;

    let violation = |code, detail| ReadEnd::Violation(Malformed { code, detail });
    let error = error.into_inner();
    match error.downcast_ref::<Error>() {
        Some(Error::Capacity(_)) => violation(close_code::SIZE, "the message is too large"),
        Some(Error::Utf8(_)) => violation(close_code::INVALID, "the text message is not UTF-8"),
        Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
            ReadEnd::Lost("the stream ended without a close frame".to_owned())
        }
        Some(Error::Protocol(_)) => violation(close_code::PROTOCOL, "the frame violates RFC 6455"),
        Some(Error::ConnectionClosed) => ReadEnd::Closed(String::new()),
        Some(Error::Io(io)) if SILENCE.contains(&io.kind()) => ReadEnd::Silent(error.to_string()),
        _ => ReadEnd::Lost(error.to_string()),
    }
}
