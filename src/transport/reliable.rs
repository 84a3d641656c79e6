//! What all transports of reliable mode share: translation between frames and the messages of a link,
//! and how a connection ends.

use bytes::Bytes;

use super::frames::{
    ConnectionError, ErrorCode, EventPosition, FrameError, GatewayFrame, ServerFrame, close_code,
    event_text,
};
use super::{Incoming, Outgoing};
use crate::event::{Epoch, Reason, Sequence};

/// The frame of a message to the peer, as JSON.
pub fn outgoing_text(outgoing: Outgoing, epoch: Epoch) -> Bytes {
    match outgoing {
        Outgoing::Event(it) => {
            let (sequence, previous, attempt) = (it.sequence, it.previous, it.attempt);
            let position = EventPosition { sequence, previous, epoch, attempt };
            event_text(&it.event, position, it.envelope)
        }
        Outgoing::Resumed(resumed) => ServerFrame::Resumed(*resumed).to_text(),
        Outgoing::Mark(mark) => ServerFrame::Mark(mark).to_text(),
        Outgoing::Gap(gap) => ServerFrame::Gap(*gap).to_text(),
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
        GatewayFrame::Nack(nack) => (Some(Incoming::Nack(Box::new(nack))), None),
        GatewayFrame::Progress(progress) => (Some(Incoming::Progress(progress.sequence)), None),
        GatewayFrame::Credit(credit) => (Some(Incoming::Credit(Box::new(credit))), None),
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

/// The violation of a peer whose message is about a sequence that it was not sent.
pub fn beyond_sent(sequence: Sequence) -> FrameError {
    FrameError::new(ErrorCode::BeyondSent, format!("{sequence} was not sent on this connection"))
}

/// The frame that reports a violation to the peer.
pub fn violation(error: &FrameError) -> ConnectionError {
    ConnectionError { code: error.code.as_str().to_owned(), message: error.message.clone() }
}
