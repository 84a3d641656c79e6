//! Alerts, from the condition to the message: against real HTTP and SMTP servers of the test, on both
//! databases.

use std::time::Duration;

use gateway_events::token;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::both_databases::Backend;
use crate::support::Service;

mod crash;
mod destinations;
mod mail_server;
mod notifications;
pub(crate) mod receiver;
mod rules;

/// A directory with a key of secrets.
pub(crate) struct Key(TempDir);

impl Key {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let key = Self(directory);
        key.replace();
        key
    }

    /// Writes another key.
    pub(crate) fn replace(&self) {
        let random = token::issue(token::Kind::Access).expect("random").digest;
        std::fs::write(self.path(), data_encoding::BASE64.encode(&random)).expect("written");
    }

    pub(crate) fn path(&self) -> String {
        self.0.path().join("alerts.key").to_str().expect("UTF-8").to_owned()
    }
}

/// Settings under which rules are evaluated each second, and destinations may be on this host.
fn settings(key: &str) -> [(&str, &str); 4] {
    [
        ("ALERTS__INTERVAL", "1s"),
        ("ALERTS__KEY_FILE", key),
        ("ALERTS__ALLOWED_NETWORKS", "127.0.0.0/8,::1"),
        ("ALERTS__TIMEOUT", "5s"),
    ]
}

pub(crate) async fn start(backend: &Backend, key: &Key) -> Service {
    backend.start_with(&settings(&key.path())).await
}

/// Stores a destination of the kind `webhook`, or another one.
pub(crate) async fn destination(service: &Service, id: &str, kind: &str, url: &str) -> Value {
    let definition = json!({"kind": kind, "url": url});
    service.admin().put(&format!("/alerts/destinations/{id}"), &definition).await.success()
}

/// Stores a rule that fires as soon as gateways with a label have no connection, by region.
pub(crate) async fn watch(service: &Service, id: &str, destinations: &[&str]) {
    let rule = json!({"kind": "gateway_away", "windowSeconds": 1, "selector": {"watched": id},
        "groupBy": "region", "severity": "critical", "owner": "team-gateways",
        "destinations": destinations});
    service.admin().put(&format!("/alerts/rules/{id}"), &rule).await.success();
}

/// Registers a gateway that a rule watches, in a region. It has no connection.
pub(crate) async fn watched(service: &Service, name: &str, rule: &str, region: &str) -> String {
    let gateway = json!({"name": name, "labels": {"watched": rule, "region": region}});
    let gateway = service.admin().post("/gateways", &gateway).await.success();
    gateway["id"].as_str().expect("an id").to_owned()
}

/// Whether the rule of a gateway may find it: a disabled one is not away.
async fn set_away(service: &Service, gateway: &str, is_away: bool) {
    let path = format!("/gateways/{gateway}");
    service.admin().patch(&path, &json!({"disabled": !is_away})).await.success();
}

/// Waits until an alert has a state; returns it.
pub(crate) async fn alert_in_state(service: &Service, key: &str, state: &str) -> Value {
    let is_it = |alert: &Value| alert["key"] == key && alert["state"] == state;
    let overview = service
        .eventually("/alerts", |it| it["alerts"].as_array().expect("a list").iter().any(is_it))
        .await;
    overview["alerts"].as_array().expect("a list").iter().find(|it| is_it(it)).expect("it").clone()
}

/// The notifications of an alert to a destination, oldest first.
fn notifications(overview: &Value, key: &str) -> Vec<Value> {
    let all = overview["notifications"].as_array().expect("a list").iter().rev();
    all.filter(|it| it["key"] == key).cloned().collect()
}

/// Longer than a few evaluations take.
const A_WHILE: Duration = Duration::from_secs(4);
