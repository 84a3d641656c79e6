//! What publishing needs: the rules for events, and their types.

use std::collections::HashMap;
use std::sync::Arc;

use super::problem::{HandlerResult, Problem};
use super::ttl_cache::TtlCache;
use crate::api::Code;
use crate::clock::Timestamp;
use crate::compute::{ComputeError, Source};
use crate::event::{EventType, OrganisationKey};
use crate::event_types::EventTypeInfo;
use crate::ingest::{Candidate, Draft, Rules};
use crate::names::closest;
use crate::store::{EventTypes, InvalidEvent, Validated, ValidationError};

/// How many different types of one request are compared with the registered ones, which takes time in
/// proportion to their number.
const MAX_SUGGESTIONS: usize = 5;

/// Validates events, from requests and from rejected rows of the inbox.
pub(super) struct Publishing {
    pub(super) rules: Arc<Rules>,
    pub(super) event_types: Arc<dyn EventTypes>,
    /// Types that were read within the last second.
    known: TtlCache<(OrganisationKey, EventType), Arc<EventTypeInfo>>,
}

impl Publishing {
    pub(super) fn new(rules: Arc<Rules>, event_types: Arc<dyn EventTypes>) -> Self {
        Self { rules, event_types, known: TtlCache::default() }
    }

    /// Frees the memory of types that were read before.
    pub(super) fn remove_expired(&self) {
        self.known.remove_expired();
    }

    /// Reads a type again when it is needed next: it has changed.
    pub(super) fn forget(&self, organisation: OrganisationKey, name: EventType) {
        self.known.remove(&(organisation, name));
    }

    /// Validates the events of a request, in order. An error concerns the whole request, which must be
    /// repeated.
    pub(super) async fn validate(
        &self,
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
                    let info = self.event_type(organisation, &draft.event_type).await?;
                    candidates.push(Candidate { draft, info });
                    Ok(())
                }
                Err(error) => Err(InvalidEvent { identity: None, error }),
            });
        }
        let validated = self.rules.validate_all(source, bytes, candidates, now).await?;
        let mut validated = validated.into_iter();
        let result = |readable: Result<(), InvalidEvent>| {
            readable?;
            validated.next().expect("each candidate has a result")
        };
        Ok(readable.into_iter().map(result).collect())
    }

    /// Adds the closest registered type to errors about types that are not registered. Not for rejected
    /// rows of the inbox, whose stored errors must not change with the registered types.
    pub(super) async fn suggest_types(
        &self,
        organisation: OrganisationKey,
        validated: &mut [Validated],
    ) {
        let is_unknown = |item: &Validated| {
            matches!(item, Err(InvalidEvent { error: ValidationError::UnknownType(_), .. }))
        };
        if !validated.iter().any(is_unknown) {
            return;
        }
        // The errors are complete without a suggestion, so one about the database is not theirs.
        let known = self.event_types.event_types(organisation).await.unwrap_or_default();
        let mut suggestions: HashMap<EventType, Option<String>> = HashMap::new();
        for item in validated {
            let Err(InvalidEvent { error, .. }) = item else { continue };
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
        &self,
        organisation: OrganisationKey,
        name: &EventType,
    ) -> HandlerResult<Option<Arc<EventTypeInfo>>> {
        let key = (organisation, name.clone());
        if let Some(known) = self.known.get(&key) {
            return Ok(Some(known));
        }
        let load = self.known.begin_load();
        let found = self.event_types.event_type(organisation, name).await?.map(Arc::new);
        if let Some(info) = &found {
            self.known.insert(load, key, Arc::clone(info));
        }
        Ok(found)
    }
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
