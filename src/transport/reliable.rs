//! What all transports of reliable mode share: translation between [frames] and the
//! messages of a link, and how a connection ends.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::frames::{
    self, Confirm, ConnectionAck, ConnectionDrain, ConnectionError, ConnectionResumed, DeliveryGap,
    DeliveryMark, EXTRA_CLOUD_EVENT_BYTES, EXTRA_EVENT_BYTES, Envelope, ErrorCode, EventPosition,
    FrameError, GatewayFrame, Hello, Limits, NackCode, PROTOCOL, Position, Resume, ResumeMode,
    ServerFrame, close_code, event_text,
};
use super::{
    Confirmation, Credit, DeliveryRequest, Drain, Gap, GapReason, Greeting, Incoming, Mark, Nack,
    Outgoing, OutgoingEvent, ReliableGreeting, Resumed, Start, Violation,
};
use crate::clock::{Timestamp, millis};
use crate::event::{Epoch, Reason};

/// The size of the largest frame of an event, if the largest of plain mode has `event_bytes`.
pub fn frame_bytes(event_bytes: usize) -> u64 {
    let extra = EXTRA_EVENT_BYTES.max(EXTRA_CLOUD_EVENT_BYTES);
    u64::try_from(event_bytes.saturating_add(extra)).unwrap_or(u64::MAX)
}

/// The frame `connection.ack`, which every transport sends first. No frame of this transport is longer
/// than `frame_bytes`.
pub fn connection_ack(
    greeting: &ReliableGreeting,
    frame_bytes: u64,
    timestamp: Timestamp,
) -> ConnectionAck {
    let Greeting { gateway_id, connection_id, epoch } = greeting.greeting;
    let (window, window_bytes) = (greeting.window, greeting.window_bytes);
    ConnectionAck {
        gateway_id,
        connection_id,
        timestamp,
        protocol: PROTOCOL.to_owned(),
        epoch,
        head: greeting.head,
        oldest: greeting.oldest,
        heartbeat_ms: millis(greeting.heartbeat),
        limits: Limits { frame_bytes, window, window_bytes },
    }
}

/// What a hello asks of the lane. The [envelope](Hello::envelope) is for the transport.
pub fn request(hello: Hello) -> DeliveryRequest {
    let Hello { instance, resume, window, window_bytes, types, confirm, envelope: _ } = hello;
    DeliveryRequest {
        instance,
        start: match resume {
            Resume::Server => Start::Stored,
            Resume::Latest => Start::Latest,
            Resume::Earliest => Start::Earliest,
            Resume::After(Position { epoch, sequence, event_id }) => {
                Start::After { epoch, sequence, event_id }
            }
        },
        credit: Credit { events: window, bytes: window_bytes },
        types: types.map(|types| types.into_iter().collect()),
        confirmation: match confirm {
            Confirm::Received => Confirmation::Received,
            Confirm::Applied => Confirmation::Applied,
        },
    }
}

/// How the messages of one connection are encoded.
#[derive(Clone, Copy, Debug)]
pub struct Encoding {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The form of events that the hello asks for.
    pub envelope: Option<Envelope>,
}

impl Encoding {
    /// The frame of a message to the peer, as JSON.
    pub fn text(&self, outgoing: &Outgoing) -> Bytes {
        match outgoing {
            Outgoing::Event(event) => self.event_text(event),
            Outgoing::Resumed(resumed) => ServerFrame::Resumed(self.resumed(*resumed)).to_text(),
            Outgoing::Mark(mark) => ServerFrame::Mark((*mark).into()).to_text(),
            Outgoing::Gap(gap) => ServerFrame::Gap(gap.as_ref().into()).to_text(),
        }
    }

    /// The frame of an event, as JSON.
    pub fn event_text(&self, outgoing: &OutgoingEvent) -> Bytes {
        let OutgoingEvent { sequence, previous, attempt, .. } = *outgoing;
        let position = EventPosition { sequence, previous, epoch: self.epoch, attempt };
        event_text(&outgoing.event, position, self.envelope.unwrap_or_default())
    }

    /// The frame that announces where delivery starts.
    pub fn resumed(&self, Resumed { from, head, epoch }: Resumed) -> ConnectionResumed {
        let pending = u64::try_from(head.0 - from.0).unwrap_or(0);
        let mode = if pending > 0 { ResumeMode::Replay } else { ResumeMode::Live };
        ConnectionResumed { from, head, epoch, mode, pending, envelope: self.envelope }
    }
}

impl From<Mark> for DeliveryMark {
    fn from(Mark { sequence, head }: Mark) -> Self {
        Self { sequence, head }
    }
}

impl From<&Gap> for DeliveryGap {
    fn from(gap: &Gap) -> Self {
        Self {
            from: gap.from,
            to: gap.to,
            reason: match gap.reason {
                GapReason::Retention => frames::GapReason::Retention,
                GapReason::Epoch => frames::GapReason::Epoch,
                GapReason::Purged => frames::GapReason::Purged,
                GapReason::Resync => frames::GapReason::Resync,
            },
            snapshot_url: gap.snapshot_url.clone(),
            resume_at: gap.resume_at,
            epoch: gap.epoch,
        }
    }
}

