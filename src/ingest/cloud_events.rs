//! Reads CloudEvents 1.0 in the content modes of their HTTP binding. Their attributes become the
//! fields of a [`Draft`]; those that no field has are kept with it. An error names the attribute.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::body::{Batch, Items, malformed, parse};
use super::{Draft, ValidationError, occurred_at};
use crate::api::{MAX_EVENTS, Target};
use crate::clock::Timestamp;
use crate::cloud_event::{
    Attributes, BATCH_MEDIA_TYPE, HEADER_PREFIX, JSON, MAX_ATTRIBUTES, MAX_ATTRIBUTES_BYTES,
    MAX_VALUE_BYTES, MEDIA_TYPE, SPECVERSION, Value, check_name, check_text, check_uri_reference,
    decoded, is_json, name,
};
use crate::event::{GatewayId, quoted};
use crate::event_types::FieldError;
use crate::trace_context::TraceParent;

type Result<T> = std::result::Result<T, ValidationError>;

/// The largest value of an attribute that selects gateways, in bytes: some 1,700 ids.
const MAX_TARGET_BYTES: usize = 64 * 1024;

/// Attributes that become fields of the draft.
const CONSUMED: [&str; 12] = [
    name::ID,
    name::TYPE,
    name::TIME,
    name::CORRELATION_ID,
    name::USER_ID,
    name::EXPIRY_TIME,
    name::TTL_SECONDS,
    name::COLLAPSE_KEY,
    name::TRACEPARENT,
    name::GATEWAY_IDS,
    name::TARGET_LABELS,
    name::TARGET_ALL,
];

/// Reads an event in binary mode: its attributes are the headers, of which those without the prefix
/// are ignored, and its data is the body.
pub fn read_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    content_type: Option<&str>,
    body: &[u8],
    now: Timestamp,
    traceparent: Option<TraceParent>,
) -> Result<Items> {
    let mut event = Incoming::default();
    for (header, value) in headers {
        let Some(name) = header.strip_prefix(HEADER_PREFIX) else { continue };
        if name == name::DATACONTENTTYPE {
            let why = "is the header Content-Type in binary mode; remove ce-datacontenttype";
            return Err(ValidationError::invalid(name, why));
        }
        let text = decoded(value)
            .map_err(|error| ValidationError::invalid(shown(name), error.to_string()))?;
        event.insert(name.to_owned(), Value::Text(text))?;
    }
    if let Some(media_type) = content_type {
        event.insert(name::DATACONTENTTYPE.to_owned(), Value::Text(media_type.to_owned()))?;
    }
    event.check()?;
    let text = std::str::from_utf8(body)
        .map_err(|_| ValidationError::Malformed("it is not UTF-8".to_owned()))?;
    let data: &RawValue = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    let drafts = vec![event.draft(data.to_owned(), now, traceparent)];
    Ok(Items { drafts, is_single: true })
}

/// Reads an event in structured mode: the body is one event in the JSON format.
pub fn read_structured(
    body: &[u8],
    now: Timestamp,
    traceparent: Option<TraceParent>,
) -> Result<Items> {
    let text = utf8(body)?;
    if text.trim_start().starts_with('[') {
        let why = format!("is a list; send a batch as {BATCH_MEDIA_TYPE}");
        return Err(ValidationError::invalid("body", why));
    }
    let members: Members<'_> = parse(text)?;
    let drafts = vec![members.draft(now, traceparent)];
    Ok(Items { drafts, is_single: true })
}

/// Reads a batch: the body is a list of events in the JSON format.
pub fn read_batch(body: &[u8], now: Timestamp, traceparent: Option<TraceParent>) -> Result<Items> {
    let text = utf8(body)?;
    if text.trim_start().starts_with('{') {
        let why = format!("is one event, not a list; send it as {MEDIA_TYPE}");
        return Err(ValidationError::invalid("body", why));
    }
    let batch: Batch<'_> = parse(text)?;
    if batch.0.is_empty() {
        let why = format!("must have 1 to {MAX_EVENTS} events; send larger batches in parts");
        return Err(ValidationError::invalid("body", why));
    }
    let draft = |item: &RawValue| parse::<Members<'_>>(item.get())?.draft(now, traceparent);
    Ok(Items { drafts: batch.0.into_iter().map(draft).collect(), is_single: false })
}

fn utf8(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body).map_err(|_| ValidationError::Malformed("it is not UTF-8".to_owned()))
}

