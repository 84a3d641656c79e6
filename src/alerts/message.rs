//! The content of a notification about an alert, and its wording for each kind of destination. A
//! message is stored as JSON when its alert changes, so a later attempt says the same.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rules::Rule;
use crate::api::{AlertFinding, AlertSeverity};
use crate::clock::Timestamp;
use crate::names::inert;
use crate::store::{AlertEvent, StoredAlert};

/// What a rule found, with what its alert needs when the rule is not there any more: the JSON of
/// `alerts.found`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoredFinding {
    /// What it found.
    #[serde(flatten)]
    pub finding: AlertFinding,
    /// How urgent it is.
    pub severity: AlertSeverity,
    /// Who looks after it.
    pub owner: String,
    /// What the rule says for people.
    pub description: String,
}

impl StoredFinding {
    /// What a rule found.
    pub(super) fn new(rule: &Rule, finding: AlertFinding) -> Self {
        Self {
            finding,
            severity: rule.definition.severity,
            owner: rule.definition.owner.clone(),
            description: rule.definition.description.clone(),
        }
    }

    /// Reads the JSON of `alerts.found`. What a newer version wrote is left out.
    pub fn read(found: &str) -> Self {
        serde_json::from_str(found).unwrap_or_default()
    }
}

/// A message: the members are those of the body that Standard Webhooks recommends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `alert.firing`, `alert.resolved` or `alert.test`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was written.
    pub timestamp: Timestamp,
    /// What it says.
    pub data: Data,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// The key of the thread, the same in all messages about an alert.
    pub key: String,
    /// The rule.
    pub rule: String,
    /// The group; empty without one.
    pub group: String,
    /// When the condition was first true.
    pub since: Timestamp,
    /// When it began to fire.
    pub fired_at: Option<Timestamp>,
    /// When it was resolved.
    pub resolved_at: Option<Timestamp>,
    /// What was found.
    #[serde(flatten)]
    pub stored_finding: StoredFinding,
}

/// The key of a thread.
pub fn key(rule: &str, group: &str) -> String {
    if group.is_empty() { rule.to_owned() } else { format!("{rule}/{group}") }
}

impl Message {
    /// A message about an alert.
    pub(super) fn new(
        alert: &StoredAlert,
        stored_finding: StoredFinding,
        event: AlertEvent,
        at: Timestamp,
    ) -> Self {
        Self {
            kind: format!("alert.{}", event.as_str()),
            timestamp: at,
            data: Data {
                key: key(&alert.rule, &alert.group),
                rule: alert.rule.clone(),
                group: alert.group.clone(),
                since: alert.since,
                fired_at: alert.fired_at,
                resolved_at: alert.resolved_at,
                stored_finding,
            },
        }
    }

    /// A message that tests a destination.
    pub fn test(destination: &str, by: &str, at: Timestamp) -> Self {
        let summary = format!("This tests the destination {destination}. Nothing is wrong.");
        Self {
            kind: "alert.test".to_owned(),
            timestamp: at,
            data: Data {
                key: format!("test/{destination}"),
                rule: "test".to_owned(),
                group: String::new(),
                since: at,
                fired_at: Some(at),
                resolved_at: Some(at),
                stored_finding: StoredFinding {
                    finding: AlertFinding { summary, count: 0, gateways: Vec::new() },
                    severity: AlertSeverity::Info,
                    owner: by.to_owned(),
                    description: String::new(),
                },
            },
        }
    }

    fn is_resolved(&self) -> bool {
        self.data.resolved_at.is_some()
    }

    /// One line: what happened, to which alert, and what was found. Names and texts that others wrote
    /// are inert in it: they can't change how the text around them is displayed.
    pub fn title(&self) -> String {
        let Data { key, stored_finding, .. } = &self.data;
        let what = match self.kind.as_str() {
            "alert.test" => "TEST".to_owned(),
            _ if self.is_resolved() => "RESOLVED".to_owned(),
            _ => stored_finding.severity.as_str().to_uppercase(),
        };
        inert(&format!("[{what}] {key}: {}", stored_finding.finding.summary))
    }

    /// Several lines of plain text, each of them inert.
    pub fn text(&self) -> String {
        let StoredFinding { finding, owner, description, .. } = &self.data.stored_finding;
        let mut lines = vec![self.title()];
        lines.extend((!description.is_empty()).then(|| description.clone()));
        lines.extend((!owner.is_empty()).then(|| format!("Owner: {owner}")));
        lines.push(format!("Since: {}", self.data.since));
        lines.extend(self.data.resolved_at.map(|at| format!("Resolved: {at}")));
        if !finding.gateways.is_empty() {
            let names: Vec<&str> = finding.gateways.iter().map(|it| it.name.as_str()).collect();
            lines.push(format!("Gateways: {}", names.join(", ")));
        }
        lines.iter().map(|line| inert(line)).collect::<Vec<_>>().join("\n")
    }

    /// The body for Slack's incoming webhooks. In its texts three characters have a meaning.
    pub fn slack(&self) -> Value {
        let text = self.text().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        json!({ "text": text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::AlertGateway;
    use crate::event::GatewayId;

    #[test]
    fn what_others_wrote_changes_nothing_about_the_text_around_it() {
        let mut message = Message::test("pager", "anna", Timestamp::from_micros(0));
        let hostile = "a\u{202e}b\u{200b}c\u{2066}d\u{7}\r\nSince: never";
        message.data.key = hostile.to_owned();
        let stored_finding = &mut message.data.stored_finding;
        stored_finding.description = hostile.to_owned();
        stored_finding.owner = hostile.to_owned();
        stored_finding.finding.summary = hostile.to_owned();
        stored_finding.finding.gateways =
            vec![AlertGateway { id: GatewayId::new(), name: hostile.to_owned() }];
        let slack = message.slack();
        let slack = slack["text"].as_str().unwrap();
        for text in [message.title().as_str(), message.text().as_str(), slack] {
            let is_odd = |c: char| c != '\n' && crate::names::is_invisible(c);
            assert!(!text.contains(is_odd), "{text:?}");
            assert!(text.contains("a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}"), "{text:?}");
        }
        let lines: Vec<&str> = slack.lines().filter(|line| line.starts_with("Since:")).collect();
        assert_eq!(lines, ["Since: 1970-01-01T00:00:00.000000Z"], "{slack}");
        assert!(!message.title().contains('\n'));
    }
}
