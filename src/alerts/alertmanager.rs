//! Alertmanager's API, version 2. Alertmanager resolves an alert by itself when it has not received
//! it for a while, unless the alert has an end; so a firing alert is sent with an end far in the
//! future, and a resolved one with the time of its end. Both have the same labels, which identify an
//! alert there.

use std::time::Duration;

use reqwest::Url;
use serde_json::{Value, json};

use super::message::{Data, Message};
use crate::clock::Timestamp;

/// How far in the future the end of a firing alert is.
const FIRES_FOR: Duration = Duration::from_hours(30 * 24);
/// An alert that still fires after this time is sent again, long before its end, so that there is time
/// to repeat failed attempts.
pub(super) const REFRESH: Duration = Duration::from_hours(10 * 24);

/// The URL of the API under the URL of an Alertmanager.
pub(super) fn url(mut base: Url) -> Url {
    let path = format!("{}/api/v2/alerts", base.path().trim_end_matches('/'));
    base.set_path(&path);
    base
}

/// The body of a request.
pub(super) fn body(message: &Message, now: Timestamp) -> Value {
    let Data { key, rule, group, since, fired_at, resolved_at, stored_finding } = &message.data;
    let mut labels = json!({
        "alertname": rule,
        "key": key,
        "severity": stored_finding.severity.as_str(),
        "service": "gateway-events",
    });
    // Empty labels are the same as none.
    for (name, value) in [("group", group), ("owner", &stored_finding.owner)] {
        if !value.is_empty() {
            labels[name] = json!(value);
        }
    }
    let names: Vec<&str> =
        stored_finding.finding.gateways.iter().map(|it| it.name.as_str()).collect();
    json!([{
        "labels": labels,
        "annotations": {
            "summary": stored_finding.finding.summary,
            "description": stored_finding.description,
            "gateways": names.join(", "),
        },
        "startsAt": fired_at.unwrap_or(*since),
        "endsAt": resolved_at.unwrap_or_else(|| now.plus(FIRES_FOR)),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_api_is_appended_to_the_base() {
        for (base, full) in [
            ("https://a.example", "https://a.example/api/v2/alerts"),
            ("https://a.example:9093/", "https://a.example:9093/api/v2/alerts"),
            ("https://a.example/am/?x=y", "https://a.example/am/api/v2/alerts?x=y"),
        ] {
            assert_eq!(url(base.parse().unwrap()).as_str(), full);
        }
    }

    #[test]
    fn resolved_and_firing_alerts_have_the_same_labels() {
        let now = Timestamp::from_micros(1_767_225_600_000_000);
        let mut message = Message::test("d", "ops", now);
        message.data.resolved_at = None;
        let firing = body(&message, now);
        let later = now.plus(Duration::from_mins(1));
        message.data.resolved_at = Some(later);
        let resolved = body(&message, later);
        assert_eq!(firing[0]["labels"], resolved[0]["labels"]);
        assert_eq!(firing[0]["startsAt"], resolved[0]["startsAt"]);
        assert_eq!(resolved[0]["endsAt"], json!(later));
        assert!(firing[0]["endsAt"].as_str() > resolved[0]["endsAt"].as_str());
    }
}
