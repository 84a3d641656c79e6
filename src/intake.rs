//! What every event is held to before it is appended, whichever way it came:
//! HTTP and the inbox read a [`Draft`] each in their own way, and both have it
//! judged here. This room gives no numbers, and knows no request and no table.
//!
//! What costs little is done on the async worker that asks: a small request
//! whose types need no evaluator. Everything else runs on the compute pool, in
//! slices, so that sources of events take turns and sockets are always served.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::compute::{ComputeError, Pool, Source};
use crate::event::{CorrelationId, Event, EventId, EventType, GatewayId};
use crate::event_types::{self, Subject, Validator};
use crate::socket::frame;
use crate::store::{EventTypeInfo, Labels, NewEvent, Target};
use crate::trace_context::TraceParent;

pub mod inbox;
pub mod object;
mod objection;
mod rows;

#[cfg(test)]
mod tests;

pub use objection::Objection;

/// Ten years; longer is as good as no expiry.
const LONGEST_TTL_SECS: u64 = 10 * 366 * 24 * 3600;

/// How far a publisher's clock may be ahead of ours.
const CLOCK_SKEW: Duration = Duration::from_mins(5);
/// How long ago an event may have occurred.
const OLDEST: Duration = Duration::from_secs(LONGEST_TTL_SECS);

/// Up to this many bytes of a request are read and checked on the async worker.
const INLINE_BYTES: usize = 64 * 1024;
/// After this long a computation lets other sources have their turn.
const SLICE: Duration = Duration::from_millis(5);

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
    /// When it occurred, as gateways are told. It is not part of the digest: a
    /// repeat may carry another time.
    pub occurred_at: Timestamp,
    /// The trace that the publisher belongs to. It is not part of the digest
    /// either: a repeat is another request, and may come with another span.
    pub traceparent: Option<TraceParent>,
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

/// An event, and its type as it is registered, if it is.
#[derive(Debug)]
pub struct Candidate {
    /// The event.
    pub draft: Draft,
    /// Its type.
    pub info: Option<Arc<EventTypeInfo>>,
}

/// An event that can't be appended.
#[derive(Debug)]
pub struct Refused {
    /// Its id and digest, if it has an id: a repeat gets the first answer.
    pub identity: Option<(EventId, [u8; 32])>,
    /// Why.
    pub objection: Objection,
}

/// The rules, with the schemas that were compiled for them. One for all who publish.
#[derive(Debug)]
pub struct Rules {
    validator: Validator,
    pool: Pool,
    event_bytes: usize,
}

impl Rules {
    /// Rules that let frames of up to `event_bytes` through.
    pub fn new(event_bytes: usize) -> Arc<Self> {
        let (validator, pool) = (Validator::default(), Pool::new());
        Arc::new(Self { validator, pool, event_bytes })
    }

    /// The largest frame.
    pub const fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// Does what takes time in proportion to `bytes`: at once if they are few,
    /// on the compute pool otherwise.
    pub async fn compute<T: Send + 'static>(
        &self,
        source: &Source,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        if bytes <= INLINE_BYTES { Ok(work()) } else { self.pool.run(source, work).await }
    }

    /// Whether a schema may be registered; an error says why not.
    pub async fn check_schema(
        &self,
        source: &Source,
        schema: Box<RawValue>,
    ) -> Result<Result<(), String>, ComputeError> {
        self.pool.run(source, move || event_types::check_schema(&schema)).await
    }

    /// Judges the events of one request, of so many bytes, in their order.
    pub async fn judge_all(
        self: &Arc<Self>,
        source: &Source,
        bytes: usize,
        candidates: Vec<Candidate>,
        now: Timestamp,
    ) -> Result<Vec<Result<NewEvent, Refused>>, ComputeError> {
        let mut judged = Vec::with_capacity(candidates.len());
        let is_quick = |it: &Candidate| it.info.as_deref().is_none_or(Validator::is_quick);
        if bytes <= INLINE_BYTES && candidates.iter().all(is_quick) {
            judged.extend(candidates.into_iter().map(|candidate| self.judge(candidate, now)));
            return Ok(judged);
        }
        let mut waiting = VecDeque::from(candidates);
        while !waiting.is_empty() {
            let rules = Arc::clone(self);
            let slice = move || {
                let begun = Instant::now();
                while let Some(candidate) = waiting.pop_front() {
                    judged.push(rules.judge(candidate, now));
                    if begun.elapsed() >= SLICE {
                        break;
                    }
                }
                (waiting, judged)
            };
            (waiting, judged) = self.pool.run(source, slice).await?;
        }
        Ok(judged)
    }

    fn judge(&self, candidate: Candidate, now: Timestamp) -> Result<NewEvent, Refused> {
        let Candidate { draft, info } = candidate;
        let digest = draft.digest();
        let id = draft.id.clone();
        self.judged(draft, digest, info.as_deref(), now)
            .map_err(|objection| Refused { identity: id.map(|id| (id, digest)), objection })
    }

    fn judged(
        &self,
        draft: Draft,
        digest: [u8; 32],
        info: Option<&EventTypeInfo>,
        now: Timestamp,
    ) -> Result<NewEvent, Objection> {
        let subject = self.check_payload(&draft, info)?;
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
            traceparent: draft.traceparent,
        };
        self.check_size(frame::longest_event_text(&event))?;
        Ok(NewEvent {
            artifact_id: subject.artifact_id,
            deployment_id: subject.deployment_id,
            event: Arc::new(event),
            is_named,
            target,
            digest,
        })
    }

    /// The type must be registered, and the payload an object that fits its
    /// schema. One that is too large for a frame is not even read.
    fn check_payload(
        &self,
        draft: &Draft,
        info: Option<&EventTypeInfo>,
    ) -> Result<Subject, Objection> {
        let payload = draft.payload.get();
        if !payload.starts_with('{') {
            return Err(Objection::invalid("payload", "must be a JSON object"));
        }
        let info = info.ok_or_else(|| Objection::UnknownType(draft.event_type.clone()))?;
        self.check_size(payload.len())?;
        self.validator.check(info, payload).map_err(Objection::Invalid)
    }

    fn check_size(&self, bytes: usize) -> Result<(), Objection> {
        if bytes <= self.event_bytes {
            return Ok(());
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Err(Objection::TooLarge { bytes, limit: self.event_bytes })
    }
}

/// When an event occurred: what its publisher says, if that can be, or now. A
/// clock that is a little ahead of ours does no harm.
pub fn occurrence(said: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Objection> {
    match said {
        None => Ok(now),
        Some(at) if at > now.plus(CLOCK_SKEW) => {
            Err(Objection::invalid("timestamp", "lies more than five minutes in the future"))
        }
        Some(at) if at < now.minus(OLDEST) => {
            Err(Objection::invalid("timestamp", "lies more than ten years in the past"))
        }
        Some(at) => Ok(at.min(now)),
    }
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
