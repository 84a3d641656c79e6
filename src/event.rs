//! Domain types: ids, sequences, events and reasons. Their constructors refuse invalid values.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::cloud_event::Attributes;
use crate::trace_context::TraceParent;

mod unknown_name;

pub use unknown_name::UnknownName;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, ordered by time (UUID version 7, RFC 9562).
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                parse_uuid(text).map(Self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(UuidVisitor).map(Self)
            }
        }
    };
}

fn parse_uuid(text: &str) -> Result<Uuid, Invalid> {
    const EXAMPLE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    Uuid::parse_str(text)
        .map_err(|_| Invalid(format!("must be a UUID such as {EXAMPLE}, not {}", quoted(text))))
}

struct UuidVisitor;

impl Visitor<'_> for UuidVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Uuid, E> {
        parse_uuid(text).map_err(E::custom)
    }
}

uuid_newtype!(
    /// The id of a registered gateway in the API.
    GatewayId
);
uuid_newtype!(
    /// The id of a live or past connection.
    ConnectionId
);
uuid_newtype!(
    /// The epoch of a gateway's log. It changes when the log is reset or restored, so that
    /// positions in the old log are not mistaken for positions in the new one.
    Epoch
);
uuid_newtype!(
    /// The id of a process of this service.
    NodeId
);
uuid_newtype!(
    /// The id of a job of the API: a redrive or a replay of many deliveries.
    JobId
);

/// The key of an organisation in the database. Every query of a principal is scoped by the key of
/// its organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrganisationKey(pub i64);

/// The key of a gateway in the database. Never shown to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayKey(pub i64);

/// A sequence in a gateway's log. The first event has 1; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Sequence(pub i64);

impl Sequence {
    /// Before the first event.
    pub const ZERO: Self = Self(0);
    /// The largest value that all JSON parsers represent exactly (RFC 8259, section 6).
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The next sequence; stops at [`Sequence::MAX`].
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1).min(Self::MAX.0))
    }

    /// The previous sequence; stops at zero.
    #[must_use]
    pub fn previous(self) -> Self {
        Self((self.0 - 1).max(0))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads any `i64`. An error names the range, which the reader of a frame checks.
impl<'de> Deserialize<'de> for Sequence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Sequence;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {}", Sequence::MAX)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Sequence, E> {
                Ok(Sequence(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Sequence, E> {
                let found = serde::de::Unexpected::Unsigned(number);
                i64::try_from(number).map(Sequence).map_err(|_| E::invalid_value(found, &self))
            }
        }

        deserializer.deserialize_i64(Number)
    }
}

/// A value that a domain type refuses, with the reason.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Invalid(pub String);

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Validates a value. The error says what it must be.
            pub fn new(text: impl Into<String>) -> Result<Self, Invalid> {
                let text = text.into();
                $check(&text).map_err(Invalid)?;
                Ok(Self(text))
            }

            /// The value as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_newtype!(
    /// An event's id, chosen by its publisher or generated: 1 to 64 visible ASCII characters.
    EventId,
    check_id
);
text_newtype!(
    /// The key by which gateways recognise repeats of an event: 1 to 64 visible ASCII characters,
    /// the same in every delivery.
    CorrelationId,
    check_id
);
text_newtype!(
    /// What a newer event of the same type supersedes older ones by: 1 to 256 bytes, none of them a
    /// control character.
    CollapseKey,
    check_collapse_key
);
text_newtype!(
    /// The first characters of an event's id: 1 to 64 visible ASCII characters.
    EventIdPrefix,
    check_id
);
text_newtype!(
    /// The first characters of a gateway's id, as it is shown: lower-case hexadecimal digits, with
    /// hyphens where a UUID has them.
    GatewayIdPrefix,
    check_uuid_prefix
);
text_newtype!(
    /// A dotted event type such as `api.deployed`.
    EventType,
    check_event_type
);

/// The ids with these first characters lie between those that end with zeros and with `f`s.
const FIRST_UUID: &str = "00000000-0000-0000-0000-000000000000";
const LAST_UUID: &str = "ffffffff-ffff-ffff-ffff-ffffffffffff";

fn check_uuid_prefix(text: &str) -> Result<(), String> {
    let fits = |(byte, of_uuid): (u8, u8)| match of_uuid {
        b'-' => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    let length = (1..=FIRST_UUID.len()).contains(&text.len());
    if length && text.bytes().zip(FIRST_UUID.bytes()).all(fits) {
        return Ok(());
    }
    Err(format!("must be the beginning of a UUID in lower case, not {}", quoted(text)))
}

impl GatewayIdPrefix {
    /// The lowest and the highest id that begins so.
    pub fn range(&self) -> (GatewayId, GatewayId) {
        let end = |rest: &str| {
            let text = format!("{}{}", self.0, rest.get(self.0.len()..).unwrap_or_default());
            text.parse().unwrap_or(GatewayId(Uuid::nil()))
        };
        (end(FIRST_UUID), end(LAST_UUID))
    }
}

fn check_id(text: &str) -> Result<(), String> {
    if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!("must be 1 to 64 visible ASCII characters without blanks, not {}", quoted(text)))
}

