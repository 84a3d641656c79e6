//! Event types: the catalogue that is there out of the box, and the check of a
//! payload against its type's JSON Schema. This room knows no database and
//! fetches nothing: a schema stands alone, or it is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::{Retrieve, Uri};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

mod catalogue;
#[cfg(test)]
mod tests;

pub use catalogue::{built_in, built_ins};

/// Nesting beyond this would let a schema exhaust the stack of its checker.
const MAX_DEPTH: usize = 32;

/// A schema is compiled on the publisher's time; beyond this it is no schema any more.
const MAX_BYTES: usize = 64 * 1024;

/// Compiled schemas kept in memory; past it the cache starts afresh.
const MAX_CACHED: usize = 1024;

/// Findings reported per payload: a hostile one can't make its answer endless.
const MAX_FINDINGS: usize = 20;

/// A registered event type.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventTypeInfo {
    /// Its name.
    pub name: String,
    /// What it tells a gateway.
    pub description: String,
    /// JSON Schema (2020-12) that payloads must satisfy.
    pub schema: Option<Box<RawValue>>,
}

/// Why a payload does not satisfy its type's schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer below the payload, such as `payload/apiId`.
    pub field: String,
    /// What is wrong there. Never repeats the value, which may be a secret.
    pub message: String,
}

/// Checks payloads. A schema is compiled when it is first needed and found
/// again by its own text, so that a changed type can't meet a stale schema and
/// organisations can't see each other's.
#[derive(Default)]
pub struct Validator {
    // Held for a look-up or an insert only, never while compiling or checking.
    compiled: Mutex<HashMap<Box<str>, Arc<jsonschema::Validator>>>,
}

impl Validator {
    /// Checks a payload against the schema of its type; a type without one takes every payload.
    pub fn check(&self, info: &EventTypeInfo, payload: &Value) -> Result<(), Vec<FieldError>> {
        let Some(schema) = &info.schema else {
            return Ok(());
        };
        let compiled = self.compiled(schema).map_err(|message| {
            vec![FieldError {
                field: "type".to_owned(),
                message: format!(
                    "the schema registered for {} can't be used: {message}; register it again",
                    info.name
                ),
            }]
        })?;
        let errors: Vec<FieldError> = compiled
            .iter_errors(payload)
            .take(MAX_FINDINGS)
            .map(|error| FieldError {
                field: format!("payload{}", error.instance_path()),
                message: error.masked().to_string(),
            })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn compiled(&self, schema: &RawValue) -> Result<Arc<jsonschema::Validator>, String> {
        if let Some(found) = self.lock().get(schema.get()) {
            return Ok(Arc::clone(found));
        }
        let compiled = Arc::new(compile(schema)?);
        let mut cache = self.lock();
        if cache.len() >= MAX_CACHED {
            cache.clear();
        }
        cache.insert(schema.get().into(), Arc::clone(&compiled));
        Ok(compiled)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Arc<jsonschema::Validator>>> {
        // The map is whole after every step, so a panic elsewhere spoils nothing.
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Validator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validator").field("compiled", &self.lock().len()).finish()
    }
}

/// Whether a schema may be registered; the error is for whoever sent it.
pub fn check_schema(schema: &RawValue) -> Result<(), String> {
    compile(schema).map(drop)
}

fn compile(schema: &RawValue) -> Result<jsonschema::Validator, String> {
    if schema.get().len() > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes; make it smaller"));
    }
    let value: Value =
        serde_json::from_str(schema.get()).map_err(|error| format!("is not JSON: {error}"))?;
    if !value.is_object() {
        return Err("must be a JSON object".to_owned());
    }
    check_node(&value, 0)?;
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        // Linear-time patterns only: a registered pattern must not stall whoever publishes.
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .with_retriever(Nothing)
        .build(&value)
        .map_err(|error| {
            format!("is no usable JSON Schema at `{}`: {error}", error.instance_path())
        })
}

/// References stay inside the document, and nesting stays shallow.
fn check_node(value: &Value, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("is nested deeper than {MAX_DEPTH} levels; flatten it"));
    }
    match value {
        Value::Object(members) => members.iter().try_for_each(|(name, member)| {
            if matches!(name.as_str(), "$ref" | "$dynamicRef")
                && member.as_str().is_some_and(|target| !target.starts_with('#'))
            {
                return Err(format!(
                    "{name} may only point into the schema itself (`#/$defs/…`), not to {member}; copy the other schema into $defs"
                ));
            }
            check_node(member, depth + 1)
        }),
        Value::Array(items) => items.iter().try_for_each(|item| check_node(item, depth + 1)),
        _ => Ok(()),
    }
}

/// The retriever that retrieves nothing: whatever slips past [`check_node`] ends here.
struct Nothing;

impl Retrieve for Nothing {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{uri} lies outside the schema, and schemas are never fetched").into())
    }
}
