//! How a client reads an event that the service sends as a CloudEvent 1.0 in the JSON format.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{EventFrame, FrameError};
use crate::cloud_event::{Attributes, DEFAULT_SOURCE, JSON, Value, name};
use crate::event::Sequence;

/// Reads an event, with the attributes that the protocol does not have itself.
pub(in crate::transport) fn parse(text: &[u8]) -> Result<EventFrame, FrameError> {
    let members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(text).map_err(|error| FrameError::malformed(error.to_string()))?;
    let mut members = Members(members);
    let attempt: i32 = members.take(name::ATTEMPT)?;
    members.0.remove(name::SPECVERSION);
    let frame = EventFrame {
        event_id: members.take(name::ID)?,
        event_type: members.take(name::TYPE)?,
        timestamp: members.take(name::TIME)?,
        correlation_id: members.take(name::CORRELATION_ID)?,
        user_id: members.take_optional(name::USER_ID)?,
        expires_at: members.take_optional(name::EXPIRY_TIME)?,
        traceparent: members.take_optional(name::TRACEPARENT)?,
        sequence: members.take_sequence(name::SEQUENCE)?,
        previous: members.take_sequence(name::PREVIOUS)?,
        epoch: members.take(name::EPOCH)?,
        attempt: attempt.unsigned_abs(),
        payload: members.take(name::DATA)?,
        attributes: None,
    };
    let mut attributes = Attributes::default();
    for (name, value) in members.0 {
        let value = serde_json::from_str(value.get()).map_err(|error| invalid(&name, &error))?;
        if !is_default(&name, &value) {
            attributes.insert(name, value);
        }
    }
    let has_any = attributes.iter().next().is_some();
    Ok(EventFrame { attributes: has_any.then(|| Box::new(attributes)), ..frame })
}

/// Whether the service adds this attribute to events that were published without it.
fn is_default(name: &str, value: &Value) -> bool {
    let Value::Text(text) = value else { return false };
    matches!((name, text.as_str()), (name::SOURCE, DEFAULT_SOURCE) | (name::DATACONTENTTYPE, JSON))
}

/// The members of an event that are not read yet.
struct Members(BTreeMap<String, Box<RawValue>>);

impl Members {
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, FrameError> {
        self.take_optional(name)?.ok_or_else(|| invalid(name, &"is missing"))
    }

    fn take_optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, FrameError> {
        let value = self.0.remove(name);
        let value = value.map(|value| serde_json::from_str(value.get())).transpose();
        value.map_err(|error| invalid(name, &error))
    }

    fn take_sequence(&mut self, name: &str) -> Result<Sequence, FrameError> {
        let text: String = self.take(name)?;
        text.parse().map(Sequence).map_err(|error| invalid(name, &error))
    }
}

fn invalid(name: &str, why: &impl fmt::Display) -> FrameError {
    FrameError::member("CloudEvent", name, why)
}
