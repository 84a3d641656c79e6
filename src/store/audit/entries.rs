//! The entries of each operation, which all stores record alike.

use super::super::{EventTypeInfo, Gateway, Range, RejectedRow, TokenInfo};
use super::{AuditAction, AuditEntry, AuditObject, Fact, Facts};
use crate::event::{GatewayId, Sequence};

/// A gateway was registered.
pub fn gateway_registered(gateway: &Gateway) -> AuditEntry {
    entry(AuditAction::GatewayRegistered, of_gateway(gateway), Facts::none(), facts(gateway))
}

/// An action, and the values of a gateway that it is about.
type Part = (AuditAction, fn(&Gateway) -> Facts);

/// A gateway was updated: an entry for its name and replicas, one for its labels, and one for
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
    if !is_described && !has_schema {
        return None;
    }
    let facts = |info: &EventTypeInfo| {
        let description = is_described.then_some(info.description.as_str());
        let schema = schema(info).filter(|_| has_schema);
        let facts = Facts::none().with_some("description", description);
        facts.with_some("schema", schema.as_deref())
    };
    let action = match old {
        None => AuditAction::EventTypeRegistered,
        Some(_) => AuditAction::EventTypeChanged,
    };
    let object = AuditObject::new("event_type", &new.name, &new.name);
    Some(entry(action, object, old.map(facts).unwrap_or_default(), facts(new)))
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

fn of_gateway(gateway: &Gateway) -> AuditObject {
    AuditObject::new("gateway", &gateway.id.to_string(), &gateway.name)
}

fn facts(gateway: &Gateway) -> Facts {
    let facts = labels(gateway);
    let facts = facts.with("name", gateway.name.as_str()).with("replicas", gateway.replicas);
    facts.with("disabled", gateway.disabled_at.is_some())
}

fn settings(gateway: &Gateway) -> Facts {
    Facts::none().with("name", gateway.name.as_str()).with("replicas", gateway.replicas)
}

fn labels(gateway: &Gateway) -> Facts {
    gateway.labels.iter().fold(Facts::none(), |facts, (name, value)| {
        facts.with(format!("labels.{name}"), value.as_str())
    })
}

fn disabled(gateway: &Gateway) -> Facts {
    Facts::none().with("disabled", gateway.disabled_at.is_some())
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
        };
        let changed = event_type_put(Some(&info("1")), &info("2")).unwrap();
        assert_eq!(changed.action, AuditAction::EventTypeChanged);
        assert!(changed.after.to_json().contains("schema"));
        assert_eq!(event_type_put(Some(&info("1")), &info("1")), None);
    }
}
