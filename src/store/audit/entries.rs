//! The entries of each operation, which all stores record alike.

use super::super::{
    BulkJob, BulkJobState, BulkTask, Confirmation, EventTypeInfo, ExpiredInstance, Gateway,
    LoggedEvent, Range, RejectedRow, RenewalReason, Resent, TokenInfo,
};
use super::{AuditAction, AuditEntry, AuditObject, Fact, Facts};
use crate::event::{Event, EventId, EventType, GatewayId, Sequence};

mod alerts;

pub use alerts::*;

/// A gateway was registered.
pub fn gateway_registered(gateway: &Gateway) -> AuditEntry {
    entry(AuditAction::GatewayRegistered, of_gateway(gateway), Facts::none(), facts(gateway))
}

/// An action, and the values of a gateway that it is about.
type Part = (AuditAction, fn(&Gateway) -> Facts);

/// A gateway was updated: an entry for its name, replicas and confirmation, one for its labels, and one for
/// whether it is disabled; each only if that changed.
pub fn gateway_updated(before: &Gateway, after: &Gateway) -> Vec<AuditEntry> {
    let action = if after.disabled_at.is_some() {
        AuditAction::GatewayDisabled
    } else {
        AuditAction::GatewayEnabled
    };
    let parts: [Part; 3] = [
        (AuditAction::GatewayChanged, settings),
        (AuditAction::GatewayLabelled, labels),
        (action, disabled),
    ];
    let entries = parts.into_iter().map(|(action, part)| {
        let (before, after_it) = Facts::without_equal(part(before), part(after));
        entry(action, of_gateway(after), before, after_it)
    });
    entries.filter(|entry| !(entry.before.is_empty() && entry.after.is_empty())).collect()
}

/// A gateway was deleted. Its undelivered events were recorded as failed, and this many keys were
/// revoked.
pub fn gateway_deleted(gateway: &Gateway, undelivered: &[Range], revoked: u64) -> AuditEntry {
    let undelivered: i64 = undelivered.iter().map(|it| it.last.0 - it.first.0 + 1).sum();
    let after = Facts::none().with("undelivered", undelivered).with("revokedTokens", revoked);
    entry(AuditAction::GatewayDeleted, of_gateway(gateway), facts(gateway), after)
}

/// An instance of a gateway was forgotten.
pub fn instance_forgotten(gateway: &Gateway, gone: &ExpiredInstance) -> AuditEntry {
    let before = Facts::none()
        .with("instance", gone.name.as_str())
        .with("received", gone.received.0)
        .with("applied", gone.applied.0);
    entry(AuditAction::InstanceForgotten, of_gateway(gateway), before, Facts::none())
}

/// A gateway's key was created.
pub fn gateway_token_created(id: GatewayId, gateway: &str, token: &TokenInfo) -> AuditEntry {
    let (object, after) = gateway_token(id, gateway, token);
    entry(AuditAction::GatewayTokenCreated, object, Facts::none(), after)
}

/// A gateway's key was revoked.
pub fn gateway_token_revoked(id: GatewayId, gateway: &str, token: &TokenInfo) -> AuditEntry {
    let (object, before) = gateway_token(id, gateway, token);
    entry(AuditAction::GatewayTokenRevoked, object, before, Facts::none())
}

/// An access token was created, in a request or for the first start.
pub fn access_token_created(token: &TokenInfo) -> AuditEntry {
    let (object, after) = access_token(token);
    entry(AuditAction::AccessTokenCreated, object, Facts::none(), after)
}

/// An admin access token was created directly in the database.
pub fn access_token_recovered(token: &TokenInfo) -> AuditEntry {
    AuditEntry { action: AuditAction::AccessTokenRecovered, ..access_token_created(token) }
}

/// All logs got new epochs. They had come this far.
pub fn epochs_renewed(reason: RenewalReason, logs: u64, sequences: i64) -> AuditEntry {
    let after = Facts::none()
        .with("reason", reason.as_str())
        .with("logs", logs)
        .with("sequences", sequences);
    let object = AuditObject::new("database", "database", "database");
    entry(AuditAction::EpochsRenewed, object, Facts::none(), after)
}

/// An access token was revoked.
pub fn access_token_revoked(token: &TokenInfo) -> AuditEntry {
    let (object, before) = access_token(token);
    entry(AuditAction::AccessTokenRevoked, object, before, Facts::none())
}

