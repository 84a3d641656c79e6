//! Reads what publishers send, field by field, so that a refusal can name the
//! field. The payload's bytes are kept as they came.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::App;
use super::extract;
use super::problem::{Answer, FieldError, Problem};
use crate::clock::Timestamp;
use crate::event::{EventType, OrganisationKey};
use crate::event_types::EventTypeInfo;
use crate::intake::object::{Object, Once};
use crate::intake::{Draft, Objection, too_deep};
use crate::store::{Judged, Unfit};

const FIELDS: [&str; 9] = [
    "type",
    "payload",
    "gatewayIds",
    "target",
    "correlationId",
    "id",
    "userId",
    "expiresAt",
    "ttlSeconds",
];

struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    fn of(item: &'a RawValue) -> Answer<Self> {
        let Once(fields) =
            serde_json::from_str(item.get()).map_err(|error| extract::json_problem(&error))?;
        match fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            None => Ok(Self(fields)),
            Some(unknown) => {
                let shown: String = unknown.chars().take(64).collect();
                let known = FIELDS.join(", ");
                Err(Problem::invalid(shown, format!("is no field of an event; there are: {known}")))
            }
        }
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Answer<Option<T>> {
        let Some(raw) = self.0.get(name).filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        serde_json::from_str(raw.get()).map(Some).map_err(|error| {
            let text = error.to_string();
            let why = text.split(" at line ").next().unwrap_or(&text);
            Problem::invalid(name, too_deep(why).unwrap_or(why))
        })
    }

    fn required<T: DeserializeOwned>(&self, name: &str) -> Answer<T> {
        self.get(name)?.ok_or_else(|| Problem::invalid(name, "is required"))
    }
}

/// Reads one event, and has it judged. An error is no judgement on the event,
/// but means that the whole request has to be repeated.
pub(super) async fn judge(
    app: &App,
    organisation: OrganisationKey,
    item: &RawValue,
) -> Answer<Judged> {
    let now = Timestamp::now();
    let draft = match read(item, now) {
        Ok(draft) => draft,
        Err(problem) => return Ok(Err(Unfit { identity: None, problem: problem.to_value() })),
    };
    let identity = draft.id.clone().map(|id| (id, draft.digest()));
    let info = event_type(app, organisation, &draft.event_type).await?;
    Ok(app.rules.judge(draft, info.as_deref(), now).map_err(|objection| {
        let problem = Problem::from(objection).to_value();
        Unfit { identity, problem }
    }))
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

fn read(item: &RawValue, now: Timestamp) -> Answer<Draft> {
    let fields = Fields::of(item)?;
    Ok(Draft {
        event_type: fields.required("type")?,
        payload: fields.required("payload")?,
        gateway_ids: fields.get("gatewayIds")?,
        target: fields.get("target")?.map(|Object(target)| target),
        id: fields.get("id")?,
        correlation_id: fields.get("correlationId")?,
        user_id: fields.get("userId")?,
        expires_at: fields.get("expiresAt")?,
        ttl_secs: fields.get("ttlSeconds")?,
        occurred_at: now,
    })
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