/// An error about a field of a draft as one about the attribute that the field was read from.
pub(super) fn of_attributes(error: ValidationError) -> ValidationError {
    let renamed = |error: FieldError| {
        let (first, rest) = match error.field.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (error.field.as_str(), None),
        };
        let attribute = match first {
            "payload" => name::DATA,
            "timestamp" => name::TIME,
            "correlationId" => name::CORRELATION_ID,
            "userId" => name::USER_ID,
            "expiresAt" => name::EXPIRY_TIME,
            "ttlSeconds" => name::TTL_SECONDS,
            other => other,
        };
        let field = rest.map_or_else(|| attribute.to_owned(), |rest| format!("{attribute}/{rest}"));
        FieldError { field, message: error.message }
    };
    match error {
        ValidationError::Invalid(errors) => {
            ValidationError::Invalid(errors.into_iter().map(renamed).collect())
        }
        ValidationError::Expired => ValidationError::invalid(name::EXPIRY_TIME, "is in the past"),
        other => other,
    }
}

/// The members of an object. Reading stops at the limit plus one.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut members: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some(name) = members.next_key::<String>()? {
                    // Attributes, and both members for the data.
                    if found.len() <= MAX_ATTRIBUTES + 2 {
                        found.push((name, members.next_value()?));
                    } else {
                        members.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Members(found))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl Members<'_> {
    fn draft(self, now: Timestamp, traceparent: Option<TraceParent>) -> Result<Draft> {
        let mut event = Incoming::default();
        let (mut data, mut data_base64) = (None, None);
        for (name, value) in self.0 {
            let place = match name.as_str() {
                name::DATA => &mut data,
                name::DATA_BASE64 => &mut data_base64,
                _ => {
                    match attribute(&name, value)? {
                        Some(value) => event.insert(name, value)?,
                        None => event.insert_unset(name)?,
                    }
                    continue;
                }
            };
            if place.replace(value).is_some() {
                return Err(doubled(&name));
            }
        }
        event.check()?;
        let data = match (data, data_base64.filter(|value| value.get() != "null")) {
            (Some(data), None) => data.to_owned(),
            (None, Some(encoded)) => event.json_in_base64(encoded)?,
            (Some(_), Some(_)) => {
                let why = "is given together with `data`; give only one of them";
                return Err(ValidationError::invalid(name::DATA_BASE64, why));
            }
            (None, None) => {
                return Err(ValidationError::invalid(name::DATA, "is required: a JSON object"));
            }
        };
        event.draft(data, now, traceparent)
    }
}

/// The value of a member that is an attribute; `None` if it is unset.
fn attribute(name: &str, value: &RawValue) -> Result<Option<Value>> {
    check_name(name).map_err(|why| ValidationError::invalid(shown(name), why))?;
    let text = value.get();
    if text == "null" {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|_| {
        let why = match text.as_bytes().first() {
            _ if name == name::SPECVERSION => r#"must be the string "1.0""#,
            Some(b'-' | b'0'..=b'9') => {
                "must be a whole number from -2147483648 to 2147483647; send other numbers as strings"
            }
            Some(b'{' | b'[') => {
                "must be a string, true, false or a whole number; put objects and lists into the data"
            }
            _ => "has an invalid escape sequence",
        };
        ValidationError::invalid(shown(name), why)
    })
}

/// The attributes of an event, each at most once.
#[derive(Default)]
struct Incoming(BTreeMap<String, Option<Value>>);

impl Incoming {
    fn insert(&mut self, name: String, value: Value) -> Result<()> {
        let invalid = |why: String| ValidationError::invalid(shown(&name), why);
        if let Value::Text(text) = &value {
            check_text(text).map_err(invalid)?;
            let most = match name.as_str() {
                name::GATEWAY_IDS | name::TARGET_LABELS => MAX_TARGET_BYTES,
                // The field of the draft has a limit of its own, which its error names.
                consumed if CONSUMED.contains(&consumed) => usize::MAX,
                _ => MAX_VALUE_BYTES,
            };
            if text.len() > most {
                let why = format!("has {} bytes; at most {most} are allowed", text.len());
                return Err(invalid(why));
            }
        }
        self.insert_any(name, Some(value))
    }

    /// An attribute without a value counts as omitted; it may be given only once, too.
    fn insert_unset(&mut self, name: String) -> Result<()> {
        self.insert_any(name, None)
    }