/// An event type was registered, or replaced what there was: the registered type of that name, or
/// else the built-in one. `None` if both are the same.
pub fn event_type_put(old: Option<&EventTypeInfo>, new: &EventTypeInfo) -> Option<AuditEntry> {
    let schema = |info: &EventTypeInfo| info.schema.as_ref().map(|it| it.get().to_owned());
    // Compared as a whole, because long texts may only differ where their facts are cut.
    let is_described = old.is_none_or(|old| old.description != new.description);
    let has_schema = old.is_none_or(|old| schema(old) != schema(new));
    let has_ttl = old.is_none_or(|old| old.ttl_secs != new.ttl_secs);
    let has_barrier = new.barrier != old.is_some_and(|old| old.barrier);
    if !(is_described || has_schema || has_ttl || has_barrier) && old.is_some() {
        return None;
    }
    let facts = |info: &EventTypeInfo| {
        let description = is_described.then_some(info.description.as_str());
        let schema = schema(info).filter(|_| has_schema);
        let facts = Facts::none().with_some("description", description);
        let facts = facts.with_some("schema", schema.as_deref());
        let facts = facts.with_some("ttlSeconds", seconds(info.ttl_secs.filter(|_| has_ttl)));
        facts.with_some("barrier", has_barrier.then_some(info.barrier))
    };
    let action = match old {
        None => AuditAction::EventTypeRegistered,
        Some(_) => AuditAction::EventTypeChanged,
    };
    let object = AuditObject::new("event_type", &new.name, &new.name);
    Some(entry(action, object, old.map(facts).unwrap_or_default(), facts(new)))
}

fn seconds(ttl_secs: Option<u64>) -> Option<i64> {
    ttl_secs.map(|secs| i64::try_from(secs).unwrap_or(i64::MAX))
}

/// A registered event type was deleted.
pub fn event_type_deleted(old: &EventTypeInfo) -> AuditEntry {
    let schema = old.schema.as_ref().map(|schema| schema.get());
    let before = Facts::none()
        .with("description", old.description.as_str())
        .with_some("schema", schema)
        .with_some("ttlSeconds", seconds(old.ttl_secs))
        .with_some("barrier", old.barrier.then_some(true));
    let object = AuditObject::new("event_type", &old.name, &old.name);
    entry(AuditAction::EventTypeDeleted, object, before, Facts::none())
}

/// Dead letters of one gateway were appended again, each under a new sequence.
pub fn redriven(id: GatewayId, gateway: &str, sequences: &[(Sequence, Sequence)]) -> AuditEntry {
    let object = AuditObject::new("gateway", &id.to_string(), gateway);
    let old = listed(sequences.iter().map(|(old, _)| old.0));
    let new = listed(sequences.iter().map(|(_, new)| new.0));
    let count = i64::try_from(sequences.len()).unwrap_or(i64::MAX);
    let after = Facts::none()
        .with("deliveries", count)
        .with("sequences", Fact::numbers(&old))
        .with("newSequences", Fact::numbers(&new));
    entry(AuditAction::DeliveryRedriven, object, Facts::none(), after)
}

/// Part of a gateway's log was appended again, under new sequences.
pub fn replayed(id: GatewayId, gateway: &str, range: Range, appended: Range) -> AuditEntry {
    let object = AuditObject::new("gateway", &id.to_string(), gateway);
    let after = Facts::none()
        .with("deliveries", appended.last.0 - appended.first.0 + 1)
        .with("sequences", span(range).as_str())
        .with("newSequences", span(appended).as_str());
    entry(AuditAction::GatewayReplayed, object, Facts::none(), after)
}

/// An event was appended for more gateways.
pub fn event_resent(id: &EventId, event_type: &str, resent: &Resent, force: bool) -> AuditEntry {
    let object = AuditObject::new("event", id.as_str(), event_type);
    let gateways: Fact = resent.deliveries.iter().map(|(id, _)| id.to_string()).collect();
    let count = i64::try_from(resent.deliveries.len()).unwrap_or(i64::MAX);
    let after = Facts::none().with("deliveries", count).with("gateways", gateways);
    let after = if force { after.with("force", true) } else { after };
    entry(AuditAction::EventResent, object, Facts::none(), after)
}

/// A job was started.
pub fn job_started(job: &BulkJob) -> AuditEntry {
    let after = match &job.task {
        BulkTask::Redrive(filter) => filter.facts(),
        BulkTask::Replay(gateway, range) => Facts::none()
            .with("gatewayId", gateway.to_string().as_str())
            .with("fromSequence", range.first.0)
            .with("toSequence", range.last.0),
        BulkTask::Unreadable => Facts::none(),
    };
    entry(AuditAction::JobStarted, of_job(job), Facts::none(), after)
}

