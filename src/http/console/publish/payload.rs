//! Payloads from the fields of a form. The type's schema says which members have a field of their
//! own; all others are written as JSON.

use std::fmt;

use maud::{Markup, html};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::fields::{Fields, field};
use super::super::pairs::Pairs;
use crate::api::{EventTypeInfo, FieldError};
use crate::names;

/// The field with the payload as JSON.
pub(super) const TEXT: &str = "payload";
/// Members that have a field of their own, at most. A form is read up to a number of fields.
const MAX_FIELDS: usize = 60;
/// Choices of a field, at most.
const MAX_CHOICES: usize = 100;
/// The longest name of such a member, and the longest text that its field takes.
const MAX_NAME_CHARS: usize = 128;
const MAX_TEXT_CHARS: usize = 10_000;

/// A member of payloads that has a field of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    name: String,
    kind: Kind,
    is_required: bool,
    description: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Integer,
    Boolean,
    /// One of these values: how each is shown, and its JSON.
    Choice(Vec<(String, String)>),
}

/// The members of an object in their order.
struct Ordered(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Ordered;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Ordered(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// The parts of a schema that fields are made of.
#[derive(serde::Deserialize)]
struct Schema {
    properties: Option<Ordered>,
    #[serde(default)]
    required: Value,
}

impl Kind {
    /// The kind of a property's schema; `None` for all that need JSON.
    fn of(schema: &Value) -> Option<Self> {
        let choices = match (schema.get("const"), schema.get("enum")) {
            (Some(only), _) => Some(std::slice::from_ref(only)),
            (None, Some(all)) => Some(all.as_array()?.as_slice()),
            (None, None) => None,
        };
        if let Some(choices) = choices {
            let is_plain = |value: &Value| !value.is_object() && !value.is_array();
            let fits = !choices.is_empty() && choices.len() <= MAX_CHOICES;
            let choice = |value: &Value| {
                let json = value.to_string();
                (value.as_str().map_or_else(|| json.clone(), names::inert), json)
            };
            return (fits && choices.iter().all(is_plain))
                .then(|| Self::Choice(choices.iter().map(choice).collect()));
        }
        let name = match schema.get("type")? {
            Value::String(name) => name.as_str(),
            Value::Array(names) => {
                let mut others = names.iter().filter(|name| *name != "null");
                let only = others.next()?.as_str()?;
                others.next().is_none().then_some(only)?
            }
            _ => return None,
        };
        match name {
            "string" => Some(Self::Text),
            "number" => Some(Self::Number),
            "integer" => Some(Self::Integer),
            "boolean" => Some(Self::Boolean),
            _ => None,
        }
    }
}

/// The members of a type's payloads that have a field, required ones first.
pub(super) fn members(info: &EventTypeInfo) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    // A payload must satisfy both.
    for schema in [&info.schema, &info.built_in_schema].into_iter().flatten() {
        let Ok(schema) = serde_json::from_str::<Schema>(schema.get()) else { continue };
        let required: Vec<&str> =
            schema.required.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for member in &mut members {
            member.is_required |= required.contains(&member.name.as_str());
        }
        for (name, property) in schema.properties.into_iter().flat_map(|it| it.0) {
            let is_known = members.iter().any(|member| member.name == name);
            let Ok(property) = serde_json::from_str::<Value>(property.get()) else { continue };
            let Some(kind) = Kind::of(&property).filter(|_| !is_known) else { continue };
            if !names::is_name(&name, MAX_NAME_CHARS) {
                continue;
            }
            let text = |name: &str| property.get(name).and_then(Value::as_str);
            let description = match (text("description"), text("format")) {
                (Some(description), _) => description,
                (None, Some("date-time")) => "A time, such as 2026-01-31T09:30:00Z.",
                (None, _) => "",
            };
            let description = super::super::text::short(description, 300);
            let is_required = required.contains(&name.as_str());
            members.push(Member { name, kind, is_required, description });
        }
    }
    members.sort_by_key(|member| !member.is_required);
    members.truncate(MAX_FIELDS);
    members
}

impl Member {
    /// The name of its field.
    fn field_name(&self) -> String {
        format!("member:{}", self.name)
    }

    /// Where errors of the API locate it.
    fn location(&self) -> String {
        format!("{TEXT}/{}", self.name)
    }

    fn control(&self, fields: &Fields<'_>, nth: usize) -> Markup {
        let needed = if self.is_required { " (required)" } else { "" };
        let (name, label) = (self.field_name(), format!("{}{needed}", self.name));
        let field = field(&name, &label).hint(&self.description);
        let field = field.id(format!("member-{nth}")).of(self.location());
        match &self.kind {
            Kind::Text => fields.text(&field, MAX_TEXT_CHARS),
            Kind::Number | Kind::Integer => fields.number(&field),
            Kind::Boolean => {
                fields.choice(&field, &[("", "not set"), ("true", "true"), ("false", "false")])
            }
            Kind::Choice(values) => {
                let none = [("not set", "")].map(|(text, json)| (text.to_owned(), json.to_owned()));
                let all = none.iter().chain(values);
                let all: Vec<(&str, &str)> =
                    all.map(|(text, json)| (json.as_str(), text.as_str())).collect();
                fields.choice(&field, &all)
            }
        }
    }

    /// The JSON of what was typed; `None` if nothing was.
    fn json(&self, typed: &Pairs) -> Result<Option<String>, &'static str> {
        let name = self.field_name();
        let text = typed.get(&name);
        if text.is_empty() {
            return Ok(None);
        }
        match &self.kind {
            Kind::Text => Ok(Some(Value::from(typed.raw(&name)).to_string())),
            Kind::Boolean if matches!(text, "true" | "false") => Ok(Some(text.to_owned())),
            Kind::Boolean => Err("must be true or false"),
            Kind::Number | Kind::Integer => {
                let is_number = serde_json::from_str::<serde_json::Number>(text).is_ok();
                let is_whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
                match (&self.kind, is_number) {
                    (Kind::Number, true) => Ok(Some(text.to_owned())),
                    (Kind::Integer, true) if is_whole => Ok(Some(text.to_owned())),
                    (Kind::Integer, _) => Err("must be a whole number"),
                    _ => Err("must be a number"),
                }
            }
            Kind::Choice(values) if values.iter().any(|(_, json)| json == text) => {
                Ok(Some(text.to_owned()))
            }
            Kind::Choice(_) => Err("must be one of the listed values"),
        }
    }
}

