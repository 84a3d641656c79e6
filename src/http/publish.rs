//! Reads what publishers send, field by field, so that a refusal can name the
//! field. The payload's bytes are kept as they came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::App;
use super::extract;
use super::object::{self, Object, Once};
use super::problem::{Answer, FieldError, Problem};
use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType, GatewayId, OrganisationKey};
use crate::socket::frame;
use crate::store::{Labels, NewEvent, Target};

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
    #[serde(default, deserialize_with = "object::some_labels")]
    labels: Option<Labels>,
}

struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    fn of(item: &'a RawValue) -> Answer<Self> {
        let Once(fields) =
            serde_json::from_str(item.get()).map_err(|error| extract::json_problem(&error))?;
        match fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            None => Ok(Self(fields)),
            Some(unknown) => {
                let shown: String = unknown.chars().take(64).collect();
                let known = FIELDS.join(", ");
                Err(Problem::invalid(shown, format!("is no field of an event; there are: {known}")))
            }
        }
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Answer<Option<T>> {
        let Some(raw) = self.0.get(name).filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        serde_json::from_str(raw.get()).map(Some).map_err(|error| {
            let text = error.to_string();
            let why = text.split(" at line ").next().unwrap_or(&text);
            Problem::invalid(name, why)
        })
    }

    fn required<T: DeserializeOwned>(&self, name: &str) -> Answer<T> {
        self.get(name)?.ok_or_else(|| Problem::invalid(name, "is required"))
    }
}

/// Reads and checks one event.
pub(super) async fn read(
    app: &App,
    organisation: OrganisationKey,
    item: &RawValue,
) -> Answer<NewEvent> {
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
    if user_id.as_ref().is_some_and(|user| user.len() > 256) {
        return Err(Problem::invalid("userId", "must be at most 256 bytes"));
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
        digest: Sha256::digest(item.get().as_bytes()).into(),
    })
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
    let values: Value = serde_json::from_str(payload.get())
        .map_err(|error| Problem::invalid("payload", error.to_string()))?;
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
    let asked: Option<AskedTarget> = fields.get("target")?.map(|Object(asked)| asked);
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