fn check_collapse_key(text: &str) -> Result<(), String> {
    if (1..=256).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!(
        "must be 1 to 256 bytes, none of them a control character, not {} of {} bytes",
        quoted(text),
        text.len()
    ))
}

/// Prefixes of frames that are not events. Gateways would mistake an event of such a type for one
/// of these.
const RESERVED_PREFIXES: [&str; 2] = ["connection.", "delivery."];

fn check_event_type(text: &str) -> Result<(), String> {
    let well_formed = text.len() <= 128
        && text.contains('.')
        && text.split('.').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        });
    if !well_formed {
        return Err(format!(
            "must be words of letters, digits, `_` or `-`, joined by dots, at most 128 characters, such as `api.deployed`; not {}",
            quoted(text)
        ));
    }
    let lower = text.to_ascii_lowercase();
    if RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix)) || lower == "deployment.ack"
    {
        return Err(format!(
            "{} is reserved for the protocol itself (`connection.*`, `delivery.*`, `deployment.ack`); choose another name",
            quoted(text)
        ));
    }
    Ok(())
}

/// A shortened, escaped quotation of a text from outside.
pub fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    format!("{shown:?}")
}

/// An event, stored once and sent to many gateways.
#[derive(Debug, Clone)]
pub struct Event {
    /// The event's id.
    pub id: EventId,
    /// The event's type.
    pub event_type: EventType,
    /// A JSON object, kept byte for byte, because gateways compare times and numbers in it.
    pub payload: Box<RawValue>,
    /// The key by which gateways recognise repeats.
    pub correlation_id: CorrelationId,
    /// The user who caused it, if the publisher named one.
    pub user_id: Option<String>,
    /// When it was published or occurred; the frame's `timestamp`.
    pub occurred_at: Timestamp,
    /// When it expires. It is not sent afterwards.
    pub expires_at: Option<Timestamp>,
    /// The publisher's trace context, which gateways receive unchanged.
    pub traceparent: Option<TraceParent>,
    /// What else it has if it was published as a CloudEvent.
    pub attributes: Option<Box<Attributes>>,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why an attempt failed or a connection ended. The ledger, the filters of the API and the
        /// logs share this list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            /// A reason that this version does not know: a newer one recorded it.
            Unknown(UnknownName),
        }

        impl Reason {
            /// All known reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its stable name in the database, the API and the logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unknown(name) => name.as_str(),
                }
            }
        }

        /// Refuses unknown reasons; [`Reason::stored`] accepts them.
        impl FromStr for Reason {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                match text {
                    $($text => Ok(Self::$name),)*
                    _ => Err(Invalid(format!(
                        "{} is not a reason; expected one of: {}",
                        quoted(text),
                        Self::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", ")
                    ))),
                }
            }
        }
    };
}

reasons! {
    /// The gateway had no live connection.
    NotConnected = "not_connected",
    /// The connection broke, or ended without a closing handshake.
    ConnectionLost = "connection_lost",
    /// The gateway closed the connection cleanly.
    ClosedByGateway = "closed_by_gateway",
    /// The gateway showed no activity within the timeout.
    HeartbeatTimeout = "heartbeat_timeout",
    /// The gateway was alive but did not confirm the event within the timeout.
    ConfirmationTimeout = "confirmation_timeout",
    /// The gateway stopped reading.
    WriteTimeout = "write_timeout",
    /// The gateway violated the protocol.
    ProtocolError = "protocol_error",
    /// The gateway's token was revoked or expired.
    TokenRevoked = "token_revoked",
    /// The gateway was disabled.
    GatewayDisabled = "gateway_disabled",
    /// The gateway was deleted.
    GatewayDeleted = "gateway_deleted",
    /// A later connection of the same instance replaced it.
    Replaced = "replaced",
    /// A resync was requested. The gateway reads a snapshot when it has reconnected.
    Resync = "resync",
    /// This node shut down.
    Shutdown = "shutdown",
    /// The node died or lost its database. What happened to unconfirmed deliveries is unknown.
    NodeLost = "node_lost",
    /// The event expired before it was delivered.
    Expired = "expired",
    /// The event was removed by retention's hard limit before it was confirmed.
    Retention = "retention",
    /// The event is missing in the database, or can't be read there.
    Unreadable = "unreadable",
    /// An admin has skipped the event for this gateway.
    Skipped = "skipped",
    /// An admin has purged the event's payload before it was delivered.
    Purged = "purged",
    /// A newer event with the same type and collapse key was sent instead. This is no failure.
    Superseded = "superseded",
    /// The gateway reported that it could not process the event (`GATEWAY_PROCESSING_ERROR`).
    GatewayProcessingError = "gateway_processing_error",
    /// The gateway reported a different deployment (`DEPLOYMENT_ID_MISMATCH`).
    DeploymentIdMismatch = "deployment_id_mismatch",
    /// Applying the event failed, or the gateway reported a failure with an unknown code.
    ApplyFailed = "apply_failed",
    /// The gateway found the event invalid.
    Invalid = "invalid",
    /// The gateway does not support the event.
    Unsupported = "unsupported",
    /// Something that the event refers to does not exist on the gateway.
    DependencyMissing = "dependency_missing",
    /// The gateway took too long to apply the event.
    Timeout = "timeout",
    /// The gateway has too much to do.
    Overloaded = "overloaded",
    /// The event conflicts with the gateway's state.
    Conflict = "conflict",
}

