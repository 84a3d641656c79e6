//! The built-in event types, which unmodified gateways understand. They are not stored in
//! the database. A registered type of the same name replaces the description and can add a
//! schema; payloads are validated with this table in any case, in one pass and without the
//! evaluator. The JSON Schemas that the API shows are generated from it.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::go_time::is_go_time;
use super::members::{Member, Members, is_object};
use super::{EventTypeInfo, FieldError};

/// The kind of a member of a payload, as gateways parse it.
#[derive(Clone, Copy)]
enum Kind {
    /// A non-empty string.
    Id,
    Text,
    /// A time that Go's RFC 3339 parser accepts.
    Time,
    /// A string that contains a JSON object.
    JsonText,
    /// An array or `null`, as which Go encodes an empty slice.
    List,
    /// A number or a string.
    Revision,
}

/// A member: its name, its kind, and whether it is required. Optional members may be
/// `null`.
type Field = (&'static str, Kind, bool);

use Kind::{Id, JsonText, List, Revision, Text, Time};

const SUBSCRIPTION: &[Field] = &[
    ("apiId", Id, true),
    ("subscriptionId", Id, true),
    ("subscriptionToken", Text, true),
    ("applicationId", Text, false),
    ("subscriptionPlanId", Text, false),
    ("status", Text, true),
];
const ENDED_SUBSCRIPTION: &[Field] = &[
    ("apiId", Id, true),
    ("subscriptionId", Id, true),
    ("subscriptionToken", Text, true),
    ("applicationId", Text, false),
];
const PLAN: &[Field] = &[("planId", Id, true), ("handle", Id, true), ("planName", Text, true)];
const HMAC_SECRET: &[Field] = &[("artifactUuid", Id, true), ("secretName", Id, true)];
const SECRET: &[Field] = &[
    ("handle", Id, true),
    ("name", Text, true),
    ("hash", Text, true),
    ("revision", Revision, true),
];
const ENDED_SECRET: &[Field] = &[("handle", Id, true), ("revision", Revision, true)];
const NEW_API_KEY: &[Field] = &[
    ("uuid", Id, true),
    ("apiId", Id, true),
    ("apiKeyHashes", JsonText, true),
    ("maskedApiKey", Text, true),
    ("name", Text, false),
    ("expiresAt", Time, false),
];
const API_KEY: &[Field] = &[
    ("apiId", Id, true),
    ("keyName", Id, true),
    ("apiKeyHashes", JsonText, false),
    ("maskedApiKey", Text, false),
    ("expiresAt", Time, false),
];
const APPLICATION: &[Field] = &[
    ("applicationId", Id, true),
    ("applicationUuid", Id, true),
    ("applicationName", Text, true),
    ("applicationType", Text, true),
    ("mappings", List, true),
];
const GATEWAY_CONFIG: &[Field] = &[("configType", Text, true), ("action", Text, true)];

const API: &[Field] = &[("apiId", Id, true), DEPLOYMENT, PERFORMED];
const PROVIDER: &[Field] = &[("providerId", Id, true), DEPLOYMENT, PERFORMED];
const PROXY: &[Field] = &[("proxyId", Id, true), DEPLOYMENT, PERFORMED];
const DEPLOYMENT: Field = ("deploymentId", Id, true);
const PERFORMED: Field = ("performedAt", Time, true);

/// The kinds of artifacts: the prefix of the event type, the description, and the members of
/// a deployment, of which the first is the artifact's id.
const ARTIFACTS: [(&str, &str, &[Field]); 6] = [
    ("api", "An API", API),
    ("websub", "A WebSub API", API),
    ("webbroker", "A web broker API", API),
    ("llmprovider", "An LLM provider", PROVIDER),
    ("llmproxy", "An LLM proxy", PROXY),
    ("mcpproxy", "An MCP proxy", PROXY),
];

const OTHERS: [(&str, &str, &[Field]); 16] = [
    ("websub.hmacsecret.created", "An HMAC secret of a WebSub API was created.", HMAC_SECRET),
    ("websub.hmacsecret.updated", "An HMAC secret of a WebSub API was changed.", HMAC_SECRET),
    ("websub.hmacsecret.deleted", "An HMAC secret of a WebSub API was deleted.", HMAC_SECRET),
    ("secret.updated", "A secret was created or changed; carries its hash only.", SECRET),
    ("secret.deleted", "A secret was deleted.", ENDED_SECRET),
    ("apikey.created", "An API key was created; carries hashes, never the key.", NEW_API_KEY),
    ("apikey.updated", "An API key was changed.", API_KEY),
    ("apikey.revoked", "An API key was revoked: requests with it must be refused.", API_KEY),
    ("subscription.created", "An application was subscribed to an API.", SUBSCRIPTION),
    ("subscription.updated", "A subscription was changed.", SUBSCRIPTION),
    ("subscription.deleted", "A subscription has ended.", ENDED_SUBSCRIPTION),
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

/// A built-in type and the members of its payloads.
pub(super) struct BuiltIn {
    info: EventTypeInfo,
    fields: &'static [Field],
}

static BUILT_INS: LazyLock<Vec<BuiltIn>> = LazyLock::new(|| {
    let deployments = ARTIFACTS.iter().flat_map(|&(artifact, what, fields)| {
        [("deployed", fields), ("undeployed", fields), ("deleted", &fields[..1])].map(
            |(verb, fields)| {
                built(&format!("{artifact}.{verb}"), &format!("{what} was {verb}."), fields)
            },
        )
    });
    let others = OTHERS.iter().map(|&(name, description, fields)| built(name, description, fields));
    let mut all: Vec<BuiltIn> = deployments.chain(others).collect();
    all.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    all
});

/// All built-in types, sorted by name.
pub fn built_ins() -> impl Iterator<Item = &'static EventTypeInfo> {
    BUILT_INS.iter().map(|built_in| &built_in.info)
}

/// The built-in type of a name.
pub fn built_in(name: &str) -> Option<&'static EventTypeInfo> {
    find(name).map(|built_in| &built_in.info)
}

