//! The event types that every installation knows, and the check of payloads
//! against a type's JSON Schema. A type is data: registering one needs no code.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Name, description, required members. A member ending in `:T` is an RFC 3339 time.
type BuiltIn = (&'static str, &'static [&'static str], &'static str, &'static [&'static str]);

/// Families of types: prefix, last words, what they tell, required members.
const FAMILIES: &[BuiltIn] = &[
    ("api", &["deployed", "undeployed"], "A REST API's deployment", &["apiId", "deploymentId", "performedAt:T"]),
    ("websub", &["deployed", "undeployed"], "A WebSub API's deployment", &["apiId", "deploymentId", "performedAt:T"]),
    ("webbroker", &["deployed", "undeployed"], "A broker API's deployment", &["apiId", "deploymentId", "performedAt:T"]),
    ("api", &["deleted"], "A REST API's end", &["apiId"]),
    ("websub", &["deleted"], "A WebSub API's end", &["apiId"]),
    ("webbroker", &["deleted"], "A broker API's end", &["apiId"]),
    ("llmprovider", &["deployed", "undeployed"], "An LLM provider's deployment", &["providerId", "deploymentId", "performedAt:T"]),
    ("llmprovider", &["deleted"], "An LLM provider's end", &["providerId"]),
    ("llmproxy", &["deployed", "undeployed"], "An LLM proxy's deployment", &["proxyId", "deploymentId", "performedAt:T"]),
    ("mcpproxy", &["deployed", "undeployed"], "An MCP proxy's deployment", &["proxyId", "deploymentId", "performedAt:T"]),
    ("llmproxy", &["deleted"], "An LLM proxy's end", &["proxyId"]),
    ("mcpproxy", &["deleted"], "An MCP proxy's end", &["proxyId"]),
    ("websub.hmacsecret", &["created", "updated", "deleted"], "A WebSub HMAC secret", &["artifactUuid", "secretName"]),
    ("apikey", &["created"], "A new API key", &["uuid", "apiId", "apiKeyHashes", "maskedApiKey"]),
    ("apikey", &["updated", "revoked"], "A change of an API key", &["apiId", "keyName"]),
    ("subscription", &["created", "updated", "deleted"], "An application's subscription to an API", &["apiId", "subscriptionId", "subscriptionToken", "status"]),
    ("subscriptionPlan", &["created", "updated", "deleted"], "A subscription plan", &["planId", "handle", "planName"]),
    ("application", &["updated"], "An application and its mappings", &["applicationId", "applicationUuid", "applicationName", "applicationType", "mappings"]),
    ("gateway.config", &["updated"], "The gateway's own configuration", &["configType", "action"]),
];

/// Every built-in type: name, description, JSON Schema.
pub fn built_in() -> impl Iterator<Item = (String, String, Box<RawValue>)> {
    FAMILIES.iter().flat_map(|(prefix, words, about, members)| {
        words.iter().filter_map(move |word| {
            let schema = RawValue::from_string(schema(members).to_string()).ok()?;
            Some((format!("{prefix}.{word}"), format!("{about}: {word}"), schema))
        })
    })
}

/// Required members only; more may come along.
fn schema(members: &[&str]) -> Value {
    let mut properties = serde_json::Map::new();
    let mut required = Vec::new();
    for member in members {
        if let Some(name) = member.strip_suffix(":T") {
            properties.insert(name.to_owned(), json!({"type": "string", "format": "date-time"}));
            required.push(name);
        } else {
            // Ids and names are texts; the rest (hashes, mappings) is the gateway's affair.
            let texts = ["Id", "Uuid", "Name", "Type"];
            if texts.iter().any(|end| member.ends_with(end)) {
                properties.insert((*member).to_owned(), json!({"type": "string", "minLength": 1}));
            }
            required.push(member);
        }
    }
    json!({"type": "object", "properties": properties, "required": required})
}

/// One thing that is wrong with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where, as a path from the payload's root.
    pub field: String,
    /// What.
    pub message: String,
}

/// Compiled schemas, by their text.
#[derive(Debug, Default)]
pub struct Validator {
    /// Held only to look up or insert.
    compiled: Mutex<HashMap<String, Arc<jsonschema::Validator>>>,
}

/// Compiled schemas kept at the most; types are few, and a full cache starts anew.
const CACHED: usize = 1024;

/// Errors told about one payload at the most.
const ERRORS: usize = 20;

fn compile(schema: &str) -> Result<jsonschema::Validator, String> {
    let schema: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .map_err(|error| error.to_string())
}

/// Whether a text is a schema that can be used: JSON Schema, and complete in itself.
pub fn check_schema(schema: &RawValue) -> Result<(), String> {
    compile(schema.get()).map(drop)
}

impl Validator {
    /// Checks a payload; the errors name the members.
    pub fn check(&self, schema: &RawValue, payload: &Value) -> Result<(), Vec<FieldError>> {
        let validator = self.compiled(schema.get()).map_err(|message| {
            vec![FieldError { field: "type".to_owned(), message: format!("its registered schema can't be used: {message}") }]
        })?;
        let errors: Vec<_> = validator
            .iter_errors(payload)
            .take(ERRORS)
            .map(|error| FieldError {
                field: format!("payload{}", error.instance_path().to_string().replace('/', ".")),
                message: error.to_string().chars().take(300).collect(),
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn compiled(&self, schema: &str) -> Result<Arc<jsonschema::Validator>, String> {
        let lock = || self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(validator) = lock().get(schema) {
            return Ok(Arc::clone(validator));
        }
        let validator = Arc::new(compile(schema)?);
        let mut cache = lock();
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(schema.to_owned(), Arc::clone(&validator));
        Ok(validator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_type_has_a_name_and_a_schema_that_work() {
        let names: Vec<_> = built_in()
            .map(|(name, _, schema)| {
                crate::event::EventType::new(name.as_str()).expect("a good name");
                check_schema(&schema).expect("a good schema");
                name
            })
            .collect();
        assert_eq!(names.len(), 34, "{names:?}");
    }

    #[test]
    fn a_payload_error_names_the_member() {
        let (_, _, schema) = built_in().next().expect("there are types");
        let errors = Validator::default()
            .check(&schema, &json!({"apiId": "a", "deploymentId": "d", "performedAt": "yesterday"}))
            .expect_err("no time");
        assert_eq!(errors[0].field, "payload.performedAt");
    }
}
