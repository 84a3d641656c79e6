//! The refusal of a gateway that was admitted and got no connection: as the end of a stream that has
//! begun, and as the response to a request.

use super::problem::{Challenge, Problem};
use crate::admission::NotOpened;
use crate::api::Code;
use crate::event::Reason;
use crate::store::Conflict;
use crate::transport::frames::{ErrorCode, FrameError, FrameType as _, Hello};
use crate::transport::reliable::{Closing, violation};

/// How a stream that has begun ends.
pub(super) fn closing(cause: NotOpened) -> Closing {
    match cause {
        NotOpened::Closed(reason) => reason.into(),
        NotOpened::Conflict(conflict) => (&frame_error(&conflict)).into(),
        NotOpened::Unavailable => {
            let message = "The service is not available; connect again.";
            let error = violation(&FrameError::new(ErrorCode::Unavailable, message));
            Closing { reason: Reason::NodeLost, error: Some(error) }
        }
    }
}

fn frame_error(conflict: &Conflict) -> FrameError {
    match conflict {
        Conflict::InstanceName { .. } => FrameError::member(Hello::TYPE, "instance", conflict),
        _ => FrameError::new(ErrorCode::TooManyInstances, conflict.to_string()),
    }
}

/// The response to a request.
pub(super) fn problem(cause: NotOpened) -> Problem {
    match cause {
        NotOpened::Conflict(conflict @ Conflict::InstanceName { .. }) => {
            Problem::invalid("instance", conflict.to_string())
        }
        NotOpened::Conflict(conflict) => {
            Problem::new(Code::Conflict, frame_error(&conflict).message)
        }
        NotOpened::Closed(_) | NotOpened::Unavailable => closed(closing(cause)),
    }
}

/// The response to a request whose connection was closed.
pub(super) fn closed(Closing { reason, error }: Closing) -> Problem {
    let message = || error.map(|error| error.message).unwrap_or_default();
    match reason {
        Reason::TokenRevoked | Reason::GatewayDeleted => Problem::unauthorized(Challenge::ApiKey),
        Reason::GatewayDisabled => Problem::new(Code::GatewayDisabled, message()),
        Reason::Shutdown => {
            Problem::unavailable(Code::Draining, "This node is shutting down; connect again.")
        }
        Reason::ProtocolError => Problem::new(Code::InvalidFrame, message()),
        _ => Problem::unavailable(
            Code::Unavailable,
            "The connection could not be opened; connect again.",
        ),
    }
}
