//! Validation of events before they are appended. [`body`] reads what publishers
//! send over HTTP and `rows` reads rows of the inbox; both produce a [`Draft`], and
//! [`Rules::validate_all`] applies the same rules to all of them. This module
//! assigns no sequences, and does not depend on HTTP or on tables.
//!
//! A small request whose types need no JSON Schema evaluator is validated on the
//! calling async worker. Everything else runs on the compute pool, in slices, so
//! that sources of events take turns and connections are always served.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::api;
use crate::clock::Timestamp;
use crate::cloud_event::Attributes;
use crate::compute::{ComputeError, Pool, Source};
use crate::event::{CollapseKey, CorrelationId, Event, EventId, EventType, GatewayId};
use crate::event_types::{self, Subject, Validator};
use crate::metric::{self, TypeCounters};
use crate::store::supersession::Collapse;
use crate::store::{EventTypeInfo, InvalidEvent, NewEvent, Target, Validated};
use crate::trace_context::TraceParent;
use crate::transport::frame;

pub mod body;
pub mod cloud_events;
pub mod inbox;
mod rows;

#[cfg(test)]
mod tests;

pub use crate::store::ValidationError;

/// Ten years.
pub const MAX_TTL_SECS: u64 = 10 * 366 * 24 * 3600;

/// How far a publisher's clock may be ahead of the service's.
const CLOCK_SKEW: Duration = Duration::from_mins(5);
/// How long ago an event may have occurred.
const MAX_EVENT_AGE: Duration = Duration::from_secs(MAX_TTL_SECS);

/// Up to this many bytes of a request are read and checked on the async worker.
const INLINE_BYTES: usize = 64 * 1024;
/// After this long a computation lets other sources have their turn.
const SLICE: Duration = Duration::from_millis(5);

/// An event as its publisher wrote it. Each field is well formed by itself; nothing
/// else has been checked.
#[derive(Debug)]
pub struct Draft {
    /// Its type.
    pub event_type: EventType,
    /// Its payload: any JSON.
    pub payload: Box<RawValue>,
    /// The gateways that it is for, by id.
    pub gateway_ids: Option<Vec<GatewayId>>,
    /// Another choice of gateways.
    pub target: Option<api::Target>,
    /// Its id, if the publisher has chosen one.
    pub id: Option<EventId>,
    /// The key by which gateways recognise repeats; the event's id if omitted.
    pub correlation_id: Option<CorrelationId>,
    /// The user on whose behalf it is published.
    pub user_id: Option<String>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// In how many seconds from now it expires.
    pub ttl_secs: Option<u64>,
    /// What older unsent events of its type are superseded by.
    pub collapse_key: Option<CollapseKey>,
    /// When it occurred, as gateways see it. Not part of the digest: a repeat may
    /// carry another time.
    pub occurred_at: Timestamp,
    /// The trace that the publisher belongs to. It is not part of the digest
    /// either: a repeat is another request, and may come with another span.
    pub traceparent: Option<TraceParent>,
    /// What else it has if it is a CloudEvent.
    pub attributes: Option<Box<Attributes>>,
}

impl Draft {
    /// Digest of the event's content, which does not depend on how it was written or
    /// published. An event with a known id is a repeat if its digest is the same, and
    /// is refused otherwise.
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
        // Room for the payload's quotes, which are escaped, and for the other members.
        let mut text = Vec::with_capacity(self.payload.get().len() / 8 * 9 + 512);
        serde_json::to_writer(&mut text, &whole).expect("texts and numbers are JSON");
        if let Some(key) = &self.collapse_key {
            serde_json::to_writer(&mut text, key).expect("texts are JSON");
        }
        // As texts: the modes of the HTTP binding keep different types.
        for (name, value) in self.attributes.iter().flat_map(|attributes| attributes.iter()) {
            let attribute = (name, value.to_string());
            serde_json::to_writer(&mut text, &attribute).expect("texts are JSON");
        }
        Sha256::digest(&text).into()
    }
}

