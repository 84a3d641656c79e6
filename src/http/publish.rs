//! Reads what publishers send, field by field, so that a refusal can name the
//! field. The payload's bytes are kept as they came.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::App;
use super::problem::{Answer, FieldError, Problem};
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
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

/// An object's members as they stand there, repeated ones included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

impl<'a> Fields<'a> {
    fn of(item: &'a RawValue) -> Answer<Self> {
        let Members(members) = serde_json::from_str(item.get())
            .map_err(|_| Problem::invalid("body", "an event must be a JSON object"))?;
        let mut fields = BTreeMap::new();
        for (name, value) in members {
            if !FIELDS.contains(&name.as_str()) {
                let shown: String = name.chars().take(64).collect();
                let known = FIELDS.join(", ");
                let why = format!("is no field of an event; there are: {known}");
                return Err(Problem::invalid(shown, why));
            }
            // Which of the two counts is what readers of JSON differ in.
            if fields.insert(name.clone(), value).is_some() {
                return Err(Problem::invalid(name, "stands there twice; give it once"));
            }
        }
        Ok(Self(fields))
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
    let info = app.store.event_type(organisation, &draft.event_type).await?;
    Ok(app.rules.judge(draft, info.as_ref(), now).map_err(|objection| {
        let problem = Problem::from(objection).to_value();
        Unfit { identity, problem }
    }))
}

fn read(item: &RawValue, now: Timestamp) -> Answer<Draft> {
    let fields = Fields::of(item)?;
    Ok(Draft {
        event_type: fields.required("type")?,
        payload: fields.required("payload")?,
        gateway_ids: fields.get("gatewayIds")?,
        target: fields.get("target")?,
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
