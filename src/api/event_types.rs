//! Event types.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// `PUT /event-types/{name}`: what an event type is for, and what its payloads must
/// satisfy.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventTypeDefinition {
    /// What it tells a gateway; at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub description: String,
    /// A JSON Schema (draft 2020-12) that stands alone, at most 64 KiB; any object is a
    /// payload if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Box<RawValue>>,
}

/// A registered event type.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventTypeInfo {
    /// Its name.
    #[schema(example = "api.deployed")]
    pub name: String,
    /// What it tells a gateway.
    pub description: String,
    /// The JSON Schema (draft 2020-12) that payloads must satisfy; `null` if there is none.
    #[schema(value_type = Option<Object>, required = true)]
    pub schema: Option<Box<RawValue>>,
}
