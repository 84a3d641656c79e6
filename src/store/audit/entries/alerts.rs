//! Alert rules and destinations. Their definitions are JSON objects without secrets, whose members
//! are recorded one by one.

use serde_json::{Map, Value};

use super::super::{AuditAction, AuditEntry, AuditObject, Fact, Facts};
use super::entry;
use crate::clock::Timestamp;

const RULE: &str = "alert_rule";
const DESTINATION: &str = "alert_destination";

/// A rule was created, or replaced what was in force: a stored definition or a built-in one.
pub fn alert_rule_put(id: &str, before: Option<&str>, after: &str) -> AuditEntry {
    let action = match before {
        None => AuditAction::AlertRuleCreated,
        Some(_) => AuditAction::AlertRuleChanged,
    };
    let (before, after) = Facts::without_equal(before.map(facts).unwrap_or_default(), facts(after));
    entry(action, AuditObject::new(RULE, id, id), before, after)
}

/// A rule was deleted.
pub fn alert_rule_deleted(id: &str, before: &str) -> AuditEntry {
    let object = AuditObject::new(RULE, id, id);
    entry(AuditAction::AlertRuleDeleted, object, facts(before), Facts::none())
}

/// A rule was silenced until an instant, or its silence was ended.
pub fn alert_rule_silenced(id: &str, until: Option<Timestamp>) -> AuditEntry {
    let after = Facts::none().with_some("silencedUntil", until);
    entry(AuditAction::AlertRuleSilenced, AuditObject::new(RULE, id, id), Facts::none(), after)
}

/// A destination was created or changed. Of its secrets, only whether they are new ones is recorded.
pub fn alert_destination_put(
    id: &str,
    before: Option<&str>,
    after: &str,
    has_new_secrets: bool,
) -> AuditEntry {
    let action = match before {
        None => AuditAction::AlertDestinationCreated,
        Some(_) => AuditAction::AlertDestinationChanged,
    };
    let (before, after) = Facts::without_equal(before.map(facts).unwrap_or_default(), facts(after));
    let after = after.with("secretsReplaced", has_new_secrets);
    entry(action, AuditObject::new(DESTINATION, id, id), before, after)
}

/// A destination was deleted.
pub fn alert_destination_deleted(id: &str, before: &str) -> AuditEntry {
    let object = AuditObject::new(DESTINATION, id, id);
    entry(AuditAction::AlertDestinationDeleted, object, facts(before), Facts::none())
}

/// A destination was tested.
pub fn alert_destination_tested(id: &str, outcome: &str) -> AuditEntry {
    let after = Facts::none().with("outcome", outcome);
    let object = AuditObject::new(DESTINATION, id, id);
    entry(AuditAction::AlertDestinationTested, object, Facts::none(), after)
}

/// The members of a JSON object.
fn facts(definition: &str) -> Facts {
    let members: Map<String, Value> = serde_json::from_str(definition).unwrap_or_default();
    members.into_iter().fold(Facts::none(), |facts, (name, value)| match value {
        Value::Null => facts,
        Value::Bool(flag) => facts.with(name, flag),
        Value::String(text) => facts.with(name, text.as_str()),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            let texts = list.iter().filter_map(Value::as_str).map(str::to_owned);
            facts.with(name, texts.collect::<Fact>())
        }
        Value::Number(number) => match number.as_i64() {
            Some(number) => facts.with(name, number),
            None => facts.with(name, number.to_string().as_str()),
        },
        other => facts.with(name, other.to_string().as_str()),
    })
}