/// A job has ended, or was aborted.
pub fn job_ended(job: &BulkJob) -> AuditEntry {
    let action = match job.state {
        BulkJobState::Aborted => AuditAction::JobAborted,
        BulkJobState::Running | BulkJobState::Done | BulkJobState::Failed => AuditAction::JobEnded,
    };
    let after = Facts::none()
        .with("state", job.state.as_str())
        .with("deliveries", job.counts.appended)
        .with_some("failure", job.failure.as_deref());
    entry(action, of_job(job), Facts::none(), after)
}

/// Delivery to a gateway was paused.
pub fn gateway_paused(gateway: &Gateway) -> AuditEntry {
    entry(AuditAction::GatewayPaused, of_gateway(gateway), Facts::none(), paused(gateway))
}

/// Delivery to a gateway was resumed, which was paused before.
pub fn gateway_resumed(before: &Gateway) -> AuditEntry {
    entry(AuditAction::GatewayResumed, of_gateway(before), paused(before), Facts::none())
}

/// A resync of these instances was requested; the empty name stands for unnamed connections.
pub fn resync_requested(
    gateway: &Gateway,
    instances: &[String],
    reason: Option<&str>,
) -> AuditEntry {
    let instances: Fact = instances.iter().cloned().collect();
    let after = Facts::none().with("instances", instances).with_some("reason", reason);
    entry(AuditAction::ResyncRequested, of_gateway(gateway), Facts::none(), after)
}

/// A pending delivery was given up.
pub fn delivery_skipped(
    gateway: &Gateway,
    sequence: Sequence,
    event: Option<&LoggedEvent>,
    reason: &str,
) -> AuditEntry {
    let after = Facts::none()
        .with("sequence", sequence.0)
        .with("reason", reason)
        .with_some("eventId", event.map(|event| event.id.as_str()))
        .with_some("eventType", event.map(|event| event.event_type.as_str()));
    entry(AuditAction::DeliverySkipped, of_gateway(gateway), Facts::none(), after)
}

/// An event's payload was removed, and its pending deliveries were given up.
pub fn event_purged(
    id: &EventId,
    event_type: &EventType,
    reason: &str,
    given_up: usize,
) -> AuditEntry {
    let object = AuditObject::new("event", id.as_str(), event_type.as_str());
    let given_up = i64::try_from(given_up).unwrap_or(i64::MAX);
    let after = Facts::none().with("reason", reason).with("givenUp", given_up);
    entry(AuditAction::EventPurged, object, Facts::none(), after)
}

/// A rejected row was edited, and is still rejected.
pub fn rejected_edited(before: &RejectedRow, after: &RejectedRow, has_payload: bool) -> AuditEntry {
    let object = AuditObject::new("rejected_row", &after.id.to_string(), &after.event_type);
    let (old, new) = Facts::without_equal(columns(before), columns(after));
    let new = if has_payload { new.with("payloadReplaced", true) } else { new };
    entry(AuditAction::RejectedRowEdited, object, old, new)
}

/// A rejected row was published as it was edited.
pub fn rejected_published(before: &RejectedRow, event: &Event, has_payload: bool) -> AuditEntry {
    let object =
        AuditObject::new("rejected_row", &before.id.to_string(), event.event_type.as_str());
    let after = Facts::none()
        .with("eventId", event.id.as_str())
        .with("type", event.event_type.as_str())
        .with("correlationId", event.correlation_id.as_str());
    let after = if has_payload { after.with("payloadReplaced", true) } else { after };
    entry(AuditAction::RejectedRowPublished, object, columns(before), after)
}

/// Rejected rows were put back into the inbox. `None` if there are none.
pub fn rejected_retried(ids: &[i64]) -> Option<AuditEntry> {
    let listed = listed(ids.iter().copied());
    let object = AuditObject::new("rejected_row", &listed, "");
    let after = Facts::none().with("rows", i64::try_from(ids.len()).unwrap_or(i64::MAX));
    let after = if ids.len() > 1 { after.with("ids", Fact::numbers(&listed)) } else { after };
    let one = || entry(AuditAction::RejectedRowRetried, object, Facts::none(), after);
    (!ids.is_empty()).then(one)
}