/// The fields of the members, and the one for JSON.
pub(super) fn controls(fields: &Fields<'_>, members: &[Member]) -> Markup {
    let (label, hint) = if members.is_empty() {
        ("JSON object", "A JSON object. Gateways receive it byte for byte.")
    } else {
        (
            "Other members, as a JSON object",
            "Optional. A member has either a field above or a place here.",
        )
    };
    html! {
        @if !members.is_empty() {
            div.grid {
                @for (nth, member) in members.iter().enumerate() { (member.control(fields, nth)) }
            }
        }
        (fields.area(&field(TEXT, label).hint(hint), if members.is_empty() { 10 } else { 5 }))
    }
}

/// The payload of what was typed: the filled fields, then the members of the JSON. If no field is
/// filled, it is the JSON as it was typed.
pub(super) fn compose(typed: &Pairs, members: &[Member]) -> Result<Box<RawValue>, Vec<FieldError>> {
    let error = |field: String, message: &str| FieldError { field, message: message.to_owned() };
    let (mut parts, mut errors) = (Vec::new(), Vec::new());
    for member in members {
        match member.json(typed) {
            Ok(None) => {}
            Ok(Some(json)) => parts.push((member, json)),
            Err(why) => errors.push(error(member.location(), why)),
        }
    }
    // Browsers end the lines of a text with CR LF.
    let text = typed.raw(TEXT).replace("\r\n", "\n");
    let text = if text.trim().is_empty() { "{}" } else { text.trim() };
    let whole = serde_json::from_str::<Box<RawValue>>(text);
    let whole = whole.map_err(|why| error(TEXT.to_owned(), &format!("is not JSON: {why}")));
    let others = match whole {
        Ok(whole) if parts.is_empty() && errors.is_empty() => return Ok(whole),
        Ok(whole) => serde_json::from_str::<Ordered>(whole.get())
            .map_err(|_| error(TEXT.to_owned(), "must be a JSON object")),
        Err(error) => Err(error),
    };
    match others {
        Ok(Ordered(others)) => {
            for (member, _) in &parts {
                if others.iter().any(|(name, _)| *name == member.name) {
                    errors.push(error(member.location(), "is also in the JSON; give it once"));
                }
            }
            if errors.is_empty() {
                return Ok(joined(&parts, &others));
            }
        }
        Err(error) => errors.push(error),
    }
    Err(errors)
}

