//! An event as a CloudEvent 1.0 in the JSON format, for gateways of reliable mode that ask for this
//! envelope. It has the members of the protocol, as extension attributes: `sequence` and `previous`
//! are strings with leading zeros, because the Integer of CloudEvents has 32 bits and the extension
//! `sequence` orders its values as strings.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::event_position::EventPosition;
use super::frame::encode;
use crate::cloud_event::{Attributes, DEFAULT_SOURCE, JSON, SPECVERSION, name, padded};
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

/// A sequence as a string.
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