/// A rejected row was deleted.
pub fn rejected_deleted(row: &RejectedRow) -> AuditEntry {
    let object = AuditObject::new("rejected_row", &row.id.to_string(), &row.event_type);
    let before = Facts::none()
        .with("reason", row.reason.as_str())
        .with("rejectedAt", row.rejected_at)
        .with_some("eventId", row.event_id.as_deref())
        .with_some("gatewayId", row.gateway_id.as_deref())
        .with_some("retriedAt", row.retried_at);
    entry(AuditAction::RejectedRowDeleted, object, before, Facts::none())
}

const fn entry(
    action: AuditAction,
    object: AuditObject,
    before: Facts,
    after: Facts,
) -> AuditEntry {
    AuditEntry { action, object, before, after }
}

fn of_job(job: &BulkJob) -> AuditObject {
    AuditObject::new("job", &job.id.to_string(), job.task.kind())
}

fn of_gateway(gateway: &Gateway) -> AuditObject {
    AuditObject::new("gateway", &gateway.id.to_string(), &gateway.name)
}

fn facts(gateway: &Gateway) -> Facts {
    let facts = labels(gateway);
    let facts = facts.with("name", gateway.name.as_str()).with("replicas", gateway.replicas);
    let all = Some(gateway.confirmation).filter(|it| *it == Confirmation::All);
    let facts = facts.with_some("confirmation", all.map(Confirmation::as_str));
    facts.with("disabled", gateway.disabled_at.is_some())
}

fn settings(gateway: &Gateway) -> Facts {
    let facts = Facts::none().with("name", gateway.name.as_str());
    let facts = facts.with("replicas", gateway.replicas);
    facts.with("confirmation", gateway.confirmation.as_str())
}

fn labels(gateway: &Gateway) -> Facts {
    gateway.labels.iter().fold(Facts::none(), |facts, (name, value)| {
        facts.with(format!("labels.{name}"), value.as_str())
    })
}

fn disabled(gateway: &Gateway) -> Facts {
    Facts::none().with("disabled", gateway.disabled_at.is_some())
}

fn paused(gateway: &Gateway) -> Facts {
    let Some(pause) = &gateway.paused else { return Facts::none() };
    Facts::none().with("pausedBy", pause.by.as_str()).with_some("reason", pause.reason.as_deref())
}

/// The columns of a rejected row besides its payload, and why it was rejected.
fn columns(row: &RejectedRow) -> Facts {
    Facts::none()
        .with("type", row.event_type.as_str())
        .with("reason", row.reason.as_str())
        .with_some("gatewayId", row.gateway_id.as_deref())
        .with_some("target", row.target.as_deref())
        .with_some("eventId", row.event_id.as_deref())
        .with_some("correlationId", row.correlation_id.as_deref())
        .with_some("userId", row.user_id.as_deref())
        .with_some("expiresAt", row.expires_at.as_deref())
        .with_some("traceparent", row.traceparent.as_deref())
        .with_some("collapseKey", row.collapse_key.as_deref())
}

fn gateway_token(id: GatewayId, gateway: &str, token: &TokenInfo) -> (AuditObject, Facts) {
    let facts = Facts::none().with("gatewayId", id.to_string().as_str());
    let object = AuditObject::new("gateway_token", &token.id, gateway);
    (object, facts.with_some("expiresAt", token.expires_at))
}

fn access_token(token: &TokenInfo) -> (AuditObject, Facts) {
    let scopes: Fact = token.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let facts = Facts::none().with("scopes", scopes).with_some("expiresAt", token.expires_at);
    (AuditObject::new("access_token", &token.id, &token.name), facts)
}

/// A range as text: `3-9`.
fn span(range: Range) -> String {
    let Range { first, last } = range;
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Ascending numbers, with runs as ranges: `3-9, 12`.
fn listed(numbers: impl Iterator<Item = i64>) -> String {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): &(i64, i64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_listed_as_ranges() {
        assert_eq!(listed([3, 4, 5, 9, 11, 12].into_iter()), "3-5, 9, 11-12");
        assert_eq!(listed(std::iter::empty()), "");
    }

    #[test]
    fn a_schema_that_differs_beyond_the_cut_is_a_change() {
        let info = |tail: &str| EventTypeInfo {
            name: "a.b".to_owned(),
            description: "d".to_owned(),
            schema: serde_json::value::to_raw_value(&format!("{}{tail}", "x".repeat(1000))).ok(),
            ttl_secs: None,
            barrier: false,
        };
        let changed = event_type_put(Some(&info("1")), &info("2")).unwrap();
        assert_eq!(changed.action, AuditAction::EventTypeChanged);
        assert!(changed.after.to_json().contains("schema"));
        assert_eq!(event_type_put(Some(&info("1")), &info("1")), None);
    }
}
