//! What can be wrong with an event, in words that are the same for all who publish.

use crate::event::EventType;
use crate::event_types::FieldError;
use crate::store::{Rejection, RejectionReason};

/// A rejected row's detail is for people; beyond this nobody reads it.
const LONGEST_DETAIL: usize = 1000;

/// Why an event can't be appended; the publisher can do something about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Fields are wrong.
    Invalid(Vec<FieldError>),
    /// It is too old already.
    Expired,
    /// Its type is not registered.
    UnknownType(EventType),
    /// Its frame would be larger than gateways take.
    TooLarge {
        /// How large.
        bytes: u64,
        /// What `limits.event_bytes` allows.
        limit: usize,
    },
}

impl Objection {
    /// One field is wrong.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// Its stable name.
    pub const fn reason(&self) -> RejectionReason {
        match self {
            Self::Invalid(_) => RejectionReason::Invalid,
            Self::Expired => RejectionReason::Expired,
            Self::UnknownType(_) => RejectionReason::UnknownEventType,
            Self::TooLarge { .. } => RejectionReason::EventTooLarge,
        }
    }
}

impl std::fmt::Display for Objection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(errors) => {
                for (nth, error) in errors.iter().enumerate() {
                    let between = if nth == 0 { "" } else { "; " };
                    write!(f, "{between}{}: {}", error.field, error.message)?;
                }
                Ok(())
            }
            Self::Expired => f.write_str("expiresAt: lies in the past"),
            Self::UnknownType(name) => write!(
                f,
                "The event type {name} is not registered; an admin registers it with PUT /api/internal/v1/event-types/{name}."
            ),
            Self::TooLarge { bytes, limit } => write!(
                f,
                "The event's frame would have {bytes} bytes; limits.event_bytes allows {limit}."
            ),
        }
    }
}

impl From<Objection> for Rejection {
    fn from(objection: Objection) -> Self {
        let detail = objection.to_string().chars().take(LONGEST_DETAIL).collect();
        Self { reason: objection.reason(), detail }
    }
}
