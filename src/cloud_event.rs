//! CloudEvents 1.0: names, values and limits of context attributes, and their encoding in HTTP
//! headers. Publishing, the envelope of reliable mode and the agent share it. It knows no event and no
//! protocol.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

mod header;

pub use header::{Undecodable, decoded, encoded};

/// The version of the specification, the value of [`name::SPECVERSION`].
pub const SPECVERSION: &str = "1.0";
/// The media type of one event in JSON.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// The media type of a JSON array of events.
pub const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";
/// The beginning of the media types of all event formats.
pub const MEDIA_TYPES: &str = "application/cloudevents";
/// The media type of data whose event does not name one.
pub const JSON: &str = "application/json";
/// The `source` of events that were not published as CloudEvents.
pub const DEFAULT_SOURCE: &str = "/api/internal/v1/events";

/// The prefix of the headers of the binary mode.
pub const HEADER_PREFIX: &str = "ce-";

/// The maximum number of attributes of an event.
pub const MAX_ATTRIBUTES: usize = 64;
/// The maximum length of an attribute's name.
pub const MAX_NAME_BYTES: usize = 64;
/// The maximum size of a value that is kept as it is, in bytes.
pub const MAX_VALUE_BYTES: usize = 1024;
/// The maximum size of all names and values that are kept as they are, in bytes.
pub const MAX_ATTRIBUTES_BYTES: usize = 8 * 1024;

/// Names of attributes.
pub mod name {
    /// The version of the specification.
    pub const SPECVERSION: &str = "specversion";
    /// The event's id.
    pub const ID: &str = "id";
    /// Where the event comes from, a URI reference.
    pub const SOURCE: &str = "source";
    /// The event's type.
    pub const TYPE: &str = "type";
    /// The attributes that each event must have.
    pub const REQUIRED: [&str; 4] = [SPECVERSION, ID, SOURCE, TYPE];
    /// When the event occurred.
    pub const TIME: &str = "time";
    /// What the event is about.
    pub const SUBJECT: &str = "subject";
    /// The media type of the data.
    pub const DATACONTENTTYPE: &str = "datacontenttype";
    /// The schema of the data, a URI.
    pub const DATASCHEMA: &str = "dataschema";
    /// The key by which gateways recognise repeats (extension `correlation`).
    pub const CORRELATION_ID: &str = "correlationid";
    /// The user who caused the event.
    pub const USER_ID: &str = "userid";
    /// When the event expires (extension `expirytime`).
    pub const EXPIRY_TIME: &str = "expirytime";
    /// The W3C trace context (extension `distributed tracing`).
    pub const TRACEPARENT: &str = "traceparent";
    /// The event's place in a gateway's log (extension `sequence`): as many digits as the largest one
    /// has, because its values are ordered as texts.
    pub const SEQUENCE: &str = "sequence";
    /// The `sequence` that the client should have seen last.
    pub const PREVIOUS: &str = "previous";
    /// The epoch of the gateway's log.
    pub const EPOCH: &str = "epoch";
    /// How many times the event has been sent.
    pub const ATTEMPT: &str = "attempt";
    /// The gateways that an event is for, by id.
    pub const GATEWAY_IDS: &str = "gatewayids";
    /// The labels of the gateways that an event is for.
    pub const TARGET_LABELS: &str = "targetlabels";
    /// `true`: the event is for all gateways.
    pub const TARGET_ALL: &str = "targetall";
    /// In how many seconds the event expires.
    pub const TTL_SECONDS: &str = "ttlseconds";
    /// What the event supersedes older unsent events of its type by.
    pub const COLLAPSE_KEY: &str = "collapsekey";
    /// The data, where it is a member of the same object. No attribute may have this name.
    pub const DATA: &str = "data";
    /// The data in Base64, where it is a member of the same object. No attribute may have this name.
    pub const DATA_BASE64: &str = "data_base64";

    /// Those that the service sets in each delivery, and that no publisher may set.
    pub const OF_DELIVERIES: [&str; 4] = [SEQUENCE, PREVIOUS, EPOCH, ATTEMPT];
}

/// A value of an attribute. Other types of the specification are strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A Boolean.
    Boolean(bool),
    /// An Integer.
    Integer(i32),
    /// A String, URI, URI-reference, Timestamp or Binary.
    Text(String),
}

/// The canonical string encoding, as headers have it before they are [`encoded`].
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// The attributes of an event that was published as a CloudEvent, as they were published, except
/// those that the service uses itself: [`name::SOURCE`] always, and [`name::SUBJECT`],
/// [`name::DATASCHEMA`], [`name::DATACONTENTTYPE`] if it is not [`JSON`], and unknown extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(BTreeMap<String, Value>);