fn joined(parts: &[(&Member, String)], others: &[(String, Box<RawValue>)]) -> Box<RawValue> {
    let filled = parts.iter().map(|(member, json)| (member.name.as_str(), json.as_str()));
    let others = others.iter().map(|(name, json)| (name.as_str(), json.get()));
    let members: Vec<String> =
        filled.chain(others).map(|(name, json)| format!("{}:{json}", Value::from(name))).collect();
    let text = format!("{{{}}}", members.join(","));
    RawValue::from_string(text).expect("members of JSON make JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(schema: &str) -> EventTypeInfo {
        EventTypeInfo {
            name: "a.b".to_owned(),
            description: String::new(),
            schema: Some(RawValue::from_string(schema.to_owned()).unwrap()),
            built_in_schema: None,
            ttl_seconds: None,
            barrier: false,
        }
    }

    fn typed(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().fold(Pairs::default(), |pairs, (name, value)| pairs.and(name, *value))
    }

    const SCHEMA: &str = r#"{"required": ["id", "object"], "properties": {
        "note": {"type": ["string", "null"]}, "id": {"type": "string"}, "count": {"type": "integer"},
        "rate": {"type": "number"}, "on": {"type": "boolean"}, "level": {"enum": ["low", 2]},
        "object": {"type": "object"}, "either": {"type": ["string", "number"]}, "any": {}}}"#;

    #[test]
    fn plain_properties_have_a_field_and_others_need_json() {
        let members = members(&info(SCHEMA));
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["id", "note", "count", "rate", "on", "level"]);
        assert!(members[0].is_required && !members[1].is_required);
        for other in [r#"{"properties": 3}"#, "true", r#"{"properties": {"a": true}}"#] {
            assert_eq!(super::members(&info(other)), [], "{other}");
        }
    }

    #[test]
    fn a_payload_has_the_filled_fields_and_the_members_of_the_json() {
        let members = members(&info(SCHEMA));
        let payload = |pairs: &[(&str, &str)]| compose(&typed(pairs), &members);
        let filled = payload(&[
            ("member:id", " a\"b "),
            ("member:count", "-3"),
            ("member:rate", "1.50"),
            ("member:on", "true"),
            ("member:level", "2"),
            ("payload", "{\"object\": {\"x\":1.10},\r\n\"id2\": 1e400}"),
        ]);
        let expected = r#"{"id":" a\"b ","count":-3,"rate":1.50,"on":true,"level":2,"object":{"x":1.10},"id2":1e400}"#;
        assert_eq!(filled.unwrap().get(), expected);
        let as_typed = payload(&[("payload", " {\"a\" :1.0,\r\n \"a\": 2} ")]).unwrap();
        assert_eq!(as_typed.get(), "{\"a\" :1.0,\n \"a\": 2}");
        assert_eq!(payload(&[]).unwrap().get(), "{}");
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let members = members(&info(SCHEMA));
        let fields = |pairs: &[(&str, &str)]| -> Vec<String> {
            let errors = compose(&typed(pairs), &members).unwrap_err();
            errors.into_iter().map(|error| error.field).collect()
        };
        let wrong = [
            ("member:count", "1.5"),
            ("member:rate", "much"),
            ("member:on", "yes"),
            ("member:level", "high"),
        ];
        assert_eq!(
            fields(&wrong),
            ["payload/count", "payload/rate", "payload/on", "payload/level"]
        );
        assert_eq!(fields(&[("payload", "{")]), ["payload"]);
        assert_eq!(fields(&[("member:id", "x"), ("payload", "[]")]), ["payload"]);
        assert_eq!(fields(&[("member:id", "x"), ("payload", "{\"id\": 1}")]), ["payload/id"]);
    }
}
