//! Reads what publishers send, field by field, so that a refusal can name the
//! field. The payload's bytes are kept as they came. What is large costs one
//! pass, and reading ends at the first member that an event does not have.

use std::fmt;

use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::extract;
use super::problem::{Answer, Problem};
use crate::clock::Timestamp;
use crate::event_types::too_deep;
use crate::intake::object::Object;
use crate::intake::{Draft, occurrence};
use crate::trace_context::TraceParent;

const FIELDS: [&str; 12] = [
    "type",
    "payload",
    "gatewayIds",
    "gatewayId",
    "target",
    "correlationId",
    "id",
    "userId",
    "timestamp",
    "expiresAt",
    "ttlSeconds",
    "traceparent",
];

/// A batch has at most this many events.
const MAX_BATCH: usize = 1000;

/// What a request holds: each event, or why it can't be read.
pub(super) struct Items {
    pub(super) drafts: Vec<Answer<Draft>>,
    /// It is one event, and is answered as one.
    pub(super) is_single: bool,
}

/// The members of an event, or `events` of a batch, each of which stands there
/// once. Reading ends at the first that is neither.
#[derive(Default)]
struct Fields<'a> {
    named: [Option<&'a RawValue>; FIELDS.len()],
    events: Option<&'a RawValue>,
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = members.next_key::<String>()? {
            let place = match FIELDS.iter().position(|field| *field == name) {
                Some(at) => &mut fields.named[at],
                None if name == "events" => &mut fields.events,
                None => {
                    let (shown, known) = (shortened(&name), FIELDS.join(", "));
                    return Err(A::Error::custom(format_args!(
                        "unknown field `{shown}`; an event has {known}"
                    )));
                }
            };
            if place.replace(members.next_value()?).is_some() {
                let shown = shortened(&name);
                return Err(A::Error::custom(format_args!("duplicate field `{shown}`")));
            }
        }
        Ok(fields)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

impl<'a> Fields<'a> {
    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let at = FIELDS.iter().position(|field| *field == name)?;
        self.named[at].filter(|raw| raw.get() != "null")
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Answer<Option<T>> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        serde_json::from_str(raw.get()).map(Some).map_err(|error| {
            let text = error.to_string();
            let why = text.split(" at line ").next().unwrap_or(&text);
            Problem::invalid(name, too_deep(why).unwrap_or(why))
        })
    }

    fn required<T: DeserializeOwned>(&self, name: &str) -> Answer<T> {
        self.get(name)?.ok_or_else(|| Problem::invalid(name, "is required"))
    }

    /// Whether it is a batch, and not an event with a member that events don't have.
    fn batch(&self) -> Answer<Option<&'a RawValue>> {
        let Some(events) = self.events else { return Ok(None) };
        if self.raw("type").is_some() {
            return Err(Problem::invalid("events", "is no field of an event"));
        }
        match FIELDS.iter().find(|name| self.raw(name).is_some()) {
            Some(name) => Err(Problem::invalid(
                *name,
                format!("unknown field `{name}`; a batch has `events` only"),
            )),
            None => Ok(Some(events)),
        }
    }

    fn draft(&self, now: Timestamp, traceparent: Option<TraceParent>) -> Answer<Draft> {
        if self.events.is_some() {
            return Err(Problem::invalid("events", "is no field of an event"));
        }
        let payload = self.raw("payload").map(ToOwned::to_owned);
        let gateway_id = self.get("gatewayId")?.map(|id| vec![id]);
        let gateway_ids = self.get("gatewayIds")?;
        if gateway_id.is_some() && gateway_ids.is_some() {
            return Err(Problem::invalid("gatewayId", "give gatewayId or gatewayIds, not both"));
        }
        Ok(Draft {
            event_type: self.required("type")?,
            payload: payload.ok_or_else(|| Problem::invalid("payload", "is required"))?,
            gateway_ids: gateway_ids.or(gateway_id),
            target: self.get("target")?.map(|Object(target)| target),
            id: self.get("id")?,
            correlation_id: self.get("correlationId")?,
            user_id: self.get("userId")?,
            expires_at: self.get("expiresAt")?,
            ttl_secs: self.get("ttlSeconds")?,
            occurred_at: occurrence(self.get("timestamp")?, now)?,
            traceparent: self.get("traceparent")?.or(traceparent),
        })
    }
}

/// A list that is read no further than a batch may be long.
struct Batch<'a>(Vec<&'a RawValue>);

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(item) = items.next_element()? {
            if events.len() == MAX_BATCH {
                // Said of the field `events`; the text is chosen where it is known.
                events.clear();
                while items.next_element::<IgnoredAny>()?.is_some() {}
                break;
            }
            events.push(item);
        }
        Ok(Batch(events))
    }
}

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BatchVisitor)
    }
}

/// Reads a body: an event, a list of events, or `{"events": […]}`. Events without a
/// `traceparent` of their own get the request's.
pub(super) fn read(body: &[u8], now: Timestamp, traceparent: Option<TraceParent>) -> Answer<Items> {
    let text = std::str::from_utf8(body).map_err(|_| {
        Problem::new(StatusCode::BAD_REQUEST, "malformed_json", "The body is not UTF-8.")
    })?;
    let batch = match text.trim_start().as_bytes().first() {
        Some(b'[') => extract::parse_text::<Batch<'_>>(text)?,
        Some(b'{') => {
            let fields: Fields<'_> = extract::parse_text(text)?;
            match fields.batch()? {
                Some(events) => extract::parse_text(events.get())?,
                None => {
                    return Ok(Items {
                        drafts: vec![fields.draft(now, traceparent)],
                        is_single: true,
                    });
                }
            }
        }
        _ => {
            extract::parse_text::<IgnoredAny>(text)?;
            let allowed = "must be an event, a list of events or {\"events\": […]}";
            return Err(Problem::invalid("body", allowed));
        }
    };
    if batch.0.is_empty() {
        let allowed = format!("a batch has 1 to {MAX_BATCH} events");
        return Err(Problem::invalid("events", allowed));
    }
    let draft =
        |item: &RawValue| extract::parse_text::<Fields<'_>>(item.get())?.draft(now, traceparent);
    Ok(Items { drafts: batch.0.into_iter().map(draft).collect(), is_single: false })
}
