//! Looks up the types of published events and validates them.

use std::sync::Arc;

use super::App;
use super::problem::{HandlerResult, Problem};
use crate::api::Code;
use crate::clock::Timestamp;
use crate::compute::{ComputeError, Source};
use crate::event::{EventType, OrganisationKey};
use crate::event_types::EventTypeInfo;
use crate::ingest::{Candidate, Draft};
use crate::store::{EventTypes, InvalidEvent, Validated, ValidationError};

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
    Ok(readable.into_iter().map(result).collect())
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
