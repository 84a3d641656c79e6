//! Reads the body of `POST /events`, field by field, so that an error can name the
//! field. A payload's bytes are kept as they are. A large body costs one pass, and
//! reading ends at the first member that an event does not have.

use std::{fmt, iter};

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::{Draft, ValidationError, occurred_at};
use crate::api::{MAX_EVENTS, Object};
use crate::clock::Timestamp;
use crate::cloud_event;
use crate::event_types::too_deep;
use crate::json_error::{WrongValue, without_position};
use crate::trace_context::TraceParent;

type Result<T> = std::result::Result<T, ValidationError>;

const FIELDS: [&str; 13] = [
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
    "collapseKey",
    "traceparent",
];

/// The events of a request.
pub struct Items {
    /// Each event, or why it can't be read.
    pub drafts: Vec<Result<Draft>>,
    /// Whether the body is one event and no batch.
    pub is_single: bool,
}

/// The members of an event, or `events` of a batch, each at most once. Reading ends at
/// the first other member.
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

    fn visit_map<A: MapAccess<'de>>(
        self,
        mut members: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = members.next_key::<String>()? {
            let place = match FIELDS.iter().position(|field| *field == name) {
                Some(at) => &mut fields.named[at],
                None if name == "events" => &mut fields.events,
                None => {
                    if name == cloud_event::name::SPECVERSION {
                        return Err(A::Error::custom(
                            "unknown field `specversion`; a CloudEvent is sent as application/cloudevents+json",
                        ));
                    }
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
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

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        let text = raw.get().as_bytes();
        serde_json::from_slice(text).map(Some).map_err(|error| {
            let wrong = WrongValue::find::<T>(text);
            let WrongValue { path, why } = wrong.unwrap_or_else(|| WrongValue {
                path: Vec::new(),
                why: without_position(&error.to_string()).to_owned(),
            });
            let field: Vec<&str> =
                iter::once(name).chain(path.iter().map(String::as_str)).collect();
            ValidationError::invalid(field.join("/"), too_deep(&why).unwrap_or(&why))
        })
    }

    fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.get(name)?.ok_or_else(|| ValidationError::invalid(name, "is required"))
    }

    /// The events of a batch; `None` if this is a single event.
    fn batch(&self) -> Result<Option<&'a RawValue>> {
        let Some(events) = self.events else { return Ok(None) };
        if self.raw("type").is_some() {
            return Err(ValidationError::invalid("events", "is not a field of an event"));
        }
        match FIELDS.iter().find(|name| self.raw(name).is_some()) {
            Some(name) => Err(ValidationError::invalid(
                *name,
                format!("unknown field `{name}`; a batch has `events` only"),
            )),
            None => Ok(Some(events)),
        }
    }

    fn draft(&self, now: Timestamp, traceparent: Option<TraceParent>) -> Result<Draft> {
        if self.events.is_some() {
            return Err(ValidationError::invalid("events", "is not a field of an event"));
        }
        let payload = self.raw("payload").map(ToOwned::to_owned);
        let gateway_id = self.get("gatewayId")?.map(|id| vec![id]);
        let gateway_ids = self.get("gatewayIds")?;
        if gateway_id.is_some() && gateway_ids.is_some() {
            return Err(ValidationError::invalid(
                "gatewayId",
                "give gatewayId or gatewayIds, not both",
            ));
        }
        Ok(Draft {
            event_type: self.required("type")?,
            payload: payload.ok_or_else(|| ValidationError::invalid("payload", "is required"))?,
            gateway_ids: gateway_ids.or(gateway_id),
            target: self.get("target")?.map(|Object(target)| target),
            id: self.get("id")?,
            correlation_id: self.get("correlationId")?,
            user_id: self.get("userId")?,
            expires_at: self.get("expiresAt")?,
            ttl_secs: self.get("ttlSeconds")?,
            collapse_key: self.get("collapseKey")?,
            occurred_at: occurred_at(self.get("timestamp")?, now)?,
            traceparent: self.get("traceparent")?.or(traceparent),
            attributes: None,
        })
    }
}

/// A list that keeps no more elements than the largest batch has.
pub(super) struct Batch<'a>(pub(super) Vec<&'a RawValue>);

struct BatchVisitor;

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Batch<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut items: A,
    ) -> std::result::Result<Self::Value, A::Error> {
        let mut events = Vec::new();
        while let Some(item) = items.next_element()? {
            if events.len() == MAX_EVENTS {
                // Returns an empty list for one that is too long; the caller refuses both.
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_seq(BatchVisitor)
    }
}

/// Reads a body: an event, a list of events, or `{"events": […]}`. Events without a
/// `traceparent` of their own get the request's.
pub fn read(body: &[u8], now: Timestamp, traceparent: Option<TraceParent>) -> Result<Items> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ValidationError::Malformed("it is not UTF-8".to_owned()))?;
    let batch = match text.trim_start().as_bytes().first() {
        Some(b'[') => parse::<Batch<'_>>(text)?,
        Some(b'{') => {
            let fields: Fields<'_> = parse(text)?;
            let Some(events) = fields.batch()? else {
                let drafts = vec![fields.draft(now, traceparent)];
                return Ok(Items { drafts, is_single: true });
            };
            parse(events.get())?
        }
        _ => {
            parse::<IgnoredAny>(text)?;
            let allowed = "must be an event, a list of events or {\"events\": […]}";
            return Err(ValidationError::invalid("body", allowed));
        }
    };
    if batch.0.is_empty() {
        let allowed = format!("a batch has 1 to {MAX_EVENTS} events");
        return Err(ValidationError::invalid("events", allowed));
    }
    let draft = |item: &RawValue| parse::<Fields<'_>>(item.get())?.draft(now, traceparent);
    Ok(Items { drafts: batch.0.into_iter().map(draft).collect(), is_single: false })
}

pub(super) fn parse<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable::<T>(text.as_bytes(), &error))
}

/// What is wrong with a JSON text from which a `T` can't be read: its syntax, or a field.
pub fn unreadable<'de, T: Deserialize<'de>>(
    text: &'de [u8],
    error: &serde_json::Error,
) -> ValidationError {
    match WrongValue::find::<T>(text) {
        Some(WrongValue { path, why }) if path.is_empty() => ValidationError::invalid("body", why),
        Some(WrongValue { path, why }) => ValidationError::invalid(path.join("/"), why),
        None => malformed(error),
    }
}

/// What is wrong with the syntax of a JSON text.
pub fn malformed(error: &serde_json::Error) -> ValidationError {
    let text = error.to_string();
    ValidationError::Malformed(match error.classify() {
        Category::Eof if error.line() == 1 && error.column() == 0 => "it is empty".to_owned(),
        Category::Eof => text.replace("EOF while parsing", "it ends within"),
        Category::Io | Category::Syntax | Category::Data => text,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::PartialSchema as _;

    use super::*;
    use crate::api::NewEvent;

    #[test]
    fn the_fields_are_those_of_the_documented_type() {
        let schema = serde_json::to_value(NewEvent::schema()).unwrap();
        let documented: BTreeSet<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented, BTreeSet::from(FIELDS));
    }
}
