//! An event as a CloudEvent 1.0 in the JSON format, for gateways of reliable mode that ask for this
//! envelope, and how a client reads it. It has the members of the protocol, as extension attributes: `sequence` and `previous`
//! are texts with leading zeros, because the Integer of CloudEvents has 32 bits and the extension
//! `sequence` orders its values as texts.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::value::RawValue;

use super::event_position::EventPosition;
use super::frame::encode;
use super::frames::{EventFrame, FrameError};
use crate::cloud_event::{Attributes, DEFAULT_SOURCE, JSON, SPECVERSION, Value, name, padded};
use crate::event::{Event, Sequence};

/// The event's JSON. The payload is copied byte for byte.
pub(super) fn text(event: &Event, position: EventPosition) -> Bytes {
    // An envelope without the publisher's attributes has some 500 bytes besides its payload.
    let attributes = event.attributes.as_ref().map_or(0, |attributes| 2 * attributes.bytes());
    let mut text = Vec::with_capacity(event.payload.get().len() + attributes + 512);
    encode(&mut text, &Envelope { event, position });
    text.into()
}

struct Envelope<'a> {
    event: &'a Event,
    position: EventPosition,
}

/// Reads an event, with the attributes that the protocol does not have itself.
pub(crate) fn parse(text: &[u8]) -> Result<EventFrame, FrameError> {
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
    FrameError::invalid(format!("CloudEvent: {name}: {why}"))
}

/// A sequence as a text.
struct Padded(Sequence);

impl Serialize for Padded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&padded(self.0.0))
    }
}

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { event, position } = self;
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry(name::SPECVERSION, SPECVERSION)?;
        members.serialize_entry(name::ID, &event.id)?;
        members.serialize_entry(name::TYPE, &event.event_type)?;
        members.serialize_entry(name::TIME, &event.occurred_at)?;
        let attributes = event.attributes.as_deref();
        let has = |name| attributes.is_some_and(|attributes| attributes.get(name).is_some());
        for (name, default) in [(name::SOURCE, DEFAULT_SOURCE), (name::DATACONTENTTYPE, JSON)] {
            if !has(name) {
                members.serialize_entry(name, default)?;
            }
        }
        for (name, value) in attributes.into_iter().flat_map(Attributes::iter) {
            members.serialize_entry(name, value)?;
        }
        members.serialize_entry(name::CORRELATION_ID, &event.correlation_id)?;
        if let Some(user_id) = &event.user_id {
            members.serialize_entry(name::USER_ID, user_id)?;
        }
        if let Some(expires_at) = &event.expires_at {
            members.serialize_entry(name::EXPIRY_TIME, expires_at)?;
        }
        if let Some(traceparent) = &event.traceparent {
            members.serialize_entry(name::TRACEPARENT, traceparent)?;
        }
        members.serialize_entry(name::SEQUENCE, &Padded(position.sequence))?;
        members.serialize_entry(name::PREVIOUS, &Padded(position.previous))?;
        members.serialize_entry(name::EPOCH, &position.epoch)?;
        // An Integer of CloudEvents.
        let attempt = i32::try_from(position.attempt).unwrap_or(i32::MAX);
        members.serialize_entry(name::ATTEMPT, &attempt)?;
        members.serialize_entry(name::DATA, &event.payload)?;
        members.end()
    }
}
