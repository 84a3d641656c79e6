//! The types that unmodified gateways understand. They exist without a row in
//! any database; a registered type of the same name takes their place.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::EventTypeInfo;

/// How a member of a payload is checked.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Time,
    List,
    /// Present, of whatever type: gateways have read it as more than one.
    Any,
}

/// A member: its name, its kind, and whether it must be there.
type Member = (&'static str, Kind, bool);

use Kind::{Any, List, Text, Time};

const SUBSCRIPTION: &[Member] = &[
    ("apiId", Text, true),
    ("subscriptionId", Text, true),
    ("subscriptionToken", Text, true),
    ("applicationId", Text, false),
    ("subscriptionPlanId", Text, false),
    ("status", Text, true),
];
const PLAN: &[Member] = &[("planId", Text, true), ("handle", Text, true), ("planName", Text, true)];
const SECRET: &[Member] = &[("artifactUuid", Text, true), ("secretName", Text, true)];
const API_KEY: &[Member] = &[("apiId", Text, true), ("keyName", Text, true)];
const NEW_API_KEY: &[Member] = &[
    ("uuid", Text, true),
    ("apiId", Text, true),
    ("apiKeyHashes", Any, true),
    ("maskedApiKey", Text, true),
    ("name", Text, false),
    ("expiresAt", Any, false),
];
const APPLICATION: &[Member] = &[
    ("applicationId", Text, true),
    ("applicationUuid", Text, true),
    ("applicationName", Text, true),
    ("applicationType", Text, true),
    ("mappings", List, true),
];
const GATEWAY_CONFIG: &[Member] = &[("configType", Text, true), ("action", Text, true)];

/// What is deployed to a gateway: the type's first word, the words for people,
/// and the member that identifies it.
const ARTIFACTS: [(&str, &str, &str); 6] = [
    ("api", "An API", "apiId"),
    ("websub", "A WebSub API", "apiId"),
    ("webbroker", "A web broker API", "apiId"),
    ("llmprovider", "An LLM provider", "providerId"),
    ("llmproxy", "An LLM proxy", "proxyId"),
    ("mcpproxy", "An MCP proxy", "proxyId"),
];

const OTHERS: [(&str, &str, &[Member]); 14] = [
    ("websub.hmacsecret.created", "An HMAC secret of a WebSub API was created.", SECRET),
    ("websub.hmacsecret.updated", "An HMAC secret of a WebSub API was changed.", SECRET),
    ("websub.hmacsecret.deleted", "An HMAC secret of a WebSub API was deleted.", SECRET),
    ("apikey.created", "An API key was created; carries hashes, never the key.", NEW_API_KEY),
    ("apikey.updated", "An API key was changed.", API_KEY),
    ("apikey.revoked", "An API key was revoked: requests with it must be refused.", API_KEY),
    ("subscription.created", "An application was subscribed to an API.", SUBSCRIPTION),
    ("subscription.updated", "A subscription was changed.", SUBSCRIPTION),
    ("subscription.deleted", "A subscription has ended.", SUBSCRIPTION),
    ("subscriptionPlan.created", "A subscription plan was created.", PLAN),
    ("subscriptionPlan.updated", "A subscription plan was changed.", PLAN),
    ("subscriptionPlan.deleted", "A subscription plan was deleted.", PLAN),
    ("application.updated", "An application or its API key mappings were changed.", APPLICATION),
    (
        "gateway.config.updated",
        "Configuration that all gateways share was changed.",
        GATEWAY_CONFIG,
    ),
];

static BUILT_INS: LazyLock<Vec<EventTypeInfo>> = LazyLock::new(|| {
    let mut infos: Vec<EventTypeInfo> = ARTIFACTS
        .iter()
        .flat_map(|&(artifact, what, id)| {
            let deployment =
                [(id, Text, true), ("deploymentId", Text, true), ("performedAt", Time, true)];
            [
                info(
                    &format!("{artifact}.deployed"),
                    &format!("{what} was deployed."),
                    &deployment,
                ),
                info(
                    &format!("{artifact}.undeployed"),
                    &format!("{what} was undeployed."),
                    &deployment,
                ),
                info(
                    &format!("{artifact}.deleted"),
                    &format!("{what} was deleted."),
                    &deployment[..1],
                ),
            ]
        })
        .chain(OTHERS.iter().map(|(name, description, members)| info(name, description, members)))
        .collect();
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    infos
});

/// Every built-in type, by name.
pub fn built_ins() -> &'static [EventTypeInfo] {
    &BUILT_INS
}

/// One built-in type.
pub fn built_in(name: &str) -> Option<&'static EventTypeInfo> {
    let at = BUILT_INS.binary_search_by(|info| info.name.as_str().cmp(name)).ok()?;
    BUILT_INS.get(at)
}

fn info(name: &str, description: &str, members: &[Member]) -> EventTypeInfo {
    let properties: Map<String, Value> = members
        .iter()
        .map(|&(name, kind, _)| {
            let check = match kind {
                Text => json!({"type": "string"}),
                Time => json!({"type": "string", "format": "date-time"}),
                List => json!({"type": "array"}),
                Any => json!({}),
            };
            (name.to_owned(), check)
        })
        .collect();
    let required: Vec<&str> =
        members.iter().filter(|(_, _, required)| *required).map(|(name, ..)| *name).collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
    });
    EventTypeInfo {
        name: name.to_owned(),
        description: description.to_owned(),
        schema: Some(
            serde_json::value::to_raw_value(&schema)
                .expect("a JSON value made of texts is always JSON again"),
        ),
    }
}
