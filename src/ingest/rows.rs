//! Reads a row of the inbox, column by column. An error names the field of the API; a
//! [rejection](crate::store::Rejection) names the column.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::body::malformed;
use super::{Draft, ValidationError};
use crate::api::{Object, Target};
use crate::clock::Timestamp;
use crate::json_error::WrongValue;
use crate::store::InboxContent;

/// The event that a row describes. It occurred when the row was inserted, or now if
/// that lies in the future.
pub(super) fn read(
    content: InboxContent,
    inserted_at: Timestamp,
    now: Timestamp,
) -> Result<Draft, ValidationError> {
    let gateway_ids =
        parsed("gatewayIds", content.gateway_id.as_deref(), |text| text.trim().parse())?;
    let target = content.target.map(|text| target(&text)).transpose()?;
    if gateway_ids.is_some() == target.is_some() {
        return Err(error("target", "give exactly one of gateway_id and target"));
    }
    Ok(Draft {
        event_type: content.event_type.parse().map_err(|why| error("type", why))?,
        payload: json::<Box<RawValue>>("payload", &content.payload)?,
        gateway_ids: gateway_ids.map(|id| vec![id]),
        target,
        id: parsed("id", content.event_id.as_deref(), str::parse)?,
        correlation_id: parsed("correlationId", content.correlation_id.as_deref(), str::parse)?,
        user_id: content.user_id,
        expires_at: parsed("expiresAt", content.expires_at.as_deref(), Timestamp::parse)?,
        ttl_secs: None,
        collapse_key: parsed("collapseKey", content.collapse_key.as_deref(), str::parse)?,
        occurred_at: inserted_at.min(now),
        traceparent: parsed("traceparent", content.traceparent.as_deref(), str::parse)?,
        attributes: None,
    })
}

fn parsed<T, E: std::fmt::Display>(
    field: &'static str,
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, ValidationError> {
    text.map(parse).transpose().map_err(|why| error(field, why))
}

fn target(text: &str) -> Result<Target, ValidationError> {
    json::<Object<Target>>("target", text).map(|Object(target)| target)
}

fn json<T: DeserializeOwned>(field: &'static str, text: &str) -> Result<T, ValidationError> {
    serde_json::from_str(text).map_err(|found| match WrongValue::find::<T>(text.as_bytes()) {
        Some(WrongValue { path, why }) if path.is_empty() => error(field, why),
        Some(WrongValue { path, why }) => error(field, format!("{}: {why}", path.join("/"))),
        None => match malformed(&found) {
            ValidationError::Malformed(why) => error(field, format!("is not JSON: {why}")),
            other => other,
        },
    })
}

fn error(field: &'static str, why: impl std::fmt::Display) -> ValidationError {
    ValidationError::invalid(field, why.to_string())
}
