//! From what publishers sent to what is appended: the event's type is looked
//! up, and the event judged.

use std::sync::Arc;

use axum::http::StatusCode;

use super::App;
use super::problem::{Answer, FieldError, Problem};
use crate::clock::Timestamp;
use crate::compute::{ComputeError, Source};
use crate::event::{EventType, OrganisationKey};
use crate::event_types::EventTypeInfo;
use crate::intake::{Candidate, Draft, Objection};
use crate::store::{Judged, Unfit};

/// Has what was read judged, in its order. An error is no judgement on an
/// event, but means that the whole request has to be repeated.
pub(super) async fn judge(
    app: &App,
    organisation: OrganisationKey,
    source: &Source,
    bytes: usize,
    drafts: Vec<Answer<Draft>>,
    now: Timestamp,
) -> Answer<Vec<Judged>> {
    let mut readable = Vec::with_capacity(drafts.len());
    let mut candidates = Vec::with_capacity(drafts.len());
    for draft in drafts {
        readable.push(match draft {
            Ok(draft) => {
                let info = event_type(app, organisation, &draft.event_type).await?;
                candidates.push(Candidate { draft, info });
                Ok(())
            }
            Err(problem) => Err(Unfit { identity: None, problem: problem.to_value() }),
        });
    }
    let mut judged = app.rules.judge_all(source, bytes, candidates, now).await?.into_iter();
    let verdict = |readable: Result<(), Unfit>| {
        readable?;
        let event = judged.next().expect("there is a judgement for each candidate");
        event.map_err(|refused| Unfit {
            identity: refused.identity,
            problem: Problem::from(refused.objection).to_value(),
        })
    };
    Ok(readable.into_iter().map(verdict).collect())
}

/// The type as it is registered, if it is.
async fn event_type(
    app: &App,
    organisation: OrganisationKey,
    name: &EventType,
) -> Answer<Option<Arc<EventTypeInfo>>> {
    let key = (organisation, name.clone());
    if let Some(known) = app.types.recall(&key) {
        return Ok(Some(known));
    }
    let asked = app.types.asking();
    let found = app.store.event_type(organisation, name).await?.map(Arc::new);
    if let Some(info) = &found {
        app.types.keep(asked, key, Arc::clone(info));
    }
    Ok(found)
}

impl From<Objection> for Problem {
    fn from(objection: Objection) -> Self {
        let code = objection.reason().as_str();
        match objection {
            Objection::Invalid(errors) => Self::invalid_fields(
                errors
                    .into_iter()
                    .map(|error| FieldError { field: error.field, message: error.message })
                    .collect(),
            ),
            Objection::Expired => Self::invalid("expiresAt", "lies in the past"),
            Objection::UnknownType(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, objection.to_string())
            }
            Objection::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, objection.to_string())
            }
        }
    }
}

impl From<ComputeError> for Problem {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Busy => Self::unavailable(
                "overloaded",
                "Too many large or complex requests of this token are waiting; try again later.",
            ),
            ComputeError::Panicked => Self::internal(),
        }
    }
}
