//! Why an event was not appended.

use serde::{Deserialize, Serialize};

use crate::event::{EventId, EventType, GatewayId};
use crate::event_types::FieldError;

use super::RejectionReason;

/// Why one event was not appended. Nothing of it is stored.
///
/// Serialized as part of the response that is stored under an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// These gateways are not registered in the publisher's organisation.
    UnknownGateways(Vec<GatewayId>),
    /// The id belongs to an event with different content.
    IdTaken(EventId),
    /// It failed validation.
    Invalid(ValidationError),
}

impl Refusal {
    /// Stands for a stored refusal that only a newer version knows.
    pub fn unknown() -> Self {
        let why = "was refused for a reason that this version of the service does not know";
        Self::Invalid(ValidationError::invalid("event", why))
    }
}

/// Why an event failed validation. The publisher can correct it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValidationError {
    /// Its text is not JSON. Contains the parser's message.
    Malformed(String),
    /// Fields are invalid.
    Invalid(Vec<FieldError>),
    /// It has expired.
    Expired,
    /// Its type is not registered.
    UnknownType(EventType),
    /// Its type is not registered, and is probably a misspelling of one that is.
    MisspeltType {
        /// The type of the event.
        name: EventType,
        /// The registered type.
        similar: String,
    },
    /// Its frame would exceed the limit for gateways.
    TooLarge {
        /// Size of the frame, in bytes.
        bytes: u64,
        /// The limit, `limits.event_bytes`.
        limit: usize,
    },
}

impl ValidationError {
    /// An error of one field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// The reason under which a row of the inbox is rejected for it.
    pub const fn reason(&self) -> RejectionReason {
        match self {
            Self::Malformed(_) | Self::Invalid(_) => RejectionReason::Invalid,
            Self::Expired => RejectionReason::Expired,
            Self::UnknownType(_) | Self::MisspeltType { .. } => RejectionReason::UnknownEventType,
            Self::TooLarge { .. } => RejectionReason::EventTooLarge,
        }
    }
}

impl std::fmt::Display for ValidationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "The body is not JSON: {why}."),
            Self::Invalid(errors) => {
                for (nth, error) in errors.iter().enumerate() {
                    let between = if nth == 0 { "" } else { "; " };
                    write!(f, "{between}{}: {}", error.field, error.message)?;
                }
                Ok(())
            }
            Self::Expired => f.write_str("expiresAt: is in the past"),
            Self::UnknownType(name) => write!(
                f,
                "The event type {name} is not registered; an admin registers it: PUT /api/internal/v1/event-types/{name}, or gateway-events event-type put {name}."
            ),
            Self::MisspeltType { name, similar } => write!(
                f,
                "The event type {name} is not registered; did you mean {similar}? Otherwise an admin registers it: PUT /api/internal/v1/event-types/{name}, or gateway-events event-type put {name}."
            ),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "The event's frame would have {bytes} bytes; limits.event_bytes allows {limit}."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(json: &str) -> Refusal {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_stored_refusal_is_read_back() {
        let errors =
            ["a", "b"].map(|field| FieldError { field: field.into(), message: "m".into() });
        for error in [
            ValidationError::Malformed("at column 3".to_owned()),
            ValidationError::Invalid(errors.to_vec()),
            ValidationError::Expired,
            ValidationError::UnknownType(EventType::new("some.type").unwrap()),
            ValidationError::MisspeltType {
                name: EventType::new("some.typo").unwrap(),
                similar: "some.type".to_owned(),
            },
            ValidationError::TooLarge { bytes: 9, limit: 8 },
        ] {
            let refusal = Refusal::Invalid(error);
            assert_eq!(stored(&serde_json::to_string(&refusal).unwrap()), refusal);
        }
    }
}
