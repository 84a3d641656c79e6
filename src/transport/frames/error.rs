//! Errors of frames, and the codes of `connection.error`.

use std::fmt::Display;

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $text:literal,)+) => {
        /// Why the service closes a connection: `code` in `connection.error`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name in `connection.error`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// Not a JSON object with a text member `type`.
    MalformedFrame = "malformed_frame",
    /// A member is missing, of a wrong type or out of range.
    InvalidFrame = "invalid_frame",
    /// The frame or the array of frames is too large.
    FrameTooLarge = "frame_too_large",
    /// The first frame was not `connection.hello`.
    HelloExpected = "hello_expected",
    /// `connection.hello` did not arrive in time.
    HelloTimeout = "hello_timeout",
    /// A second `connection.hello`.
    HelloRepeated = "hello_repeated",
    /// The confirmation of an event that was not sent on this connection.
    BeyondSent = "beyond_sent",
    /// A `delivery.nack` or `delivery.progress` for an event that is not in flight.
    NotInFlight = "not_in_flight",
    /// The gateway showed no sign of life in time.
    HeartbeatTimeout = "heartbeat_timeout",
    /// The gateway did not confirm an event in time.
    ConfirmationTimeout = "confirmation_timeout",
    /// Another connection of the same instance replaced this one.
    Replaced = "replaced",
    /// The gateway has too many named instances.
    TooManyInstances = "too_many_instances",
    /// The service could not open the connection, but a later attempt may succeed.
    Unavailable = "unavailable",
    /// The gateway's key was revoked or has expired.
    TokenRevoked = "token_revoked",
    /// The gateway was disabled.
    GatewayDisabled = "gateway_disabled",
    /// The gateway was deleted.
    GatewayDeleted = "gateway_deleted",
}

/// A frame that violates the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct FrameError {
    /// The code for programs.
    pub code: ErrorCode,
    /// What is wrong, for people: the frame's type, the member and the reason.
    pub message: String,
    /// The member that is invalid, if the error is about one.
    pub member: Option<Box<InvalidMember>>,
}

/// A member of a frame that is missing, of a wrong type or out of range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMember {
    /// Its path, such as `resume.sequence`.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

/// The maximum number of characters of a message. It may quote what the peer sent.
const MESSAGE_CHARACTERS: usize = 300;

impl FrameError {
    /// An error. The message is shortened, and its control characters are replaced.
    pub fn new(code: ErrorCode, message: impl AsRef<str>) -> Self {
        let message = message
            .as_ref()
            .chars()
            .take(MESSAGE_CHARACTERS)
            .map(|it| if it.is_control() { char::REPLACEMENT_CHARACTER } else { it })
            .collect();
        Self { code, message, member: None }
    }

    /// An error about a member, whose path is separated by dots.
    pub fn member(frame_type: &str, path: &str, why: impl Display) -> Self {
        let prefix = format!("{frame_type}: {path}: ");
        let error = Self::invalid(format!("{prefix}{why}"));
        // Shortened with the message, and without control characters.
        let why = error.message.chars().skip(prefix.chars().count()).collect();
        Self { member: Some(Box::new(InvalidMember { path: path.to_owned(), why })), ..error }
    }

    pub(super) fn malformed(message: impl AsRef<str>) -> Self {
        Self::new(ErrorCode::MalformedFrame, message)
    }

    pub(super) fn invalid(message: impl AsRef<str>) -> Self {
        Self::new(ErrorCode::InvalidFrame, message)
    }
}