    fn insert_any(&mut self, name: String, value: Option<Value>) -> Result<()> {
        check_name(&name).map_err(|why| ValidationError::invalid(shown(&name), why))?;
        if self.0.len() == MAX_ATTRIBUTES {
            let why = format!("is one attribute too many: an event has at most {MAX_ATTRIBUTES}");
            return Err(ValidationError::invalid(name, why));
        }
        if self.0.contains_key(&name) {
            return Err(doubled(&name));
        }
        self.0.insert(name, value);
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)?.as_ref()
    }

    /// An attribute as a text, which must not be empty.
    fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Text(text)) if text.is_empty() => {
                let why = if name::REQUIRED.contains(&name) {
                    "must not be empty"
                } else {
                    "must not be empty; omit it instead"
                };
                Err(ValidationError::invalid(name, why))
            }
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Boolean(_) | Value::Integer(_)) => {
                Err(ValidationError::invalid(name, "must be a string"))
            }
        }
    }

    fn parsed<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Result<Option<T>> {
        let parsed = self.text(name)?.map(parse).transpose();
        parsed.map_err(|why| ValidationError::invalid(name, why.to_string()))
    }

    fn required<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, E>,
    ) -> Result<T> {
        self.parsed(name, parse)?.ok_or_else(|| {
            let header = format!("{HEADER_PREFIX}{name}");
            let why = format!("is required; in binary mode it is the header {header}");
            ValidationError::invalid(name, why)
        })
    }

    /// Checks what says how the rest is to be read.
    fn check(&self) -> Result<()> {
        self.required(name::SPECVERSION, |version| match version {
            SPECVERSION => Ok(()),
            other => Err(format!("must be {SPECVERSION}, not {}", quoted(other))),
        })?;
        if let Some(name) = name::OF_DELIVERIES.iter().find(|name| self.0.contains_key(**name)) {
            let why = "is set by the service in each delivery; rename the attribute";
            return Err(ValidationError::invalid(*name, why));
        }
        self.parsed(name::DATACONTENTTYPE, |media_type| {
            if is_json(media_type) {
                return Ok(());
            }
            Err(format!(
                "must be JSON in UTF-8, such as {JSON} or another type with the suffix +json, not {}; events carry JSON objects only",
                quoted(media_type)
            ))
        })?;
        Ok(())
    }

    /// Data in Base64 is JSON only if the event says so.
    fn json_in_base64(&self, encoded: &RawValue) -> Result<Box<RawValue>> {
        let invalid = |why: &str| Err(ValidationError::invalid(name::DATA_BASE64, why));
        if self.get(name::DATACONTENTTYPE).is_none() {
            return invalid(
                "is binary data without a datacontenttype; name a JSON type such as application/json, or send `data`",
            );
        }
        let Ok(text) = serde_json::from_str::<String>(encoded.get()) else {
            return invalid("must be a string");
        };
        let Ok(bytes) = BASE64.decode(text.as_bytes()) else {
            return invalid("must be Base64 (RFC 4648, section 4) with its padding");
        };
        let data = String::from_utf8(bytes).ok().and_then(|it| RawValue::from_string(it).ok());
        match data {
            Some(data) => Ok(data),
            None => invalid("must be the Base64 of a JSON object, as its datacontenttype says"),
        }
    }

    fn draft(
        mut self,
        data: Box<RawValue>,
        now: Timestamp,
        traceparent: Option<TraceParent>,
    ) -> Result<Draft> {
        self.check_kept()?;
        let (gateway_ids, target) = self.target()?;
        let draft = Draft {
            id: Some(self.required(name::ID, str::parse)?),
            event_type: self.required(name::TYPE, str::parse)?,
            payload: data,
            gateway_ids,
            target,
            correlation_id: self.parsed(name::CORRELATION_ID, str::parse)?,
            user_id: self.text(name::USER_ID)?.map(str::to_owned),
            expires_at: self.parsed(name::EXPIRY_TIME, Timestamp::parse)?,
            ttl_secs: self.ttl_seconds()?,
            collapse_key: self.parsed(name::COLLAPSE_KEY, str::parse)?,
            occurred_at: occurred_at(self.parsed(name::TIME, Timestamp::parse)?, now)
                .map_err(of_attributes)?,
            traceparent: self.parsed(name::TRACEPARENT, str::parse)?.or(traceparent),
            attributes: None,
        };
        let attributes = Some(Box::new(self.kept()?));
        Ok(Draft { attributes, ..draft })
    }

    fn check_kept(&self) -> Result<()> {
        self.required(name::SOURCE, check_uri_reference)?;
        self.text(name::SUBJECT)?;
        self.parsed(name::DATASCHEMA, |schema| {
            check_uri_reference(schema)?;
            let scheme = schema.split_once(':').map_or("", |(scheme, _)| scheme);
            if scheme.starts_with(|first: char| first.is_ascii_alphabetic()) {
                return Ok(());
            }
            Err("must be a URI with a scheme, such as https://example.com/schema".to_owned())
        })?;
        Ok(())
    }

    /// The attributes that no field of the draft has.
    fn kept(&mut self) -> Result<Attributes> {
        let is_default = |media_type: &str| media_type.eq_ignore_ascii_case(JSON);
        if self.text(name::DATACONTENTTYPE)?.is_some_and(is_default) {
            self.0.remove(name::DATACONTENTTYPE);
        }
        let mut kept = Attributes::default();
        for (name, value) in std::mem::take(&mut self.0) {
            let is_kept = name != name::SPECVERSION && !CONSUMED.contains(&name.as_str());
            if let (true, Some(value)) = (is_kept, value) {
                kept.insert(name, value);
            }
        }
        if kept.bytes() > MAX_ATTRIBUTES_BYTES {
            let why = format!(
                "have {} bytes with their names; at most {MAX_ATTRIBUTES_BYTES} are allowed",
                kept.bytes()
            );
            return Err(ValidationError::invalid("attributes", why));
        }
        Ok(kept)
    }

    /// The gateways that the event is for, by id or by other criteria.
    fn target(&self) -> Result<(Option<Vec<GatewayId>>, Option<Target>)> {
        let ids = self.parsed(name::GATEWAY_IDS, |text| {
            text.split(',').map(|id| id.trim().parse()).collect::<std::result::Result<Vec<_>, _>>()
        })?;
        let labels = self.parsed(name::TARGET_LABELS, labels)?;
        let all = match self.get(name::TARGET_ALL) {
            None => None,
            Some(Value::Boolean(true)) => Some(true),
            Some(Value::Text(text)) if text == "true" => Some(true),
            Some(_) => {
                let why =
                    "must be true; omit it if gatewayids or targetlabels say for whom the event is";
                return Err(ValidationError::invalid(name::TARGET_ALL, why));
            }
        };
        match (ids, labels, all) {
            (Some(ids), None, None) => Ok((Some(ids), None)),
            (None, Some(labels), None) => {
                Ok((None, Some(Target { labels: Some(labels), ..Target::default() })))
            }
            (None, None, Some(_)) => Ok((None, Some(Target { all, ..Target::default() }))),
            (ids, labels, _) => {
                let named = match (ids, labels) {
                    (None, Some(_)) => name::TARGET_LABELS,
                    _ => name::GATEWAY_IDS,
                };
                Err(ValidationError::invalid(
                    named,
                    "give exactly one of the attributes gatewayids (ids separated by commas), targetlabels (such as env=prod,zone=eu) and targetall (true)",
                ))
            }
        }
    }

    fn ttl_seconds(&self) -> Result<Option<u64>> {
        let why = "must be a whole number of seconds";
        let seconds = match self.get(name::TTL_SECONDS) {
            None => return Ok(None),
            Some(Value::Integer(seconds)) => u64::try_from(*seconds).ok(),
            Some(Value::Text(text)) => text.parse().ok(),
            Some(Value::Boolean(_)) => None,
        };
        let seconds = seconds.ok_or_else(|| ValidationError::invalid(name::TTL_SECONDS, why))?;
        Ok(Some(seconds))
    }
}

/// Labels as `env=prod,zone=eu`. A value with a comma can't be written so.
fn labels(text: &str) -> std::result::Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for label in text.split(',') {
        let Some((name, value)) = label.split_once('=') else {
            let found = quoted(label);
            return Err(format!("must be labels such as env=prod,zone=eu; {found} has no `=`"));
        };
        if labels.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(format!("has the label {} twice; give it once", quoted(name.trim())));
        }
    }
    Ok(labels)
}

fn doubled(name: &str) -> ValidationError {
    ValidationError::invalid(shown(name), "is given more than once; give it once")
}

/// A name for an error, which may have been chosen to be long.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}
