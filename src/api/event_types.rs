//! Event types.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

/// `PUT /event-types/{name}`: an event type and the schema of its payloads.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "description": "A feature flag was changed.",
    "schema": {"type": "object", "required": ["flag"]},
    "ttlSeconds": 86400,
}))]
pub struct EventTypeDefinition {
    /// What the event means to a gateway; at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub description: String,
    /// A self-contained JSON Schema (draft 2020-12) of at most 64 KiB. If omitted, any object is a
    /// valid payload or, for the name of a built-in type, any payload that satisfies the built-in
    /// schema. Payloads of a built-in type must satisfy the built-in schema in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Box<RawValue>>,
    /// After how many seconds an event of this type expires, counted from its publication, unless it
    /// has `expiresAt` or `ttlSeconds` itself. Events that were published before keep their expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000, nullable = false)]
    pub ttl_seconds: Option<u64>,
    /// `true`: events before and after one of this type never supersede one another, whatever their
    /// `collapseKey`, and its own is ignored. Concerns events that are published from now on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub barrier: bool,
}

/// How to delete an event type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventTypeDeletion {
    /// Delete it although events of the last 24 hours have this type.
    #[param(value_type = Option<bool>, default = false)]
    pub force: bool,
}

/// A registered event type.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "name": "flag.changed",
    "description": "A feature flag was changed.",
    "schema": {"type": "object", "required": ["flag"]},
    "ttlSeconds": 86400,
    "barrier": false,
}))]
pub struct EventTypeInfo {
    /// Its name.
    pub name: String,
    /// What the event means to a gateway.
    pub description: String,
    /// The JSON Schema (draft 2020-12) of payloads: the registered one or, without one, that of the
    /// built-in type of this name; `null` if there is none.
    #[schema(value_type = Option<Object>, required = true)]
    pub schema: Option<Box<RawValue>>,
    /// The schema of the built-in type of this name, which payloads must also satisfy. Omitted
    /// unless another one is registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub built_in_schema: Option<Box<RawValue>>,
    /// After how many seconds an event of this type expires by default. Omitted if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ttl_seconds: Option<u64>,
    /// Whether events before and after one of this type never supersede one another.
    #[serde(default)]
    pub barrier: bool,
}