/// An event to be validated.
#[derive(Debug)]
pub struct Candidate {
    /// The event.
    pub draft: Draft,
    /// Its type, if that is registered.
    pub info: Option<Arc<EventTypeInfo>>,
}

/// Why a JSON Schema can't be registered.
#[derive(Debug, thiserror::Error)]
pub enum SchemaCheckError {
    /// What is wrong with the schema.
    #[error("{0}")]
    Invalid(String),
    /// It could not be checked.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

/// The rules for events, with the schemas that were compiled for them. All publishers
/// share one.
#[derive(Debug)]
pub struct Rules {
    validator: Validator,
    pool: Pool,
    event_bytes: usize,
    published: TypeCounters,
}

impl Rules {
    /// Rules that accept events whose frame has at most `event_bytes`.
    pub fn new(event_bytes: usize) -> Arc<Self> {
        let (validator, pool) = (Validator::default(), Pool::new());
        let built_ins = event_types::built_ins().map(|info| info.name.as_str());
        let published = TypeCounters::new(metric::PUBLISHED_EVENTS, built_ins);
        Arc::new(Self { validator, pool, event_bytes, published })
    }

    /// Counts an accepted event.
    pub fn count_published(&self, event_type: &EventType) {
        self.published.add(event_type.as_str(), 1);
    }

    /// Size of the largest frame.
    pub const fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// Runs work that takes time in proportion to `bytes`: inline if they are few, on
    /// the compute pool otherwise.
    pub async fn compute<T: Send + 'static>(
        &self,
        source: &Source,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        if bytes <= INLINE_BYTES { Ok(work()) } else { self.pool.run(source, work).await }
    }

    /// Checks a JSON Schema before it is registered.
    pub async fn check_schema(
        &self,
        source: &Source,
        schema: Box<RawValue>,
    ) -> Result<(), SchemaCheckError> {
        self.pool
            .run(source, move || event_types::check_schema(&schema))
            .await?
            .map_err(SchemaCheckError::Invalid)
    }

    /// Validates the events of one request, in order. `bytes` is the size of the whole
    /// request.
    pub async fn validate_all(
        self: &Arc<Self>,
        source: &Source,
        bytes: usize,
        candidates: Vec<Candidate>,
        now: Timestamp,
    ) -> Result<Vec<Validated>, ComputeError> {
        let mut validated = Vec::with_capacity(candidates.len());
        let is_quick = |it: &Candidate| it.info.as_deref().is_none_or(Validator::is_quick);
        if bytes <= INLINE_BYTES && candidates.iter().all(is_quick) {
            let validate = |candidate| self.validate(candidate, now);
            validated.extend(candidates.into_iter().map(validate));
            return Ok(validated);
        }
        let mut waiting = VecDeque::from(candidates);
        while !waiting.is_empty() {
            let rules = Arc::clone(self);
            let slice = move || {
                let begun = Instant::now();
                while let Some(candidate) = waiting.pop_front() {
                    validated.push(rules.validate(candidate, now));
                    if begun.elapsed() >= SLICE {
                        break;
                    }
                }
                (waiting, validated)
            };
            (waiting, validated) = self.pool.run(source, slice).await?;
        }
        Ok(validated)
    }

    fn validate(&self, candidate: Candidate, now: Timestamp) -> Validated {
        let Candidate { draft, info } = candidate;
        let digest = draft.digest();
        let id = draft.id.clone();
        let is_cloud_event = draft.attributes.is_some();
        self.new_event(draft, digest, info.as_deref(), now).map_err(|error| InvalidEvent {
            identity: id.map(|id| (id, digest)),
            error: if is_cloud_event { cloud_events::of_attributes(error) } else { error },
        })
    }

