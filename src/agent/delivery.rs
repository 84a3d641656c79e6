//! What is handed to the product: an event, or a gap in its place.

use std::borrow::Cow;

use serde::Serialize;

use crate::client::reliable::{DeliveryGap, EventFrame};
use crate::clock::Timestamp;
use crate::cloud_event::Attributes;
use crate::event::{Epoch, Sequence};
use crate::trace_context::TraceParent;
use crate::transport::frames::FrameType as _;

/// An event or a gap.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    /// The id, which is the same in every delivery of an event.
    pub(super) id: Cow<'a, str>,
    /// The event's type, or `delivery.gap`.
    pub(super) kind: &'a str,
    /// The event's sequence, or the one after which delivery continues after the gap.
    pub(super) sequence: Sequence,
    /// The epoch of the log.
    pub(super) epoch: Epoch,
    /// Absent from gaps, like all that follows.
    pub(super) correlation_id: Option<&'a str>,
    pub(super) attempt: Option<u32>,
    pub(super) time: Option<Timestamp>,
    pub(super) user_id: Option<&'a str>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) traceparent: Option<&'a TraceParent>,
    /// The attributes with which the event was published as a CloudEvent.
    pub(super) attributes: Option<&'a Attributes>,
    /// The payload, byte for byte as it was published; of a gap, its frame.
    pub(super) payload: Cow<'a, str>,
    /// The whole frame as JSON, with these attributes.
    pub(super) frame: String,
}

impl<'a> Delivery<'a> {
    pub(super) fn of_event(event: &'a EventFrame) -> Self {
        Self {
            id: Cow::Borrowed(event.event_id.as_str()),
            kind: event.event_type.as_str(),
            sequence: event.sequence,
            epoch: event.epoch,
            correlation_id: Some(event.correlation_id.as_str()),
            attempt: Some(event.attempt),
            time: Some(event.timestamp),
            user_id: event.user_id.as_deref(),
            expires_at: event.expires_at,
            traceparent: event.traceparent.as_ref(),
            attributes: event.attributes.as_deref(),
            payload: Cow::Borrowed(event.payload.get()),
            frame: text(&WithAttributes { event, attributes: event.attributes.as_deref() }),
        }
    }

    pub(super) fn of_gap(gap: &DeliveryGap) -> Self {
        let frame = text(gap);
        Self {
            id: Cow::Owned(format!("gap-{}-{}-{}", gap.epoch, gap.from, gap.to)),
            kind: DeliveryGap::TYPE,
            sequence: gap.resume_at,
            epoch: gap.epoch,
            correlation_id: None,
            attempt: None,
            time: None,
            user_id: None,
            expires_at: None,
            traceparent: None,
            attributes: None,
            payload: Cow::Owned(frame.clone()),
            frame,
        }
    }
}

/// An event's frame, with the attributes that it does not have as members.
#[derive(Serialize)]
struct WithAttributes<'a> {
    #[serde(flatten)]
    event: &'a EventFrame,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a Attributes>,
}

/// A frame as JSON.
fn text(frame: &impl Serialize) -> String {
    // Nothing in a frame can't be written as JSON.
    serde_json::to_string(frame).unwrap_or_default()
}
