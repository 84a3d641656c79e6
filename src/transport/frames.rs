//! The frames of reliable mode (subprotocol `gateway-events.v1`), in both directions. All transports
//! carry them; each is one JSON object. The server encodes and the client library parses
//! [`ServerFrame`], and the reverse for [`GatewayFrame`]. [`close_code`] has the close codes.
//!
//! Gateways are not trusted: [`GatewayFrame::parse`] and [`GatewayFrame::checked`] refuse a frame of a
//! known type with a member that is missing, of a wrong type or out of range. Unknown members and
//! unknown types are ignored in both directions, so that the protocol can grow.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use super::event_position::EventPosition;
use super::frame;
use crate::event::Sequence;
use crate::json_error::WrongValue;

pub(super) mod cloud_event;
mod error;
mod gateway;
mod server;

pub use error::{ErrorCode, FrameError, InvalidMember};
pub use gateway::{
    Ack, Confirm, Credit, Envelope, Hello, INSTANCE_CHARACTERS, MAX_DETAIL_BYTES,
    MAX_RETRY_AFTER_MS, MAX_TYPES, Nack, NackCode, Position, Progress, Resume,
};
pub use server::{
    ConnectionAck, ConnectionDrain, ConnectionError, ConnectionResumed, DeliveryGap, DeliveryMark,
    EXTRA_CLOUD_EVENT_BYTES, EXTRA_EVENT_BYTES, EventFrame, GapReason, Limits, PolledEvents,
    ResumeMode, event_text,
};

/// The WebSocket subprotocol that selects reliable mode, and `protocol` in `connection.ack`.
pub const PROTOCOL: &str = "gateway-events.v1";
/// The maximum size of a frame from a gateway, in bytes.
pub const MAX_GATEWAY_FRAME_BYTES: usize = 16 * 1024;
/// The maximum number of frames in an array of frames.
pub const MAX_BATCH: usize = 256;

/// Prefixes of the types of frames that are not events.
const PROTOCOL_PREFIXES: [&str; 2] = ["connection.", "delivery."];

/// WebSocket close codes of reliable mode. After 4000 to 4499 the gateway reconnects; after 4500
/// to 4999 it must not.
pub mod close_code {
    /// The gateway is to reconnect, as `connection.drain` says: the node shuts down or is lost, an admin
    /// requested a resync, or the connection could not be opened.
    pub const DRAIN: u16 = 4001;
    /// The gateway showed no sign of life in time.
    pub const HEARTBEAT: u16 = 4003;
    /// The gateway did not confirm an event in time.
    pub const CONFIRMATION_OVERDUE: u16 = 4008;
    /// Another connection of the same instance replaced this one.
    pub const REPLACED: u16 = 4009;
    /// The gateway's key was revoked or has expired, or the gateway was deleted.
    pub const KEY_REVOKED: u16 = 4500;
    /// The gateway violated the protocol.
    pub const PROTOCOL_ERROR: u16 = 4501;
    /// The gateway was disabled.
    pub const GATEWAY_DISABLED: u16 = 4503;

    /// Whether a gateway must not reconnect after this code.
    pub const fn is_final(code: u16) -> bool {
        code >= 4500 && code <= 4999
    }
}

/// The type of a frame, the value of its member `type`.
pub trait FrameType {
    /// The type, such as `delivery.ack`.
    const TYPE: &'static str;
}

macro_rules! frame_types {
    ($($name:ident = $text:literal,)+) => {
        $(impl FrameType for $name {
            const TYPE: &'static str = $text;
        })+
    };
}

frame_types! {
    ConnectionAck = "connection.ack",
    ConnectionResumed = "connection.resumed",
    DeliveryMark = "delivery.mark",
    DeliveryGap = "delivery.gap",
    ConnectionDrain = "connection.drain",
    ConnectionError = "connection.error",
    Hello = "connection.hello",
    Ack = "delivery.ack",
    Nack = "delivery.nack",
    Progress = "delivery.progress",
    Credit = "delivery.credit",
}