    fn new_event(
        &self,
        draft: Draft,
        digest: [u8; 32],
        info: Option<&EventTypeInfo>,
        now: Timestamp,
    ) -> Result<NewEvent, ValidationError> {
        let subject = self.check_payload(&draft, info)?;
        let target = target(draft.gateway_ids, draft.target)?;
        let expires_at = expiry(draft.expires_at, draft.ttl_secs, now)?.or_else(|| {
            let ttl_secs = info?.ttl_secs?;
            Some(now.plus(Duration::from_secs(ttl_secs)))
        });
        let collapse = match draft.collapse_key {
            _ if info.is_some_and(|info| info.barrier) => Some(Collapse::Barrier),
            key => key.map(Collapse::Key),
        };
        let is_invalid = |user: &String| user.len() > 256 || user.chars().any(char::is_control);
        if draft.user_id.as_ref().is_some_and(is_invalid) {
            let allowed = "must be at most 256 bytes, none of them a control character";
            return Err(ValidationError::invalid("userId", allowed));
        }
        let invalid_id =
            |error: crate::event::Invalid| ValidationError::invalid("id", error.to_string());
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
            traceparent: draft.traceparent,
            attributes: draft.attributes,
        };
        self.check_size(frame::longest_event_text(&event))?;
        Ok(NewEvent {
            artifact_id: subject.artifact_id,
            deployment_id: subject.deployment_id,
            event: Arc::new(event),
            is_named,
            target,
            digest,
            collapse,
        })
    }

    /// Checks that the type is registered and that the payload is an object that
    /// satisfies its schema. A payload that is too large for a frame is not read.
    fn check_payload(
        &self,
        draft: &Draft,
        info: Option<&EventTypeInfo>,
    ) -> Result<Subject, ValidationError> {
        let payload = draft.payload.get();
        if !payload.starts_with('{') {
            return Err(ValidationError::invalid("payload", "must be a JSON object"));
        }
        let info = info.ok_or_else(|| ValidationError::UnknownType(draft.event_type.clone()))?;
        self.check_size(payload.len())?;
        self.validator.check(info, payload).map_err(ValidationError::Invalid)
    }

    fn check_size(&self, bytes: usize) -> Result<(), ValidationError> {
        if bytes <= self.event_bytes {
            return Ok(());
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Err(ValidationError::TooLarge { bytes, limit: self.event_bytes })
    }
}

/// When an event occurred: the publisher's `timestamp`, or now. One that is ahead of
/// the service's clock, within the tolerance, becomes now.
fn occurred_at(said: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, ValidationError> {
    match said {
        None => Ok(now),
        Some(at) if at > now.plus(CLOCK_SKEW) => {
            Err(ValidationError::invalid("timestamp", "is more than five minutes in the future"))
        }
        Some(at) if at < now.minus(MAX_EVENT_AGE) => {
            Err(ValidationError::invalid("timestamp", "is more than ten years in the past"))
        }
        Some(at) => Ok(at.min(now)),
    }
}

/// The gateways that a request names, by id or by other criteria: exactly one of both.
pub fn target(
    ids: Option<Vec<GatewayId>>,
    asked: Option<api::Target>,
) -> Result<Target, ValidationError> {
    let api::Target { all, labels, gateway_ids: asked_ids } = asked.unwrap_or_default();
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
        _ => Err(ValidationError::invalid(
            "target",
            "give exactly one of gatewayIds (not empty), target {\"all\": true} or target {\"labels\": {…}} (not empty)",
        )),
    }
}

fn expiry(
    at: Option<Timestamp>,
    ttl_secs: Option<u64>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ValidationError> {
    match (at, ttl_secs) {
        (Some(_), Some(_)) => Err(ValidationError::invalid(
            "ttlSeconds",
            "must not be given together with an instant of expiry",
        )),
        (Some(at), None) if at <= now => Err(ValidationError::Expired),
        (None, Some(secs)) if !(1..=MAX_TTL_SECS).contains(&secs) => {
            Err(ValidationError::invalid("ttlSeconds", format!("must be 1 to {MAX_TTL_SECS}")))
        }
        (at, ttl_secs) => {
            Ok(at.or_else(|| ttl_secs.map(|secs| now.plus(Duration::from_secs(secs)))))
        }
    }
}
