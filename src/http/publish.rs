//! Reads what publishers send, field by field, so that a refusal can name the
//! field. The payload's bytes are kept as they came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::App;
use super::problem::{Answer, FieldError, Problem};
use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType, GatewayId, OrganisationKey};
use crate::socket::frame;
use crate::store::{Judged, Labels, NewEvent, Target, Unfit};

const FIELDS: [&str; 9] = [
    "type",
    "payload",
    "gatewayIds",
    "target",
    "correlationId",
    "id",
    "userId",
    "expiresAt",
    "ttlSeconds",
];
/// Ten years; longer is as good as no expiry.
const LONGEST_TTL_SECS: u64 = 10 * 366 * 24 * 3600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedTarget {
    all: Option<bool>,
    labels: Option<Labels>,
}

struct Fields<'a>(BTreeMap<String, &'a RawValue>);

/// An object's members as they stand there, repeated ones included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

impl<'a> Fields<'a> {
    fn of(item: &'a RawValue) -> Answer<Self> {
        let Members(members) = serde_json::from_str(item.get())
            .map_err(|_| Problem::invalid("body", "an event must be a JSON object"))?;
        let mut fields = BTreeMap::new();
        for (name, value) in members {
            if !FIELDS.contains(&name.as_str()) {
                let shown: String = name.chars().take(64).collect();
                let known = FIELDS.join(", ");
                let why = format!("is no field of an event; there are: {known}");
                return Err(Problem::invalid(shown, why));
            }
            // Which of the two counts is what readers of JSON differ in.
            if fields.insert(name.clone(), value).is_some() {
                return Err(Problem::invalid(name, "stands there twice; give it once"));
            }
        }
        Ok(Self(fields))
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Answer<Option<T>> {
        let Some(raw) = self.0.get(name).filter(|raw| raw.get() != "null") else {
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
}

/// Reads and checks one event. An error is no judgement on the event, but means
/// that the whole request has to be repeated.
pub(super) async fn judge(
    app: &App,
    organisation: OrganisationKey,
    item: &RawValue,
) -> Answer<Judged> {
    match read(app, organisation, item).await {
        Ok(event) => Ok(Ok(event)),
        Err(problem) if problem.status().is_server_error() => Err(problem),
        Err(problem) => {
            let id = Fields::of(item).and_then(|fields| fields.get("id"));
            let (id, problem) = (id.ok().flatten(), problem.to_value());
            Ok(Err(Unfit { id, digest: digest(item), problem }))
        }
    }
}

fn digest(item: &RawValue) -> [u8; 32] {
    Sha256::digest(item.get().as_bytes()).into()
}

async fn read(app: &App, organisation: OrganisationKey, item: &RawValue) -> Answer<NewEvent> {
    let fields = Fields::of(item)?;
    let event_type: EventType = fields.required("type")?;
    let payload: Box<RawValue> = fields.required("payload")?;
    let values = check_payload(app, organisation, &event_type, &payload).await?;
    let target = target(&fields)?;
    let now = Timestamp::now();
    let expires_at = expiry(&fields, now)?;
    let id: EventId = match fields.get("id")? {
        Some(id) => id,
        None => generated()?,
    };
    let correlation_id = match fields.get::<CorrelationId>("correlationId")? {
        Some(id) => id,
        None => CorrelationId::new(id.as_str())
            .map_err(|error| Problem::invalid("correlationId", error.to_string()))?,
    };
    let user_id: Option<String> = fields.get("userId")?;
    if user_id.as_ref().is_some_and(|user| user.len() > 256 || user.chars().any(char::is_control)) {
        let allowed = "must be at most 256 bytes, none of them a control character";
        return Err(Problem::invalid("userId", allowed));
    }
    let event =
        Event { id, event_type, payload, correlation_id, user_id, occurred_at: now, expires_at };
    let limit = app.event_bytes();
    let length = frame::longest_event_text(&event);
    if length > limit {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "event_too_large",
            format!(
                "The event's frame would have {length} bytes; limits.event_bytes allows {limit}."
            ),
        ));
    }
    let text = |name: &str| values.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(NewEvent {
        artifact_id: ["apiId", "providerId", "proxyId", "artifactId"].into_iter().find_map(text),
        deployment_id: text("deploymentId"),
        event: Arc::new(event),
        target,
        digest: digest(item),
    })
}

/// The reader's own words for this help nobody.
fn too_deep(why: &str) -> Option<&'static str> {
    why.starts_with("recursion limit").then_some("is nested deeper than 127 levels; flatten it")
}

fn generated() -> Answer<EventId> {
    EventId::new(uuid::Uuid::now_v7().to_string()).map_err(|_| Problem::internal())
}

/// The type must be registered, and the payload an object that fits its schema.
async fn check_payload(
    app: &App,
    organisation: OrganisationKey,
    event_type: &EventType,
    payload: &RawValue,
) -> Answer<Value> {
    if !payload.get().starts_with('{') {
        return Err(Problem::invalid("payload", "must be a JSON object"));
    }
    let values: Value = serde_json::from_str(payload.get()).map_err(|error| {
        let why = error.to_string();
        Problem::invalid("payload", too_deep(&why).unwrap_or(&why))
    })?;
    let Some(info) = app.store.event_type(organisation, event_type).await? else {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unknown_event_type",
            format!(
                "The event type {event_type} is not registered; an admin registers it with PUT {}/event-types/{event_type}.",
                super::BASE
            ),
        ));
    };
    app.validator.check(&info, &values).map_err(|errors| {
        Problem::invalid_fields(
            errors
                .into_iter()
                .map(|error| FieldError { field: error.field, message: error.message })
                .collect(),
        )
    })?;
    Ok(values)
}

fn target(fields: &Fields<'_>) -> Answer<Target> {
    let ids: Option<Vec<GatewayId>> = fields.get("gatewayIds")?;
    let asked: Option<AskedTarget> = fields.get("target")?;
    match (ids, asked) {
        (Some(mut ids), None) if !ids.is_empty() => {
            ids.sort_unstable();
            ids.dedup();
            Ok(Target::Gateways(ids))
        }
        (None, Some(AskedTarget { all: Some(true), labels: None })) => Ok(Target::All),
        (None, Some(AskedTarget { all: None, labels: Some(labels) })) if !labels.is_empty() => {
            Ok(Target::Labels(labels))
        }
        _ => Err(Problem::invalid(
            "target",
            "give exactly one of gatewayIds (not empty), target {\"all\": true} or target {\"labels\": {…}} (not empty)",
        )),
    }
}

fn expiry(fields: &Fields<'_>, now: Timestamp) -> Answer<Option<Timestamp>> {
    let at: Option<Timestamp> = fields.get("expiresAt")?;
    let ttl_secs: Option<u64> = fields.get("ttlSeconds")?;
    match (at, ttl_secs) {
        (Some(_), Some(_)) => {
            Err(Problem::invalid("ttlSeconds", "give either expiresAt or ttlSeconds, not both"))
        }
        (Some(at), None) if at <= now => Err(Problem::invalid("expiresAt", "lies in the past")),
        (None, Some(secs)) if !(1..=LONGEST_TTL_SECS).contains(&secs) => {
            Err(Problem::invalid("ttlSeconds", format!("must be 1 to {LONGEST_TTL_SECS}")))
        }
        (at, ttl_secs) => {
            Ok(at.or_else(|| ttl_secs.map(|secs| now.plus(Duration::from_secs(secs)))))
        }
    }
}