/// A frame from the service to a gateway.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum ServerFrame {
    /// `connection.ack`, always the first frame.
    Ack(ConnectionAck),
    /// `connection.resumed`: where delivery starts.
    Resumed(ConnectionResumed),
    /// An event.
    Event(Box<EventFrame>),
    /// `delivery.mark`: complete up to here.
    Mark(DeliveryMark),
    /// `delivery.gap`: events that can't be delivered.
    Gap(DeliveryGap),
    /// `connection.drain`: finish, and reconnect later.
    Drain(ConnectionDrain),
    /// `connection.error`: why the connection will be closed.
    Error(ConnectionError),
}

/// A frame from a gateway to the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum GatewayFrame {
    /// `connection.hello`, the first frame of a gateway.
    Hello(Hello),
    /// `delivery.ack`: a cumulative confirmation.
    Ack(Ack),
    /// `delivery.nack`: an event was not applied.
    Nack(Nack),
    /// `delivery.progress`: an event is still being handled.
    Progress(Progress),
    /// `delivery.credit`: a new window.
    Credit(Credit),
}

impl ServerFrame {
    /// The frame as JSON.
    pub fn to_text(&self) -> Bytes {
        to_text(self)
    }

    /// Parses a frame; `None` if its type is one of the protocol's that this version does not know.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, FrameError> {
        let head = head(text)?;
        let frame_type = head.frame_type;
        let frame = match frame_type.as_str() {
            ConnectionAck::TYPE => Self::Ack(read(&frame_type, text)?),
            ConnectionResumed::TYPE => Self::Resumed(read(&frame_type, text)?),
            DeliveryMark::TYPE => Self::Mark(read(&frame_type, text)?),
            DeliveryGap::TYPE => Self::Gap(read(&frame_type, text)?),
            ConnectionDrain::TYPE => Self::Drain(read(&frame_type, text)?),
            ConnectionError::TYPE => Self::Error(read(&frame_type, text)?),
            other if PROTOCOL_PREFIXES.iter().any(|prefix| other.starts_with(prefix)) => {
                return Ok(None);
            }
            _ if head.specversion.is_some() => Self::Event(Box::new(cloud_event::parse(text)?)),
            _ => Self::Event(Box::new(read(&frame_type, text)?)),
        };
        frame.check()?;
        Ok(Some(frame))
    }

    fn check(&self) -> Result<(), FrameError> {
        let sequences = match self {
            Self::Ack(it) => vec![("head", it.head), ("oldest", it.oldest)],
            Self::Resumed(it) => vec![("from", it.from), ("head", it.head)],
            Self::Event(it) => vec![("sequence", it.sequence), ("previous", it.previous)],
            Self::Mark(it) => vec![("sequence", it.sequence), ("head", it.head)],
            Self::Gap(it) => vec![("from", it.from), ("to", it.to), ("resumeAt", it.resume_at)],
            Self::Drain(_) | Self::Error(_) => return Ok(()),
        };
        for (member, sequence) in sequences {
            check_sequence(self.frame_type(), member, sequence)?;
        }
        Ok(())
    }

    /// The value of the member `type`.
    pub fn frame_type(&self) -> &str {
        match self {
            Self::Ack(_) => ConnectionAck::TYPE,
            Self::Resumed(_) => ConnectionResumed::TYPE,
            Self::Event(event) => event.event_type.as_str(),
            Self::Mark(_) => DeliveryMark::TYPE,
            Self::Gap(_) => DeliveryGap::TYPE,
            Self::Drain(_) => ConnectionDrain::TYPE,
            Self::Error(_) => ConnectionError::TYPE,
        }
    }
}

impl GatewayFrame {
    /// The frame as JSON.
    pub fn to_text(&self) -> Bytes {
        to_text(self)
    }

