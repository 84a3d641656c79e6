//! Event types: the built-in catalogue, and validation of payloads against the JSON Schema
//! of their type. A schema must be self-contained: references to other documents are
//! refused, and nothing is fetched.
//!
//! Compiling a schema and validating a payload have budgets in units that do not depend on
//! the machine or its load, so that every node and every retry has the same result.
//! [`complexity`] limits schemas; [`metered`] stops the evaluator when a payload has used up
//! its budget. The alternatives are worse: an evaluation can't be interrupted from another
//! thread, a time limit would refuse valid events on a busy machine, a child process would
//! have to be managed on every platform, and an evaluator of our own would have to follow
//! the standard.
//!
//! Validation takes up to 50 ms, so [`Validator::check`] runs on the compute pool, except
//! for types for which [`Validator::is_quick`] is true: those take one pass over the
//! payload.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::{Retrieve, Uri};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

mod catalogue;
mod complexity;
mod go_time;
mod members;
mod metered;
mod patterns;
#[cfg(test)]
mod tests;

pub use catalogue::{built_in, built_ins};

use complexity::Prices;
use members::Members;
use metered::{Metered, Stopped};

use crate::metric;

/// The maximum size of a schema in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The budget of validating one payload. A unit takes 10 to 50 ns in a release build.
const UNITS: u64 = 1_000_000;

/// The maximum number of cached schemas, and of patterns in all of them. When either is
/// exceeded, the cache is cleared.
const MAX_CACHED: usize = 1024;
const MAX_CACHED_PATTERNS: usize = 256;

/// Errors reported per payload, and characters of each.
const MAX_FINDINGS: usize = 20;
const MAX_MESSAGE_CHARS: usize = 500;

/// Members that identify the artifact of an event.
const ARTIFACT_IDS: [&str; 5] = ["apiId", "providerId", "proxyId", "artifactUuid", "artifactId"];
const DEPLOYMENT_ID: &str = "deploymentId";

/// A registered event type.
#[derive(Clone, Debug)]
pub struct EventTypeInfo {
    /// Its name.
    pub name: String,
    /// What the event means to a gateway.
    pub description: String,
    /// JSON Schema (2020-12) that payloads must satisfy. A built-in type's payloads must
    /// satisfy the built-in schema as well, whatever this is.
    pub schema: Option<Box<RawValue>>,
    /// After how many seconds an event of this type expires, unless its publisher says when.
    pub ttl_secs: Option<u64>,
    /// Whether events before and after one of this type never supersede one another.
    pub barrier: bool,
}

impl EventTypeInfo {
    /// The schema that was registered, unless it is that of the built-in type of this name.
    fn own_schema(&self) -> Option<&RawValue> {
        let own = self.schema.as_deref()?;
        let built_in = built_in(&self.name).and_then(|info| info.schema.as_deref());
        (built_in.map(RawValue::get) != Some(own.get())).then_some(own)
    }

    /// All schemas that payloads must satisfy: first the registered one or, without one, the
    /// built-in one; then the built-in one that the registered one adds to.
    pub fn into_schemas(self) -> (Option<Box<RawValue>>, Option<Box<RawValue>>) {
        let is_own = self.own_schema().is_some();
        let built_in = built_in(&self.name).and_then(|info| info.schema.clone());
        if is_own { (self.schema, built_in) } else { (built_in, None) }
    }
}

/// Why a payload does not satisfy its type's schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// JSON pointer to the member, such as `payload/apiId`.
    pub field: String,
    /// What is wrong. Never contains the value, which may be a secret.
    pub message: String,
}

/// The ids by which gateways' reports refer to an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The artifact's id.
    pub artifact_id: Option<String>,
    /// The deployment's id.
    pub deployment_id: Option<String>,
}

impl Subject {
    fn of<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            artifact_id: ARTIFACT_IDS.iter().find_map(|name| text(name)).map(str::to_owned),
            deployment_id: text(DEPLOYMENT_ID).map(str::to_owned),
        }
    }
}

/// Validates payloads. Schemas are compiled on first use and cached by their text, so that
/// a changed type never uses a stale schema and organisations don't share theirs.
#[derive(Default)]
pub struct Validator {
    // Held for a lookup or an insert, never while compiling or validating.
    compiled: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// Includes schemas that can't be compiled, with the reason.
    schemas: HashMap<Box<str>, Result<Arc<Compiled>, String>>,
    patterns: usize,
}

struct Compiled {
    validator: jsonschema::Validator<Metered>,
    prices: Prices,
}

impl Validator {
    /// Whether validation takes one pass over the payload, without the evaluator.
    pub fn is_quick(info: &EventTypeInfo) -> bool {
        info.own_schema().is_none()
    }