/// The built-in type of a name, with the check of its payloads.
pub(super) fn find(name: &str) -> Option<&'static BuiltIn> {
    let at = BUILT_INS.binary_search_by(|built_in| built_in.info.name.as_str().cmp(name)).ok()?;
    BUILT_INS.get(at)
}

impl BuiltIn {
    /// The static name of a member that [`BuiltIn::check`] validates.
    pub(super) fn wants(&self, name: &str) -> Option<&'static str> {
        self.fields.iter().map(|(field, ..)| *field).find(|field| *field == name)
    }

    /// What a gateway could not parse.
    pub(super) fn check(&self, members: &Members<'_>) -> Vec<FieldError> {
        let wrong = |(name, kind, required): &Field| {
            let (field, message) = match members.get(name) {
                None if *required => {
                    ("payload".to_owned(), format!("\"{name}\" is a required property"))
                }
                None => return None,
                Some(Member::Null) if !required => return None,
                Some(member) => (format!("payload/{name}"), kind.violation(member)?.to_owned()),
            };
            Some(FieldError { field, message })
        };
        let mut errors: Vec<FieldError> = self.fields.iter().filter_map(wrong).collect();
        errors.sort_by(|a, b| a.field.cmp(&b.field));
        errors
    }
}

impl Kind {
    /// The error of a member of this kind; `None` if it is valid. Never contains its value.
    fn violation(self, member: &Member<'_>) -> Option<&'static str> {
        match (self, member) {
            (Id, Member::Text(text)) if text.is_empty() => Some("must not be empty"),
            (Time, Member::Text(text)) if !is_go_time(text) => Some(
                "must be a time that gateways can read: RFC 3339 with upper-case T and Z, or an offset with a colon, such as 2026-01-31T09:30:00.123Z",
            ),
            (JsonText, Member::Text(text)) if !is_object(text) => Some(
                "must be a string that contains a JSON object, such as \"{\\\"sha256\\\": \\\"…\\\"}\"",
            ),
            (Id | Text | Time | JsonText, Member::Text(_))
            | (List, Member::List | Member::Null)
            | (Revision, Member::Text(_) | Member::Number) => None,
            (Id | Text | Time, _) => Some("must be a string"),
            (JsonText, _) => Some("must be a string that contains a JSON object, not JSON itself"),
            (List, _) => Some("must be a list"),
            (Revision, _) => Some("must be a number or a string"),
        }
    }

    fn schema(self) -> Value {
        match self {
            Id => json!({"type": "string", "minLength": 1}),
            Text => json!({"type": "string"}),
            Time => json!({"type": "string", "format": "date-time"}),
            JsonText => json!({"type": "string", "contentMediaType": "application/json"}),
            List => json!({"type": ["array", "null"]}),
            Revision => json!({"type": ["integer", "string"]}),
        }
    }
}

fn built(name: &str, description: &str, fields: &'static [Field]) -> BuiltIn {
    let property = |&(name, kind, required): &Field| {
        let mut schema = kind.schema();
        if !required && schema["type"].is_string() {
            schema["type"] = json!([schema["type"], "null"]);
        }
        (name.to_owned(), schema)
    };
    let properties: Map<String, Value> = fields.iter().map(property).collect();
    let required: Vec<&str> =
        fields.iter().filter(|(.., required)| *required).map(|(name, ..)| *name).collect();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
    });
    let schema = serde_json::value::to_raw_value(&schema)
        .expect("a JSON value made of texts is always JSON again");
    let info = EventTypeInfo {
        name: name.to_owned(),
        description: description.to_owned(),
        schema: Some(schema),
        ttl_secs: None,
        barrier: false,
    };
    BuiltIn { info, fields }
}
