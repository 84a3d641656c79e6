//! Server-sent events (HTML Living Standard, section 9.2): the frames of reliable mode as a stream of
//! text. What the gateway has to say arrives in requests of their own ([`Inbound`](super::push::Inbound)).
//!
//! Events have the type `message`, which clients handle by default, and other frames their own type.
//! The `id` of events and marks is the position after them, `EPOCH.SEQUENCE`, which clients send as
//! `Last-Event-ID` when they connect again.

use std::time::Duration;

use bytes::Bytes;

use super::frames::{ConnectionAck, ConnectionDrain, Position, ServerFrame};
use super::push::Encoder;
use super::reliable::{Closing, Encoding};
use super::{Mark, Outgoing};
use crate::event::{Epoch, Sequence};

/// The transport's name in the database, the API and the logs.
pub const NAME: &str = "sse";

/// The shortest and the longest time after which a client connects again.
const RETRY: std::ops::Range<u64> = 1_000..4_000;

/// Encodes frames as server-sent events.
#[derive(Debug)]
pub struct Text {
    encoding: Encoding,
}

impl Text {
    /// The text of a connection.
    pub const fn new(encoding: Encoding) -> Self {
        Self { encoding }
    }

    /// The first text of a stream. Clients connect again at different times, so that not all of a
    /// node's clients do at once. The comment makes proxies pass the response's headers on.
    pub fn first(ack: ConnectionAck) -> Bytes {
        let retry = Duration::from_millis(fastrand::u64(RETRY)).as_millis();
        let mut text = format!("retry: {retry}\n: connected\n\n").into_bytes();
        write(&mut text, "connection.ack", None, &ServerFrame::Ack(ack).to_text());
        text.into()
    }

    fn id(&self, sequence: Sequence) -> String {
        format!("{}.{sequence}", self.encoding.epoch)
    }
}

impl Encoder for Text {
    type Item = Bytes;

    fn messages(&mut self, outgoing: Vec<Outgoing>) -> Bytes {
        let mut text = Vec::new();
        for outgoing in outgoing {
            let (kind, id) = match &outgoing {
                Outgoing::Event(event) => ("message", Some(self.id(event.sequence))),
                Outgoing::Resumed(_) => ("connection.resumed", None),
                Outgoing::Mark(Mark { sequence, .. }) => {
                    ("delivery.mark", Some(self.id(*sequence)))
                }
                Outgoing::Gap(_) => ("delivery.gap", None),
            };
            let data = self.encoding.text(&outgoing);
            text.reserve(data.len() + 128);
            write(&mut text, kind, id.as_deref(), &data);
        }
        text.into()
    }

    fn drain(&mut self, drain: ConnectionDrain) -> Bytes {
        frame(&ServerFrame::Drain(drain))
    }

    fn heartbeat(&mut self) -> Option<Bytes> {
        Some(Bytes::from_static(b": alive\n\n"))
    }

    fn end(&mut self, closing: Closing) -> Vec<Bytes> {
        closing.error.map(|error| frame(&ServerFrame::Error(error))).into_iter().collect()
    }
}

fn frame(frame: &ServerFrame) -> Bytes {
    let mut text = Vec::new();
    write(&mut text, frame.frame_type(), None, &frame.to_text());
    text.into()
}

/// Writes one message. A payload is passed on as it was published and may contain line breaks, each
/// of which begins another line of data; clients join them with line feeds, which in JSON mean the
/// same as any other line break outside of strings.
fn write(text: &mut Vec<u8>, kind: &str, id: Option<&str>, data: &[u8]) {
    text.extend_from_slice(b"event: ");
    text.extend_from_slice(kind.as_bytes());
    if let Some(id) = id {
        text.extend_from_slice(b"\nid: ");
        text.extend_from_slice(id.as_bytes());
    }
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        text.extend_from_slice(b"\ndata: ");
        text.extend_from_slice(line);
    }
    text.extend_from_slice(b"\n\n");
}

/// Reads a position as clients send it, `EPOCH.SEQUENCE`.
pub fn position(text: &str) -> Option<Position> {
    let (epoch, sequence) = text.split_once('.')?;
    let is_number = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
    let sequence = Sequence(sequence.parse().ok().filter(|_| is_number)?);
    let epoch = Epoch(epoch.parse().ok()?);
    (sequence <= Sequence::MAX).then_some(Position { epoch, sequence, event_id: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_payload_is_a_line_of_data() {
        let mut text = Vec::new();
        write(&mut text, "message", Some("e.1"), b"{\"a\":\r\n1,\n\n\"b\":2}");
        let expected = "event: message\nid: e.1\ndata: {\"a\":\ndata: \ndata: 1,\ndata: \n\
            data: \"b\":2}\n\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn a_position_is_an_epoch_and_a_sequence() {
        let epoch = Epoch(uuid::Uuid::nil());
        let read = position(&format!("{epoch}.9007199254740991"));
        assert_eq!(read, Some(Position { epoch, sequence: Sequence::MAX, event_id: None }));
        for bad in ["", ".", "1", "x.1", &format!("{epoch}"), &format!("{epoch}.+1")] {
            assert_eq!(position(bad), None, "{bad}");
        }
    }
}
