//! Frames from a gateway to the service.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Ref, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{FrameError, FrameType as _, check_sequence};
use crate::event::{Epoch, EventId, EventType, Sequence, quoted};
use crate::json_error::{at_most, word};

/// The maximum length of an instance's name, in characters.
pub const INSTANCE_CHARACTERS: usize = 64;
/// The maximum number of event types in `types`.
pub const MAX_TYPES: usize = 64;
/// The maximum length of `detail`, in bytes.
pub const MAX_DETAIL_BYTES: usize = 2048;
/// The maximum `retryAfterMs`: a day.
pub const MAX_RETRY_AFTER_MS: u64 = 24 * 60 * 60 * 1000;
/// The maximum `windowBytes`.
const MAX_WINDOW_BYTES: u64 = Sequence::MAX.0.unsigned_abs();

/// The first frame of a gateway: who it is, where delivery resumes, and what it confirms. Due within
/// 10 s of `connection.ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "connection.hello", rename_all = "camelCase")]
pub struct Hello {
    /// A stable name of this replica of the gateway, which has a durable position of its own: 1 to 64
    /// characters without control characters. That of a new instance also has no format characters or
    /// fillers and no whitespace at either end, and does not consist of dots only. If omitted, the
    /// connection shares the position of all unnamed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    pub instance: Option<String>,
    /// Where delivery resumes.
    pub resume: Resume,
    /// How many unconfirmed events may be in flight; 0 pauses delivery. The service's limit applies
    /// if it is smaller, and if this is omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4_294_967_295_i64)]
    pub window: Option<u32>,
    /// How many bytes of frames may be in flight; 0 pauses delivery. The service's limit applies if it
    /// is smaller, and if this is omitted.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "at_most::<MAX_WINDOW_BYTES, _>"
    )]
    #[schema(required = false, maximum = 9_007_199_254_740_991_i64)]
    pub window_bytes: Option<u64>,
    /// The event types to deliver; all if omitted. The others are not sent;
    /// they are recorded as `filtered` and move the position.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 64)]
    pub types: Option<Vec<EventType>>,
    /// What the gateway confirms.
    pub confirm: Confirm,
    /// The form of events: `native` (the default) or `cloudevents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
}

/// The form of events in reliable mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// `native`: the members of this protocol.
    #[default]
    Native,
    /// `cloudevents`: a CloudEvent 1.0 in its JSON format.
    CloudEvents,
}

impl Envelope {
    /// All forms.
    pub const ALL: [Self; 2] = [Self::Native, Self::CloudEvents];

    /// Its name in frames.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::CloudEvents => "cloudevents",
        }
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word(deserializer, &[("native", Self::Native), ("cloudevents", Self::CloudEvents)])
    }
}

/// The confirmation by which an event counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confirm {
    /// `received`: the gateway has stored the event, and will apply it.
    Received,
    /// `applied`: the gateway has applied the event.
    Applied,
}

impl<'de> Deserialize<'de> for Confirm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word(deserializer, &[("received", Self::Received), ("applied", Self::Applied)])
    }
}

/// Where delivery resumes: a position, or one that the service knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// `"server"`: after the instance's position, which the service stores.
    Server,
    /// `"latest"`: with the next event that is published.
    Latest,
    /// `"earliest"`: with the oldest event that the service still has.
    Earliest,
    /// After this position.
    After(Position),
}

/// A position in a gateway's log: the last event that the gateway has confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The last confirmed sequence; 0 if none.
    pub sequence: Sequence,
    /// The id of the event with this sequence. If it is given, it must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_id: Option<EventId>,
}

/// Confirms all events up to a sequence. A lower sequence than before is ignored; one that was
/// not sent is a protocol error. At least one member is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "delivery.ack", rename_all = "camelCase")]
pub struct Ack {
    /// Everything up to here is stored by the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<Sequence>,
    /// Everything up to here is applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Sequence>,
}

/// An event was not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "delivery.nack", rename_all = "camelCase")]
pub struct Nack {
    /// The event's sequence.
    pub sequence: Sequence,
    /// Why it was not applied.
    pub code: NackCode,
    /// Whether the service is to send the event and those after it again. If not, the event becomes a
    /// dead letter.
    pub retryable: bool,
    /// The delay before the retry, in milliseconds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "at_most::<MAX_RETRY_AFTER_MS, _>"
    )]
    #[schema(required = false, maximum = 86_400_000)]
    pub retry_after_ms: Option<u64>,
    /// Details for admins, at most 2 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2048)]
    pub detail: Option<String>,
}

/// Why an event was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NackCode {
    /// Applying it failed.
    ApplyFailed,
    /// The payload is invalid.
    Invalid,
    /// The gateway does not support the event.
    Unsupported,
    /// Something that the event depends on is missing.
    DependencyMissing,
    /// Applying it took too long.
    Timeout,
    /// The gateway has no capacity.
    Overloaded,
    /// The event conflicts with the gateway's state.
    Conflict,
}

impl NackCode {
    /// All codes.
    pub const ALL: [Self; 7] = [
        Self::ApplyFailed,
        Self::Invalid,
        Self::Unsupported,
        Self::DependencyMissing,
        Self::Timeout,
        Self::Overloaded,
        Self::Conflict,
    ];

    /// Its name in frames.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApplyFailed => "apply_failed",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::DependencyMissing => "dependency_missing",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Conflict => "conflict",
        }
    }
}

