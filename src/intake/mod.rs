//! What every event is held to before it is appended, whichever way it came:
//! HTTP and the inbox read a [`Draft`] each in their own way, and both have it
//! judged here. This room gives no numbers, and knows no request and no table.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::event::{CorrelationId, Event, EventId, EventType, GatewayId};
use crate::event_types::Validator;
use crate::socket::frame;
use crate::store::{EventTypeInfo, Labels, NewEvent, Target};

pub mod inbox;
pub mod object;
mod objection;
mod rows;

#[cfg(test)]
mod tests;

pub use objection::Objection;

/// Ten years; longer is as good as no expiry.
const LONGEST_TTL_SECS: u64 = 10 * 366 * 24 * 3600;

/// An event as its publisher wrote it: every field is well formed by itself,
/// and nothing else is known of it.
#[derive(Debug)]
pub struct Draft {
    /// Its type.
    pub event_type: EventType,
    /// Its payload, whatever JSON that is.
    pub payload: Box<RawValue>,
    /// The gateways that it names.
    pub gateway_ids: Option<Vec<GatewayId>>,
    /// Or another choice of them.
    pub target: Option<AskedTarget>,
    /// Its id, if the publisher has one.
    pub id: Option<EventId>,
    /// What gateways use as its key; the id if left out.
    pub correlation_id: Option<CorrelationId>,
    /// Who caused it.
    pub user_id: Option<String>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// Or how long after now.
    pub ttl_secs: Option<u64>,
    /// When it was published.
    pub occurred_at: Timestamp,
}

impl Draft {
    /// What an event says, however it was written and whichever way it came: the
    /// same id with another digest is a clash, with the same one a repeat.
    pub fn digest(&self) -> [u8; 32] {
        let mut gateways: Vec<GatewayId> = self.gateway_ids.iter().flatten().copied().collect();
        let (mut all, mut labels) = (None, None);
        if let Some(asked) = &self.target {
            gateways.extend(asked.gateway_ids.iter().flatten());
            (all, labels) = (asked.all, asked.labels.as_ref());
        }
        gateways.sort_unstable();
        gateways.dedup();
        let whole = (
            (&self.event_type, self.payload.get(), gateways, all, labels),
            (&self.id, &self.correlation_id, &self.user_id, self.expires_at, self.ttl_secs),
        );
        let text = serde_json::to_vec(&whole).expect("texts and numbers are JSON");
        Sha256::digest(&text).into()
    }
}

/// `target`, as publishers write it. Exactly one member may be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AskedTarget {
    all: Option<bool>,
    #[serde(default, deserialize_with = "object::some_labels")]
    labels: Option<Labels>,
    gateway_ids: Option<Vec<GatewayId>>,
}

/// The rules, with the schemas that were compiled for them. One for all who publish.
#[derive(Debug)]
pub struct Rules {
    validator: Validator,
    event_bytes: usize,
}

impl Rules {
    /// Rules that let frames of up to `event_bytes` through.
    pub fn new(event_bytes: usize) -> Arc<Self> {
        Arc::new(Self { validator: Validator::default(), event_bytes })
    }

    /// The largest frame.
    pub const fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// Judges an event. `info` is its type as it is registered, if it is.
    pub fn judge(
        &self,
        draft: Draft,
        info: Option<&EventTypeInfo>,
        now: Timestamp,
    ) -> Result<NewEvent, Objection> {
        let digest = draft.digest();
        let values = self.check_payload(&draft, info)?;
        let target = target(draft.gateway_ids, draft.target)?;
        let expires_at = expiry(draft.expires_at, draft.ttl_secs, now)?;
        let unfit = |user: &String| user.len() > 256 || user.chars().any(char::is_control);
        if draft.user_id.as_ref().is_some_and(unfit) {
            let allowed = "must be at most 256 bytes, none of them a control character";
            return Err(Objection::invalid("userId", allowed));
        }
        let invalid_id = |error: crate::event::Invalid| Objection::invalid("id", error.to_string());
        let is_named = draft.id.is_some();
        let id = match draft.id {
            Some(id) => id,
            None => EventId::new(uuid::Uuid::now_v7().to_string()).map_err(invalid_id)?,
        };
        let correlation_id = match draft.correlation_id {
            Some(id) => id,
            None => CorrelationId::new(id.as_str()).map_err(invalid_id)?,
        };
        let event = Event {
            id,
            event_type: draft.event_type,
            payload: draft.payload,
            correlation_id,
            user_id: draft.user_id,
            occurred_at: draft.occurred_at,
            expires_at,
        };
        let bytes = frame::longest_event_text(&event);
        if bytes > self.event_bytes {
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            return Err(Objection::TooLarge { bytes, limit: self.event_bytes });
        }
        let text = |name: &str| values.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(NewEvent {
            artifact_id: ["apiId", "providerId", "proxyId", "artifactId"]
                .into_iter()
                .find_map(text),
            deployment_id: text("deploymentId"),
            event: Arc::new(event),
            is_named,
            target,
            digest,
        })
    }

    /// The type must be registered, and the payload an object that fits its schema.
    fn check_payload(
        &self,
        draft: &Draft,
        info: Option<&EventTypeInfo>,
    ) -> Result<Value, Objection> {
        if !draft.payload.get().starts_with('{') {
            return Err(Objection::invalid("payload", "must be a JSON object"));
        }
        let values: Value = serde_json::from_str(draft.payload.get()).map_err(|error| {
            let why = error.to_string();
            Objection::invalid("payload", too_deep(&why).unwrap_or(&why))
        })?;
        let Some(info) = info else {
            return Err(Objection::UnknownType(draft.event_type.clone()));
        };
        self.validator.check(info, &values).map_err(Objection::Invalid)?;
        Ok(values)
    }
}

/// Says how deep JSON may be; the parser's own words for it help nobody.
pub fn too_deep(why: &str) -> Option<&'static str> {
    why.starts_with("recursion limit").then_some("is nested deeper than 127 levels; flatten it")
}

fn target(ids: Option<Vec<GatewayId>>, asked: Option<AskedTarget>) -> Result<Target, Objection> {
    let (all, labels, asked_ids) = match asked {
        Some(asked) => (asked.all, asked.labels, asked.gateway_ids),
        None => (None, None, None),
    };
    match (ids, asked_ids, all, labels) {
        (Some(mut ids), None, None, None) | (None, Some(mut ids), None, None)
            if !ids.is_empty() =>
        {
            ids.sort_unstable();
            ids.dedup();
            Ok(Target::Gateways(ids))
        }
        (None, None, Some(true), None) => Ok(Target::All),
        (None, None, None, Some(labels)) if !labels.is_empty() => Ok(Target::Labels(labels)),
        _ => Err(Objection::invalid(
            "target",
            "give exactly one of gatewayIds (not empty), target {\"all\": true} or target {\"labels\": {…}} (not empty)",
        )),
    }
}

fn expiry(
    at: Option<Timestamp>,
    ttl_secs: Option<u64>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Objection> {
    match (at, ttl_secs) {
        (Some(_), Some(_)) => {
            Err(Objection::invalid("ttlSeconds", "give either expiresAt or ttlSeconds, not both"))
        }
        (Some(at), None) if at <= now => Err(Objection::Expired),
        (None, Some(secs)) if !(1..=LONGEST_TTL_SECS).contains(&secs) => {
            Err(Objection::invalid("ttlSeconds", format!("must be 1 to {LONGEST_TTL_SECS}")))
        }
        (at, ttl_secs) => {
            Ok(at.or_else(|| ttl_secs.map(|secs| now.plus(Duration::from_secs(secs)))))
        }
    }
}
