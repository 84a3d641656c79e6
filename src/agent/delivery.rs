//! What is handed to the product: an event, or a gap in its place.

use std::borrow::Cow;

use crate::client::reliable::{DeliveryGap, EventFrame};
use crate::clock::Timestamp;
use crate::event::{Epoch, Sequence};
use crate::trace_context::TraceParent;
use crate::transport::frames::{FrameType as _, ServerFrame};

/// An event or a gap.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    /// The same in every delivery.
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
    pub(super) traceparent: Option<&'a TraceParent>,
    /// The payload, byte for byte as it was published; of a gap, its frame.
    pub(super) payload: Cow<'a, str>,
    /// The whole frame as JSON.
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
            traceparent: event.traceparent.as_ref(),
            payload: Cow::Borrowed(event.payload.get()),
            frame: text(&ServerFrame::Event(Box::new(event.clone()))),
        }
    }

    pub(super) fn of_gap(gap: &DeliveryGap) -> Self {
        let frame = text(&ServerFrame::Gap(gap.clone()));
        Self {
            id: Cow::Owned(format!("gap-{}-{}-{}", gap.epoch, gap.from, gap.to)),
            kind: DeliveryGap::TYPE,
            sequence: gap.resume_at,
            epoch: gap.epoch,
            correlation_id: None,
            attempt: None,
            time: None,
            user_id: None,
            traceparent: None,
            payload: Cow::Owned(frame.clone()),
            frame,
        }
    }
}

/// A frame as JSON.
fn text(frame: &ServerFrame) -> String {
    String::from_utf8_lossy(&frame.to_text()).into_owned()
}