impl<'de> Deserialize<'de> for NackCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const WORDS: [(&str, NackCode); 7] = {
            let mut words = [("", NackCode::Conflict); 7];
            let mut nth = 0;
            while nth < words.len() {
                words[nth] = (NackCode::ALL[nth].as_str(), NackCode::ALL[nth]);
                nth += 1;
            }
            words
        };
        word(deserializer, &WORDS)
    }
}

/// An event is still being handled: extends the deadline of its confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "delivery.progress", rename_all = "camelCase")]
pub struct Progress {
    /// The event's sequence.
    pub sequence: Sequence,
}

/// Sets a new window, which replaces the previous one. An omitted member stays as it is; at least one
/// is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename = "delivery.credit", rename_all = "camelCase")]
pub struct Credit {
    /// How many unconfirmed events may be in flight; 0 pauses delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4_294_967_295_i64)]
    pub window: Option<u32>,
    /// How many bytes of frames may be in flight; 0 pauses delivery.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "at_most::<MAX_WINDOW_BYTES, _>"
    )]
    #[schema(required = false, maximum = 9_007_199_254_740_991_i64)]
    pub window_bytes: Option<u64>,
}

impl Hello {
    pub(super) fn check(&self) -> Result<(), FrameError> {
        let invalid = |member, why: String| FrameError::member(Self::TYPE, member, why);
        if let Some(instance) = &self.instance
            && (instance.is_empty()
                || instance.chars().count() > INSTANCE_CHARACTERS
                || instance.chars().any(char::is_control))
        {
            let why = format!(
                "must be 1 to {INSTANCE_CHARACTERS} characters without control characters, not {}",
                quoted(instance)
            );
            return Err(invalid("instance", why));
        }
        if let Resume::After(position) = &self.resume {
            check_sequence(Self::TYPE, "resume.sequence", position.sequence)?;
        }
        check_window_bytes(Self::TYPE, self.window_bytes)?;
        match &self.types {
            Some(types) if types.is_empty() || types.len() > MAX_TYPES => {
                let why = format!(
                    "must be 1 to {MAX_TYPES} event types, not {}; omit it for all types",
                    types.len()
                );
                Err(invalid("types", why))
            }
            _ => Ok(()),
        }
    }
}

impl Ack {
    pub(super) fn check(self) -> Result<(), FrameError> {
        let members = [("received", self.received), ("applied", self.applied)];
        if members.iter().all(|(_, sequence)| sequence.is_none()) {
            let what = "one of `received` and `applied` is required";
            return Err(FrameError::invalid(format!("{}: {what}", Self::TYPE)));
        }
        for (member, sequence) in members {
            if let Some(sequence) = sequence {
                check_sequence(Self::TYPE, member, sequence)?;
            }
        }
        Ok(())
    }
}

impl Nack {
    pub(super) fn check(&self) -> Result<(), FrameError> {
        let invalid = |member, why: String| FrameError::member(Self::TYPE, member, why);
        check_sequence(Self::TYPE, "sequence", self.sequence)?;
        if let Some(after) = self.retry_after_ms.filter(|after| *after > MAX_RETRY_AFTER_MS) {
            let why = format!("must be a whole number from 0 to {MAX_RETRY_AFTER_MS}, not {after}");
            return Err(invalid("retryAfterMs", why));
        }
        match self.detail.as_ref().map(String::len) {
            Some(bytes) if bytes > MAX_DETAIL_BYTES => {
                let why = format!("has {bytes} bytes; at most {MAX_DETAIL_BYTES} are allowed");
                Err(invalid("detail", why))
            }
            _ => Ok(()),
        }
    }
}

impl Credit {
    pub(super) fn check(self) -> Result<(), FrameError> {
        if self.window.is_none() && self.window_bytes.is_none() {
            let what = "one of `window` and `windowBytes` is required";
            return Err(FrameError::invalid(format!("{}: {what}", Self::TYPE)));
        }
        check_window_bytes(Self::TYPE, self.window_bytes)
    }
}

fn check_window_bytes(frame_type: &str, bytes: Option<u64>) -> Result<(), FrameError> {
    match bytes {
        Some(bytes) if bytes > MAX_WINDOW_BYTES => {
            let why = format!("must be a whole number from 0 to {MAX_WINDOW_BYTES}, not {bytes}");
            Err(FrameError::member(frame_type, "windowBytes", why))
        }
        _ => Ok(()),
    }
}

/// The names of the positions that the service knows.
const NAMED: [&str; 3] = ["server", "latest", "earliest"];

impl Serialize for Resume {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Server => serializer.serialize_str("server"),
            Self::Latest => serializer.serialize_str("latest"),
            Self::Earliest => serializer.serialize_str("earliest"),
            Self::After(position) => position.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Resume {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Resume;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, \"server\", \"latest\" or \"earliest\"")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Resume, E> {
                match name {
                    "server" => Ok(Resume::Server),
                    "latest" => Ok(Resume::Latest),
                    "earliest" => Ok(Resume::Earliest),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(name), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Resume, A::Error> {
                Position::deserialize(MapAccessDeserializer::new(members)).map(Resume::After)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl PartialSchema for Resume {
    fn schema() -> RefOr<Schema> {
        let named = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(NAMED));
        OneOfBuilder::new()
            .item(named)
            .item(Ref::from_schema_name(Position::name()))
            .description(Some("Where delivery resumes: a position, or one that the service knows."))
            .into()
    }
}

impl ToSchema for Resume {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Position::name().into_owned(), Position::schema()));
        Position::schemas(schemas);
    }
}