impl From<Drain> for ConnectionDrain {
    fn from(Drain { reason, reconnect_after, grace }: Drain) -> Self {
        Self {
            reason: reason.as_str().to_owned(),
            reconnect_after_ms: millis(reconnect_after),
            grace_ms: millis(grace),
        }
    }
}

impl From<Violation> for FrameError {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::BeyondSent(sequence) => {
                let message = format!("{sequence} was not sent on this connection");
                Self::new(ErrorCode::BeyondSent, message)
            }
            Violation::Confirmed(sequence) => {
                Self::new(ErrorCode::NotInFlight, format!("{sequence} was confirmed before"))
            }
        }
    }
}

/// The code and the message that the peer is sent.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FrameError::from(*self).fmt(f)
    }
}

impl From<frames::Nack> for Nack {
    fn from(nack: frames::Nack) -> Self {
        let frames::Nack { sequence, code, retryable, retry_after_ms, detail } = nack;
        Self {
            sequence,
            reason: match code {
                NackCode::ApplyFailed => Reason::ApplyFailed,
                NackCode::Invalid => Reason::Invalid,
                NackCode::Unsupported => Reason::Unsupported,
                NackCode::DependencyMissing => Reason::DependencyMissing,
                NackCode::Timeout => Reason::Timeout,
                NackCode::Overloaded => Reason::Overloaded,
                NackCode::Conflict => Reason::Conflict,
            },
            retryable,
            retry_after: retry_after_ms.map(Duration::from_millis),
            detail: detail.unwrap_or_default(),
        }
    }
}

impl From<frames::Credit> for Credit {
    fn from(frames::Credit { window, window_bytes }: frames::Credit) -> Self {
        Self { events: window, bytes: window_bytes }
    }
}

/// The messages in a frame of the peer, in order. A second hello is an error.
pub fn incoming(frame: GatewayFrame) -> Result<impl Iterator<Item = Incoming>, FrameError> {
    let (first, second) = match frame {
        GatewayFrame::Hello(_) => {
            let message = "connection.hello: only the first frame may be one";
            return Err(FrameError::new(ErrorCode::HelloRepeated, message));
        }
        GatewayFrame::Ack(ack) => {
            (ack.received.map(Incoming::Receipt), ack.applied.map(Incoming::Applied))
        }
        GatewayFrame::Nack(nack) => (Some(Incoming::Nack(Box::new(nack.into()))), None),
        GatewayFrame::Progress(progress) => (Some(Incoming::Progress(progress.sequence)), None),
        GatewayFrame::Credit(credit) => (Some(Incoming::Credit(Box::new(credit.into()))), None),
    };
    Ok(first.into_iter().chain(second))
}

/// The WebSocket close code for a reason.
pub const fn close_code(reason: Reason) -> u16 {
    match reason {
        Reason::HeartbeatTimeout | Reason::WriteTimeout => close_code::HEARTBEAT,
        Reason::ConfirmationTimeout => close_code::CONFIRMATION_OVERDUE,
        Reason::Replaced => close_code::REPLACED,
        Reason::TokenRevoked | Reason::GatewayDeleted => close_code::KEY_REVOKED,
        Reason::ProtocolError => close_code::PROTOCOL_ERROR,
        Reason::GatewayDisabled => close_code::GATEWAY_DISABLED,
        // The gateway is to reconnect.
        _ => close_code::DRAIN,
    }
}

/// The error that is sent to the peer before its connection is closed for a reason. `None` if none is
/// sent, or if it needs more than the reason: violations have a [`FrameError`].
pub fn connection_error(reason: Reason) -> Option<ConnectionError> {
    let (code, message) = match reason {
        Reason::HeartbeatTimeout => {
            (ErrorCode::HeartbeatTimeout, "The gateway showed no sign of life in time.")
        }
        Reason::ConfirmationTimeout => {
            (ErrorCode::ConfirmationTimeout, "The gateway did not confirm an event in time.")
        }
        Reason::Replaced => {
            (ErrorCode::Replaced, "A later connection of the same instance replaces this one.")
        }
        Reason::TokenRevoked => {
            (ErrorCode::TokenRevoked, "The gateway's key was revoked or has expired.")
        }
        Reason::GatewayDisabled => (ErrorCode::GatewayDisabled, "The gateway was disabled."),
        Reason::GatewayDeleted => (ErrorCode::GatewayDeleted, "The gateway was deleted."),
        _ => return None,
    };
    Some(ConnectionError { code: code.as_str().to_owned(), message: message.to_owned() })
}

/// The frame that reports a violation to the peer.
pub fn violation(error: &FrameError) -> ConnectionError {
    ConnectionError { code: error.code.as_str().to_owned(), message: error.message.clone() }
}

/// How the service closes a connection.
#[derive(Clone, Debug)]
pub struct Closing {
    /// Why.
    pub reason: Reason,
    /// The error that the peer is sent before the end.
    pub error: Option<ConnectionError>,
}

impl From<Reason> for Closing {
    fn from(reason: Reason) -> Self {
        Self { reason, error: connection_error(reason) }
    }
}

impl From<&FrameError> for Closing {
    fn from(error: &FrameError) -> Self {
        Self { reason: Reason::ProtocolError, error: Some(violation(error)) }
    }
}

impl From<Violation> for Closing {
    fn from(violation: Violation) -> Self {
        (&FrameError::from(violation)).into()
    }
}