    /// Validates a payload, which must be a JSON object, against its type: against the
    /// built-in type of that name, if there is one, and against the registered schema, if
    /// there is one. Otherwise it must only be JSON that gateways can parse.
    pub fn check(&self, info: &EventTypeInfo, payload: &str) -> Result<Subject, Vec<FieldError>> {
        let unreadable = |error: serde_json::Error| vec![unreadable(&error)];
        let built_in = catalogue::find(&info.name);
        let is_wanted = |name: &str| {
            let subject = ARTIFACT_IDS.iter().chain([&DEPLOYMENT_ID]).find(|id| **id == name);
            subject.copied().or_else(|| built_in?.wants(name))
        };
        let members = Members::read(payload, is_wanted).map_err(unreadable)?;
        let errors = built_in.map_or_else(Vec::new, |built_in| built_in.check(&members));
        if !errors.is_empty() {
            return Err(errors);
        }
        if let Some(schema) = info.own_schema() {
            let value: Value = serde_json::from_str(payload).map_err(unreadable)?;
            self.evaluate(&info.name, schema, &value)?;
        }
        Ok(Subject::of(|name| members.text(name)))
    }

    fn evaluate(
        &self,
        name: &str,
        schema: &RawValue,
        payload: &Value,
    ) -> Result<(), Vec<FieldError>> {
        let compiled = self.compiled(schema).map_err(|message| {
            let message = format!(
                "the schema registered for {name} can't be used: it {message}; then register it again with PUT /api/internal/v1/event-types/{name}"
            );
            vec![FieldError { field: "type".to_owned(), message }]
        })?;
        let found = metered::within(UNITS, compiled.prices, payload, |node| {
            if compiled.validator.is_valid(node) {
                return Vec::new();
            }
            let errors = compiled.validator.iter_errors(node).take(MAX_FINDINGS);
            errors.map(|error| finding(&error)).collect()
        });
        let errors = found.unwrap_or_else(|stopped| vec![not_evaluated(name, stopped)]);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn compiled(&self, schema: &RawValue) -> Result<Arc<Compiled>, String> {
        if let Some(found) = self.lock().schemas.get(schema.get()) {
            return found.clone();
        }
        let compiled = compile_safely(schema).map(Arc::new);
        let patterns = compiled.as_ref().map_or(0, |compiled| compiled.prices.patterns);
        let mut cache = self.lock();
        if cache.schemas.len() >= MAX_CACHED || cache.patterns + patterns > MAX_CACHED_PATTERNS {
            *cache = Cache::default();
        }
        cache.patterns += patterns;
        cache.schemas.insert(schema.get().into(), compiled.clone());
        compiled
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        // The cache is consistent after every step, so a panic elsewhere does not affect it.
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Validator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Validator").field("compiled", &self.lock().schemas.len()).finish()
    }
}

fn finding(error: &jsonschema::ValidationError<'_>) -> FieldError {
    let shorten = |text: String| match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    FieldError {
        field: shorten(format!("payload{}", error.instance_path())),
        message: shorten(error.masked().to_string()),
    }
}

fn not_evaluated(name: &str, stopped: Stopped) -> FieldError {
    metrics::counter!(metric::VALIDATIONS_STOPPED).increment(1);
    let message = match stopped {
        Stopped::OverBudget => format!(
            "takes too long to check against the schema of {name}; make the payload smaller or shallower, or the schema simpler"
        ),
        Stopped::Panicked => {
            format!(
                "could not be checked against the schema of {name}; the service's log says more"
            )
        }
    };
    FieldError { field: "payload".to_owned(), message }
}

fn unreadable(error: &serde_json::Error) -> FieldError {
    let text = error.to_string();
    let message = too_deep(&text).unwrap_or(&text).to_owned();
    FieldError { field: "payload".to_owned(), message }
}

/// States the maximum depth of JSON instead of the parser's own message.
pub fn too_deep(why: &str) -> Option<&'static str> {
    why.starts_with("recursion limit").then_some("is nested deeper than 127 levels; flatten it")
}

/// Whether a schema may be registered; the error is for the client. Takes up to a second,
/// so it runs on the compute pool.
pub fn check_schema(schema: &RawValue) -> Result<(), String> {
    compile_safely(schema).map(drop)
}

/// If the compiler panics, the schema is refused.
fn compile_safely(schema: &RawValue) -> Result<Compiled, String> {
    std::panic::catch_unwind(AssertUnwindSafe(|| compile(schema)))
        .unwrap_or_else(|_| Err("can't be compiled; the service's log says more".to_owned()))
}

fn compile(schema: &RawValue) -> Result<Compiled, String> {
    if schema.get().len() > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes; make it smaller"));
    }
    let value: Value =
        serde_json::from_str(schema.get()).map_err(|error| format!("is not JSON: {error}"))?;
    if !value.is_object() {
        return Err("must be a JSON object".to_owned());
    }
    let prices = complexity::measure(&value)?;
    let patterns = jsonschema::PatternOptions::regex()
        .size_limit(patterns::ENGINE_BYTES)
        .dfa_size_limit(patterns::ENGINE_CACHE_BYTES);
    let validator = jsonschema::options_for::<Metered>()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .with_format("regex", patterns::is_regex)
        .with_pattern_options(patterns)
        .with_retriever(Nothing)
        .build(&value)
        .map_err(|error| {
            format!("is not a usable JSON Schema at `{}`: {error}", error.instance_path())
        })?;
    Ok(Compiled { validator, prices })
}

/// Refuses every external reference that [`complexity::measure`] did not refuse.
struct Nothing;

impl Retrieve for Nothing {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{uri} lies outside the schema, and schemas are never fetched").into())
    }
}