impl Reason {
    /// A reason from the database or a response, which a newer version may have written.
    pub fn stored(name: &str) -> Self {
        name.parse().unwrap_or_else(|_| Self::Unknown(UnknownName::new(name)))
    }

    /// Whether an admin has withdrawn the event, so that it is no longer sent.
    pub const fn is_by_admin(self) -> bool {
        matches!(self, Self::Skipped | Self::Purged)
    }

    /// Whether the service withdrew the event without regard to attempts at it: it may never have been
    /// sent.
    pub const fn is_withdrawn(self) -> bool {
        matches!(
            self,
            Self::Skipped
                | Self::Purged
                | Self::Superseded
                | Self::Expired
                | Self::Retention
                | Self::Unreadable
        )
    }

    /// Whether a gateway reported it (`deployment.ack`, or a negative acknowledgement). If so, the
    /// gateway has handled the event, and a receipt does not contradict the failure. Unknown reasons
    /// count as reported, so that no failure is lost.
    pub const fn is_reported(self) -> bool {
        matches!(
            self,
            Self::GatewayProcessingError
                | Self::DeploymentIdMismatch
                | Self::ApplyFailed
                | Self::Invalid
                | Self::Unsupported
                | Self::DependencyMissing
                | Self::Timeout
                | Self::Overloaded
                | Self::Conflict
                | Self::Unknown(_)
        )
    }

    /// Whether connections end with this reason. If so, a failed attempt with it was sent on its
    /// connection. Other failed attempts are those at events that were skipped or reported.
    pub const fn ends_connections(self) -> bool {
        matches!(
            self,
            Self::ConnectionLost
                | Self::ClosedByGateway
                | Self::HeartbeatTimeout
                | Self::ConfirmationTimeout
                | Self::WriteTimeout
                | Self::ProtocolError
                | Self::TokenRevoked
                | Self::GatewayDisabled
                | Self::GatewayDeleted
                | Self::Replaced
                | Self::Resync
                | Self::Shutdown
                | Self::NodeLost
        )
    }

    /// Whether the event may have caused the failure of an attempt that ended with this reason.
    /// Such failures count towards the limit after which the event becomes a dead letter. Ends
    /// caused by this service do not.
    pub const fn is_attributed_to_the_event(self) -> bool {
        matches!(
            self,
            Self::ConnectionLost
                | Self::ClosedByGateway
                | Self::HeartbeatTimeout
                | Self::ConfirmationTimeout
                | Self::WriteTimeout
                | Self::ProtocolError
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self::stored(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocols_own_names_are_no_event_types() {
        for reserved in ["connection.ack", "delivery.mark", "deployment.ack", "Connection.x"] {
            assert!(EventType::new(reserved).is_err(), "{reserved}");
        }
        for malformed in ["", "api", ".deployed", "api.", "api..x", "a b.c", "api.dé"] {
            assert!(EventType::new(malformed).is_err(), "{malformed}");
        }
        assert!(EventType::new("subscriptionPlan.created").is_ok());
    }

    #[test]
    fn the_beginning_of_an_id_is_a_range_of_ids() {
        let prefix: GatewayIdPrefix = "0198c0de-00".parse().unwrap();
        let (first, last) = prefix.range();
        assert_eq!(first.to_string(), "0198c0de-0000-0000-0000-000000000000");
        assert_eq!(last.to_string(), "0198c0de-00ff-ffff-ffff-ffffffffffff");
        let whole: GatewayIdPrefix = first.to_string().parse().unwrap();
        assert_eq!(whole.range(), (first, first));
        for bad in ["", "g", "0198C", "0198c0de0", "0198-", &format!("{first}0")] {
            assert!(GatewayIdPrefix::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_reason_is_read_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert_eq!(Reason::stored(reason.as_str()), *reason);
        }
    }

    #[test]
    fn a_reason_of_a_newer_version_is_read_back_and_refused_in_requests() {
        let reason: Reason = serde_json::from_str(r#""quota_exceeded""#).unwrap();
        assert_eq!(serde_json::to_string(&reason).unwrap(), r#""quota_exceeded""#);
        assert!(reason.is_reported() && !reason.is_attributed_to_the_event());
        assert!("quota_exceeded".parse::<Reason>().is_err());
    }
}
