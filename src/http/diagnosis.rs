//! Diagnoses of gateways and of events.

use axum::Json;

use super::auth::Reader;
use super::extract::Path;
use super::gateways;
use super::openapi::{Long, Missing, Problems, Scoped};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{
    self, EventDiagnosis, EventDiagnosisQuery, Evidence, FailuresByReason, FilteredDelivery,
    GatewayChangeRecord, GatewayDiagnosis, KeyRecord, LabelDifference, MissedEvent, MissedTarget,
    NextStep, OpenDelivery, PendingRecord, RejectedForGateway,
};
use crate::clock::Timestamp;
use crate::diagnosis::{Step, event, gateway, labels};
use crate::event::{EventId, GatewayId};
use crate::store::{self, Diagnosis, EventTypes, RejectionReason, TruncatedList};

impl FromQuery for EventDiagnosisQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self { gateway_id: parameters.gateway_id("gatewayId")? })
    }
}

/// Diagnose a gateway.
///
/// Its verdict, what to do next, and the evidence: why deliveries are missing. Also works for a
/// deleted gateway.
#[utoipa::path(
    get, path = "/gateways/{id}/diagnosis", tag = "gateways", operation_id = "diagnoseGateway",
    params(("id" = GatewayId, Path, description = "The gateway.")),
    responses(
        (status = 200, description = "The diagnosis.", body = GatewayDiagnosis),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn of_gateway(
    Part(diagnosis): Part<dyn Diagnosis>,
    Part(event_types): Part<dyn EventTypes>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
    _: Query<()>,
) -> HandlerResult<Json<GatewayDiagnosis>> {
    let found = diagnosis.gateway_evidence(organisation, id).await?;
    let evidence = found.ok_or_else(|| Problem::not_found("gateway"))?;
    let is_unknown = |row: &store::RejectedRow| row.reason == RejectionReason::UnknownEventType;
    let types = if evidence.rejected.iter().any(is_unknown) {
        let types = event_types.event_types(organisation).await?;
        types.into_iter().map(|info| info.name).collect()
    } else {
        Vec::new()
    };
    let (missed, rejected) = (gateway::missed(&evidence), gateway::rejected(&evidence, &types));
    let next = gateway::next(&evidence, &missed, &rejected);
    let verdict = gateways::verdict(evidence.verdict(), evidence.summary());
    let store::GatewayEvidence { gateway, history, keys, connections, pending, said, .. } =
        evidence;
    let by_reason = |tallies: Vec<store::ReasonTally>| {
        tallies.into_iter().map(|tally| failures(tally, &said)).collect()
    };
    let not_listed = usize::try_from(gateway.pending).unwrap_or(0).saturating_sub(pending.len());
    Ok(Json(GatewayDiagnosis {
        gateway_id: gateway.id,
        gateway_name: gateway.name,
        verdict,
        next: steps(next),
        registered_at: gateway.created_at,
        history: list(TruncatedList::of(history)),
        keys: few(keys, |key| key_record(key, gateway.as_of)),
        connections: list(connections),
        resyncs: list(evidence.resyncs),
        last_refusal: gateway.last_refusal.map(Into::into),
        failures: by_reason(evidence.failures),
        pending: list(TruncatedList { list: pending, more: not_listed }),
        dead_letters: evidence.dead_total,
        dead_letters_by_reason: by_reason(evidence.dead_letters),
        rejected: list(rejected),
        missed: list(missed),
    }))
}

/// Diagnose an event.
///
/// Its verdict, what to do next, where it was given up or is pending, and which gateways it missed
/// by a removed, changed or mistyped label.
#[utoipa::path(
    get, path = "/events/{id}/diagnosis", tag = "events", operation_id = "diagnoseEvent",
    params(("id" = EventId, Path, description = "The event."), EventDiagnosisQuery),
    responses(
        (status = 200, description = "The diagnosis.", body = EventDiagnosis),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn of_event(
    Part(diagnosis): Part<dyn Diagnosis>,
    Reader(organisation): Reader,
    Path(id): Path<EventId>,
    Query(asked): Query<EventDiagnosisQuery>,
) -> HandlerResult<Json<EventDiagnosis>> {
    let found = diagnosis.event_evidence(organisation, &id, asked.gateway_id).await?;
    let evidence = found.ok_or_else(|| Problem::not_found("event"))?;
    let open = event::open(&evidence);
    let gateways = match asked.gateway_id {
        Some(_) => {
            let of = evidence.gateways.iter();
            TruncatedList::of(
                of.filter_map(|gateway| event::gateway_match(&evidence, gateway)).collect(),
            )
        }
        None => event::missed(&evidence),
    };
    let filtered = event::filtered(&evidence);
    let next = event::next(&evidence, &open, &gateways);
    let store::EventEvidence { event, more, .. } = evidence;
    let verdict = event.verdict().into();
    Ok(Json(EventDiagnosis {
        event_id: id,
        event_type: event.event.event_type.clone(),
        correlation_id: event.event.correlation_id.clone(),
        appended_at: event.appended_at,
        expires_at: event.event.expires_at,
        target: event.target.map(Into::into),
        gateway_count: event.matched,
        verdict,
        next: steps(next),
        open: list(open),
        filtered: list(filtered),
        gateways: list(gateways),
        more,
    }))
}

fn few<T, U>(few: TruncatedList<T>, shown: impl Fn(T) -> U) -> Evidence<U> {
    Evidence { list: few.list.into_iter().map(shown).collect(), more: few.more }
}

fn list<T, U: From<T>>(list: TruncatedList<T>) -> Evidence<U> {
    few(list, U::from)
}

fn steps(steps: Vec<Step>) -> Vec<NextStep> {
    let steps = steps.into_iter();
    steps.map(|Step { why, command }| NextStep { why, command }).collect()
}

fn key_record(key: store::TokenInfo, now: Timestamp) -> KeyRecord {
    KeyRecord {
        state: match gateway::KeyState::of(&key, now) {
            gateway::KeyState::Valid => api::KeyState::Valid,
            gateway::KeyState::Expiring => api::KeyState::Expiring,
            gateway::KeyState::Expired => api::KeyState::Expired,
            gateway::KeyState::Revoked => api::KeyState::Revoked,
        },
        id: key.id,
        created_at: key.created_at,
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        last_used_at: key.last_used_at,
    }
}

impl From<store::GatewayState> for GatewayChangeRecord {
    fn from(state: store::GatewayState) -> Self {
        Self {
            changed_at: state.changed_at,
            replaced_at: state.replaced_at,
            name: state.name,
            labels: state.labels,
            disabled: state.disabled_at.is_some(),
            deleted: state.deleted_at.is_some(),
            changed_by: state.changed_by,
        }
    }
}

fn failures(tally: store::ReasonTally, said: &[store::FailureDetail]) -> FailuresByReason {
    let store::ReasonTally { reason, count, first_at, last_at } = tally;
    let last_detail = said.iter().find(|it| it.reason == reason).map(|it| it.detail.clone());
    FailuresByReason { reason, count, first_at, last_at, last_detail }
}

impl From<gateway::Rejected> for RejectedForGateway {
    fn from(rejected: gateway::Rejected) -> Self {
        let gateway::Rejected { row, is_similar, did_you_mean, is_registered_now: _ } = rejected;
        Self { row: row.into(), similar_target: is_similar, did_you_mean }
    }
}

impl From<store::PendingDelivery> for PendingRecord {
    fn from(delivery: store::PendingDelivery) -> Self {
        Self {
            sequence: delivery.sequence,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
            correlation_id: delivery.correlation_id,
            appended_at: delivery.appended_at,
            expires_at: delivery.expires_at,
        }
    }
}

impl From<gateway::Missed> for MissedTarget {
    fn from(missed: gateway::Missed) -> Self {
        Self {
            labels: missed.labels,
            cause: match missed.kind {
                gateway::MissedBy::RemovedLabel => api::MissedBy::RemovedLabel,
                gateway::MissedBy::MistypedTarget => api::MissedBy::MistypedTarget,
                gateway::MissedBy::MistypedLabel => api::MissedBy::MistypedLabel,
            },
            differences: missed.differences.into_iter().map(Into::into).collect(),
            events: missed.events,
            first_at: missed.first_at,
            last_at: missed.last_at,
            last_event_id: missed.last_event,
            oldest: missed.oldest.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<gateway::MissedEvent> for MissedEvent {
    fn from(event: gateway::MissedEvent) -> Self {
        let gateway::MissedEvent { id: event_id, event_type, appended_at } = event;
        Self { event_id, event_type, appended_at }
    }
}

impl From<labels::Difference> for LabelDifference {
    fn from(difference: labels::Difference) -> Self {
        let summary = difference.in_words();
        let labels::Difference { label, wanted, had, until, meant } = difference;
        Self { label, wanted, had, until, did_you_mean: meant, summary }
    }
}

impl From<event::Open> for OpenDelivery {
    fn from(open: event::Open) -> Self {
        Self {
            gateway_id: open.gateway_id,
            gateway_name: open.gateway_name,
            sequence: open.sequence,
            state: open.state.into(),
            reason: open.reason,
            detail: open.detail,
            failures: open.failures,
            last_failure_at: open.last_failure_at,
        }
    }
}

impl From<event::Filtered> for FilteredDelivery {
    fn from(filtered: event::Filtered) -> Self {
        let event::Filtered { gateway_id, gateway_name, sequence, filtered_at, detail } = filtered;
        Self { gateway_id, gateway_name, sequence, filtered_at, detail }
    }
}

impl From<event::GatewayMatch> for api::GatewayThen {
    fn from(answer: event::GatewayMatch) -> Self {
        let summary = answer.in_words();
        Self {
            gateway_id: answer.id,
            gateway_name: answer.name,
            registered_at: answer.registered_at,
            then: answer.then.as_str().to_owned(),
            labels: answer.labels,
            differences: answer.differences.into_iter().map(Into::into).collect(),
            summary,
        }
    }
}
