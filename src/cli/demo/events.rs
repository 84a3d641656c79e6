//! The dozen events.

use std::collections::BTreeMap;

use gateway_events::api::{NewEvent, Target};
use gateway_events::client::api::Api;
use gateway_events::clock::Timestamp;
use gateway_events::event::GatewayId;
use serde_json::value::RawValue;

use super::fleet::Fleet;

/// The gateways that an event is for.
#[derive(Clone, Copy)]
pub(super) enum For {
    All,
    Region(&'static str),
    One(&'static str),
}

/// For each event: its type, its target, and its payload as JSON, in which `TIME` is replaced by
/// the time.
type Script = [(&'static str, For, &'static str)];

/// The events before the crash.
pub(super) const BEFORE: &Script = &[
    (
        "api.deployed",
        For::All,
        r#"{"apiId":"3b1f6c52-orders","deploymentId":"d-1","revisionId":"r-1","vhost":"orders.example.org","environment":"production","performedAt":"TIME"}"#,
    ),
    (
        "subscriptionPlan.created",
        For::All,
        r#"{"planId":"gold","handle":"gold","planName":"Gold"}"#,
    ),
    (
        "subscription.created",
        For::Region("europe"),
        r#"{"apiId":"3b1f6c52-orders","subscriptionId":"s-1","subscriptionToken":"demo","subscriptionPlanId":"gold","status":"ACTIVE"}"#,
    ),
    (
        "apikey.created",
        For::All,
        r#"{"uuid":"k-1","apiId":"3b1f6c52-orders","name":"mobile","apiKeyHashes":"{}","maskedApiKey":"***f3"}"#,
    ),
    (
        "llmprovider.deployed",
        For::One("amsterdam"),
        r#"{"providerId":"p-1","deploymentId":"d-2","performedAt":"TIME"}"#,
    ),
    ("gateway.config.updated", For::One("cairo"), r#"{"configType":"logging","action":"updated"}"#),
];

/// The events after the crash.
pub(super) const AFTER: &Script = &[
    (
        "api.undeployed",
        For::All,
        r#"{"apiId":"3b1f6c52-orders","deploymentId":"d-1","performedAt":"TIME"}"#,
    ),
    (
        "api.deployed",
        For::All,
        r#"{"apiId":"3b1f6c52-orders","deploymentId":"d-3","revisionId":"r-2","vhost":"orders.example.org","environment":"production","performedAt":"TIME"}"#,
    ),
    ("apikey.revoked", For::All, r#"{"apiId":"3b1f6c52-orders","keyName":"mobile"}"#),
    (
        "subscription.updated",
        For::Region("europe"),
        r#"{"apiId":"3b1f6c52-orders","subscriptionId":"s-1","subscriptionToken":"demo","subscriptionPlanId":"gold","status":"BLOCKED"}"#,
    ),
    (
        "mcpproxy.deployed",
        For::One("berlin"),
        r#"{"proxyId":"m-1","deploymentId":"d-4","performedAt":"TIME"}"#,
    ),
    ("api.deleted", For::All, r#"{"apiId":"3b1f6c52-orders"}"#),
];

/// An event that the service has accepted.
pub(super) struct Publication {
    pub(super) event_id: String,
    pub(super) event_type: &'static str,
    /// When the request was sent.
    pub(super) at: Timestamp,
    /// The event's sequence in each gateway's log, by the gateway's id.
    pub(super) sequences: BTreeMap<GatewayId, i64>,
}

/// Publishes events, one after another.
pub(super) async fn publish(
    api: &Api,
    fleet: &Fleet,
    script: &Script,
) -> anyhow::Result<Vec<Publication>> {
    let mut published = Vec::new();
    for (event_type, whom, payload) in script {
        let at = Timestamp::now();
        let payload = RawValue::from_string(payload.replace("TIME", &at.to_string()))?;
        let mut event = NewEvent::new(event_type.parse()?, payload);
        match whom {
            For::All => event.target = Some(Target { all: Some(true), ..Target::default() }),
            For::Region(region) => {
                let label = ("region".to_owned(), (*region).to_owned());
                let labels = Some(BTreeMap::from([label]));
                event.target = Some(Target { labels, ..Target::default() });
            }
            For::One(name) => event.gateway_ids = Some(vec![fleet.member(name)?.id]),
        }
        let accepted = api.publish(&event).await?;
        let sequences = accepted
            .deliveries
            .iter()
            .map(|delivery| (delivery.gateway_id, delivery.sequence.0))
            .collect();
        published.push(Publication {
            event_id: accepted.id.to_string(),
            event_type,
            at,
            sequences,
        });
    }
    Ok(published)
}