    /// Parses and checks a frame; `None` if its type is unknown.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, FrameError> {
        if text.len() > MAX_GATEWAY_FRAME_BYTES {
            return Err(FrameError::new(
                ErrorCode::FrameTooLarge,
                format!(
                    "the frame has {} bytes; at most {MAX_GATEWAY_FRAME_BYTES} are allowed",
                    text.len()
                ),
            ));
        }
        let frame_type = head(text)?.frame_type;
        let frame = match frame_type.as_str() {
            Hello::TYPE => Self::Hello(read(&frame_type, text)?),
            Ack::TYPE => Self::Ack(read(&frame_type, text)?),
            Nack::TYPE => Self::Nack(read(&frame_type, text)?),
            Progress::TYPE => Self::Progress(read(&frame_type, text)?),
            Credit::TYPE => Self::Credit(read(&frame_type, text)?),
            _ => return Ok(None),
        };
        frame.checked().map(Some)
    }

    /// Parses one frame or an array of at most [`MAX_BATCH`] frames. A frame of an unknown type is
    /// `None`. The first invalid frame is the error; then none of the frames counts.
    pub fn parse_batch(text: &[u8]) -> Result<Vec<Option<Self>>, FrameError> {
        if !text.trim_ascii_start().starts_with(b"[") {
            return Self::parse(text).map(|frame| vec![frame]);
        }
        let frames: Vec<&RawValue> = serde_json::from_slice(text)
            .map_err(|error| FrameError::malformed(format!("not valid JSON: {error}")))?;
        if frames.len() > MAX_BATCH {
            return Err(FrameError::new(
                ErrorCode::FrameTooLarge,
                format!("the array has {} frames; at most {MAX_BATCH} are allowed", frames.len()),
            ));
        }
        frames.iter().map(|frame| Self::parse(frame.get().as_bytes())).collect()
    }

    /// Checks the values that the types of the members don't limit. [`GatewayFrame::parse`] has done
    /// this; a transport that does not carry JSON calls it.
    pub fn checked(self) -> Result<Self, FrameError> {
        match &self {
            Self::Hello(hello) => hello.check()?,
            Self::Ack(ack) => ack.check()?,
            Self::Nack(nack) => nack.check()?,
            Self::Progress(progress) => {
                check_sequence(Progress::TYPE, "sequence", progress.sequence)?;
            }
            Self::Credit(credit) => credit.check()?,
        }
        Ok(self)
    }
}

fn to_text(frame: &impl Serialize) -> Bytes {
    let mut text = Vec::with_capacity(256);
    frame::encode(&mut text, frame);
    text.into()
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    frame_type: String,
    /// Only CloudEvents have it.
    specversion: Option<IgnoredAny>,
}

/// The type of a frame, which must be an object.
fn head(text: &[u8]) -> Result<Head, FrameError> {
    // serde also reads a struct from an array.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(FrameError::malformed("the frame is not a JSON object"));
    }
    match serde_json::from_slice::<Head>(text) {
        Ok(head) => Ok(head),
        Err(error) => Err(FrameError::malformed(match WrongValue::find::<Head>(text) {
            Some(WrongValue { path, why }) => format!("{}: {why}", path.join(".")),
            None => format!("not valid JSON: {error}"),
        })),
    }
}

/// Reads the members of a frame.
fn read<T: DeserializeOwned>(frame_type: &str, text: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(text).map_err(|error| match WrongValue::find::<T>(text) {
        Some(WrongValue { path, why }) if path.is_empty() => {
            FrameError::invalid(format!("{frame_type}: {why}"))
        }
        Some(WrongValue { path, why }) => FrameError::member(frame_type, &path.join("."), why),
        None => FrameError::invalid(format!("{frame_type}: {error}")),
    })
}

/// Checks that a sequence is from 0 to [`Sequence::MAX`].
fn check_sequence(frame_type: &str, member: &str, sequence: Sequence) -> Result<(), FrameError> {
    if (Sequence::ZERO..=Sequence::MAX).contains(&sequence) {
        return Ok(());
    }
    Err(no_sequence(frame_type, member, sequence))
}

/// The error about a number that is no sequence, as the gateway sent it.
pub(super) fn no_sequence(frame_type: &str, member: &str, shown: impl fmt::Display) -> FrameError {
    let why = format!("must be a whole number from 0 to {}, not {shown}", Sequence::MAX);
    FrameError::member(frame_type, member, why)
}

#[cfg(test)]
mod tests;
