//! Looks up the types of published events and validates them.

use std::collections::HashMap;
use std::sync::Arc;

use super::App;
use super::problem::{HandlerResult, Problem};
use crate::api::Code;
use crate::clock::Timestamp;
use crate::compute::{ComputeError, Source};
use crate::event::{EventType, OrganisationKey};
use crate::event_types::EventTypeInfo;
use crate::ingest::{Candidate, Draft};
use crate::names::closest;
use crate::store::{EventTypes, InvalidEvent, Validated, ValidationError};

/// How many different types of one request are compared with the registered ones, which takes time in
/// proportion to their number.
const MAX_SUGGESTIONS: usize = 5;

/// Validates the events of a request, in order. An error concerns the whole request, which must be
/// repeated.
pub(super) async fn validate(
    app: &App,
    organisation: OrganisationKey,
    source: &Source,
    bytes: usize,
    drafts: Vec<Result<Draft, ValidationError>>,
    now: Timestamp,
) -> HandlerResult<Vec<Validated>> {
    let mut readable = Vec::with_capacity(drafts.len());
    let mut candidates = Vec::with_capacity(drafts.len());
    for draft in drafts {
        readable.push(match draft {
            Ok(draft) => {
                let info = event_type(app, organisation, &draft.event_type).await?;
                candidates.push(Candidate { draft, info });
                Ok(())
            }
            Err(error) => Err(InvalidEvent { identity: None, error }),
        });
    }
    let validated = app.rules.validate_all(source, bytes, candidates, now).await?;
    let mut validated = validated.into_iter();
    let result = |readable: Result<(), InvalidEvent>| {
        readable?;
        validated.next().expect("each candidate has a result")
    };
    let mut validated: Vec<Validated> = readable.into_iter().map(result).collect();
    suggest_types(app, organisation, &mut validated).await;
    Ok(validated)
}

/// Adds the closest registered type to errors about types that are not registered.
async fn suggest_types(app: &App, organisation: OrganisationKey, validated: &mut [Validated]) {
    let unknown = validated.iter_mut().filter_map(|item| match item {
        Err(InvalidEvent { error: error @ ValidationError::UnknownType(_), .. }) => Some(error),
        _ => None,
    });
    let mut unknown = unknown.peekable();
    if unknown.peek().is_none() {
        return;
    }
    // The errors are complete without a suggestion, so one about the database is not theirs.
    let known = app.part::<dyn EventTypes>().event_types(organisation).await.unwrap_or_default();
    let mut suggestions: HashMap<EventType, Option<String>> = HashMap::new();
    for error in unknown {
        let ValidationError::UnknownType(name) = error else { continue };
        if suggestions.len() == MAX_SUGGESTIONS && !suggestions.contains_key(name) {
            continue;
        }
        let suggestion = suggestions.entry(name.clone()).or_insert_with(|| {
            let known = known.iter().map(|info| info.name.as_str());
            closest(name.as_str(), known).map(str::to_owned)
        });
        if let Some(similar) = suggestion {
            let (name, similar) = (name.clone(), similar.clone());
            *error = ValidationError::MisspeltType { name, similar };
        }
    }
}

/// A registered type.
async fn event_type(
    app: &App,
    organisation: OrganisationKey,
    name: &EventType,
) -> HandlerResult<Option<Arc<EventTypeInfo>>> {
    let key = (organisation, name.clone());
    if let Some(known) = app.types.get(&key) {
        return Ok(Some(known));
    }
    let load = app.types.begin_load();
    let found = app.part::<dyn EventTypes>().event_type(organisation, name).await?.map(Arc::new);
    if let Some(info) = &found {
        app.types.insert(load, key, Arc::clone(info));
    }
    Ok(found)
}

impl From<ComputeError> for Problem {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Busy => Self::unavailable(
                Code::Overloaded,
                "Too many large or complex requests of this token are waiting; try again later.",
            ),
            ComputeError::Panicked => Self::internal(),
        }
    }
}