impl Attributes {
    /// Adds an attribute. The names are those of one event, so none occurs twice.
    pub fn insert(&mut self, name: impl Into<String>, value: Value) {
        self.0.insert(name.into(), value);
    }

    /// An attribute's value.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The attributes by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The number of bytes of all names and values.
    pub fn bytes(&self) -> usize {
        let bytes = |(name, value): (&str, &Value)| match value {
            Value::Text(text) => name.len() + text.len(),
            Value::Boolean(_) | Value::Integer(_) => name.len() + size_of::<Value>(),
        };
        self.iter().map(bytes).sum()
    }
}

/// The value of [`name::SEQUENCE`] and [`name::PREVIOUS`] for a number of up to 16 digits.
pub fn padded(number: i64) -> impl fmt::Display {
    struct Padded(i64);

    impl fmt::Display for Padded {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{:016}", self.0)
        }
    }

    Padded(number)
}

/// Checks an attribute's name. The error says what a name must be.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name == name::DATA {
        return Err("is the event's data, which is no attribute; rename the attribute".to_owned());
    }
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_valid) {
        return Ok(());
    }
    Err(format!(
        "is not the name of an attribute: names are 1 to {MAX_NAME_BYTES} lower-case letters a to z and digits; rename the attribute"
    ))
}

/// Checks a text for characters that no attribute may have: control characters and noncharacters.
pub fn check_text(text: &str) -> Result<(), String> {
    let is_noncharacter = |character: char| {
        let code = u32::from(character);
        (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
    };
    match text.chars().find(|it| it.is_control() || is_noncharacter(*it)) {
        None => Ok(()),
        Some(found) => Err(format!(
            "contains U+{:04X}, a control character or noncharacter; remove it",
            u32::from(found)
        )),
    }
}

/// Checks the characters of a URI reference (RFC 3986). Its parts are not checked.
pub fn check_uri_reference(text: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| {
        byte.is_ascii_graphic()
            && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{'..=b'}')
    };
    if !text.is_empty() && text.bytes().all(is_allowed) {
        return Ok(());
    }
    Err("must be a URI reference (RFC 3986) such as /orders or https://example.com/orders, not empty; percent-encode other characters".to_owned())
}

/// Whether a media type declares JSON: its subtype is `json` or ends with `+json`, and it has no other
/// charset than UTF-8.
pub fn is_json(media_type: &str) -> bool {
    let mut parts = media_type.split(';');
    let essence = parts.next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = match essence.split_once('/') {
        Some((kind, subtype)) => {
            !kind.is_empty() && (subtype == "json" || subtype.ends_with("+json"))
        }
        None => false,
    };
    is_json && parts.all(is_utf_8)
}

/// Whether a parameter of a media type is no charset, or UTF-8 or its subset.
fn is_utf_8(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else { return true };
    let value = value.trim().trim_matches('"');
    !name.trim().eq_ignore_ascii_case("charset")
        || ["utf-8", "us-ascii"].iter().any(|charset| value.eq_ignore_ascii_case(charset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_letters_and_digits() {
        for good in ["a", "source", "comexampleextension1", "1a", &"x".repeat(MAX_NAME_BYTES)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "A", "a_b", "a-b", "é", "data", "data_base64", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_come_out_as_they_went_in() {
        let text = r#"{"b":true,"n":-2147483648,"source":"/a","t":"5"}"#;
        let attributes: Attributes = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&attributes).unwrap(), text);
        for bad in [r#"{"n":2147483648}"#, r#"{"n":1.5}"#, r#"{"n":[]}"#, r#"{"n":null}"#] {
            assert!(serde_json::from_str::<Attributes>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_have_no_control_characters_and_no_noncharacters() {
        assert_eq!(check_text("Euro € 😀"), Ok(()));
        for bad in ["a\nb", "\u{85}", "\u{7f}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
            assert!(check_text(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sources_are_uri_references() {
        for good in ["/a", "a", "urn:uuid:6e8bc430", "https://x.example/a?b=[c]&d=%20#e", "~"] {
            assert_eq!(check_uri_reference(good), Ok(()), "{good}");
        }
        for bad in ["", " ", "a b", "é", "<a>", "a\\b", "{a}", "a|b"] {
            assert!(check_uri_reference(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn json_has_many_media_types() {
        for json in [
            "application/json",
            "text/json",
            "Application/Vnd.Orders+JSON; charset=\"UTF-8\"",
            "application/json;v=1",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "json", "/json", "text/plain", "application/json; charset=utf-16"] {
            assert!(!is_json(other), "{other}");
        }
    }
}
