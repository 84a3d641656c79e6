//! `PATCH /inbox/rejected/{id}`: a rejected row is corrected, validated by the rules of
//! `POST /events`, and published.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;

use super::auth::{self, Admin};
use super::extract::{self, Path};
use super::openapi::{Body, Compute, Long, Missing, Problems, Scoped, Storing, Taken};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::publish::Publishing;
use super::query::Query;
use crate::api::{self, AcceptedDelivery, RejectedRowChange};
use crate::clock::Timestamp;
use crate::compute::Source;
use crate::ingest::inbox::read_row;
use crate::metric;
use crate::store::{
    Conflict, EditedRow, Inbox, InboxContent, NewEvent, RejectedContent, RejectedEdit, Rejection,
    StoreError,
};

/// The largest body: a payload as a JSON string may be twice as long as the payload.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Edit a rejected row, and publish it.
///
/// The body is a JSON merge patch (RFC 7396) of the row's columns. If the row is valid then, its
/// event is published in the same transaction, and the row is removed. Otherwise the row keeps the
/// new columns, with the new reason; an edit that changes nothing leaves its version as it is. A dry
/// run names the gateways that the event is for. `version` is that of the row that was read: of two concurrent
/// edits one is refused with 409.
#[utoipa::path(
    patch, path = "/inbox/rejected/{id}", tag = "inbox", operation_id = "editRejectedRow",
    params(("id" = i64, Path, description = "The rejected row.")),
    request_body(
        content(
            (RejectedRowChange = "application/merge-patch+json"),
            (RejectedRowChange = "application/json"),
        ),
    ),
    responses(
        (status = 200, description = "It is published, or still rejected.", body = api::EditedRow),
        Problems<(Scoped, Missing, Body, Taken, Long, Compute, Storing)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn edit(
    State(publishing): State<Arc<Publishing>>,
    Part(inbox): Part<dyn Inbox>,
    Admin(actor): Admin,
    Path(id): Path<i64>,
    _: Query<()>,
    headers: HeaderMap,
    extract::MergePatch(change): extract::MergePatch<RejectedRowChange>,
) -> HandlerResult<Json<api::EditedRow>> {
    let (source, now) = (auth::source(&headers), Timestamp::now());
    let organisation = actor.organisation;
    let limit = publishing.rules.event_bytes();
    let found = inbox.rejected_content(organisation, id, limit).await?;
    let found = found.ok_or_else(|| Problem::not_found("rejected row"))?;
    let RejectedContent { content, payload_bytes, inserted_at, version, retried_at } = found;
    if retried_at.is_some() {
        return Err(StoreError::from(Conflict::PutBack(id)).into());
    }
    if version != change.version {
        return Err(StoreError::from(Conflict::Edited { id, version }).into());
    }
    if change.payload.is_none() && payload_bytes > limit {
        let why = format!("has {payload_bytes} bytes, and {limit} are allowed; replace it");
        return Err(Problem::invalid("payload", why));
    }
    let is_other = |payload: &String| *payload != content.payload;
    let (has_payload, dry_run) = (change.payload.as_ref().is_some_and(is_other), change.dry_run);
    let content = apply(content, change)?;
    let result = validate(&publishing, &actor, &source, content.clone(), inserted_at, now).await?;
    let edit = RejectedEdit { id, version, content, has_payload, result };
    let edited = inbox.edit_rejected(&actor, edit, dry_run).await?;
    if !dry_run && matches!(edited, EditedRow::Published(_)) {
        metrics::counter!(metric::INBOX_APPENDED).increment(1);
    }
    Ok(Json(shown(edited, dry_run)))
}

/// The event that the columns describe, or why it is invalid.
pub(super) async fn validate(
    publishing: &Publishing,
    actor: &crate::store::Actor,
    source: &Source,
    content: InboxContent,
    inserted_at: Timestamp,
    now: Timestamp,
) -> HandlerResult<Result<NewEvent, Rejection>> {
    let bytes = content.payload.len();
    let read = move || read_row(content, inserted_at, now);
    let draft = match publishing.rules.compute(source, bytes, read).await? {
        Ok(draft) => draft,
        Err(rejection) => return Ok(Err(rejection)),
    };
    let organisation = actor.organisation;
    let validated = publishing.validate(organisation, source, bytes, vec![Ok(draft)], now).await?;
    let validated = validated.into_iter().next().ok_or_else(Problem::internal)?;
    Ok(validated.map_err(|invalid| invalid.error.into()))
}

/// Replaces the columns that the change names.
fn apply(mut content: InboxContent, change: RejectedRowChange) -> HandlerResult<InboxContent> {
    let RejectedRowChange {
        version: _,
        event_type,
        payload,
        gateway_id,
        target,
        event_id,
        correlation_id,
        user_id,
        expires_at,
        traceparent,
        collapse_key,
        dry_run: _,
    } = change;
    content.event_type = event_type.unwrap_or(content.event_type);
    content.payload = payload.unwrap_or(content.payload);
    if let Some(gateway_id) = gateway_id {
        content.gateway_id = gateway_id.map(|id| id.to_string());
    }
    if let Some(expires_at) = expires_at {
        content.expires_at = expires_at.map(|at| at.to_string());
    }
    content.target = target.unwrap_or(content.target);
    content.event_id = event_id.unwrap_or(content.event_id);
    content.correlation_id = correlation_id.unwrap_or(content.correlation_id);
    content.user_id = user_id.unwrap_or(content.user_id);
    content.traceparent = traceparent.unwrap_or(content.traceparent);
    content.collapse_key = collapse_key.unwrap_or(content.collapse_key);
    let texts = [
        ("type", Some(&content.event_type)),
        ("payload", Some(&content.payload)),
        ("target", content.target.as_ref()),
        ("eventId", content.event_id.as_ref()),
        ("correlationId", content.correlation_id.as_ref()),
        ("userId", content.user_id.as_ref()),
        ("traceparent", content.traceparent.as_ref()),
        ("collapseKey", content.collapse_key.as_ref()),
    ];
    // Postgres strings can't contain it.
    let bad = texts.iter().find(|(_, text)| text.is_some_and(|text| text.contains('\0')));
    if let Some((field, _)) = bad {
        return Err(Problem::invalid(*field, "must not contain U+0000"));
    }
    Ok(content)
}

fn shown(edited: EditedRow, dry_run: bool) -> api::EditedRow {
    match edited {
        EditedRow::WouldPublish(id, gateway_ids) => api::EditedRow {
            published: true,
            dry_run,
            event_id: Some(id),
            deliveries: Vec::new(),
            gateway_ids,
            reason: None,
            detail: None,
            row: None,
        },
        EditedRow::Published(appended) => api::EditedRow {
            published: true,
            dry_run,
            event_id: Some(appended.id),
            gateway_ids: appended.deliveries.iter().map(|it| it.gateway_id).collect(),
            deliveries: appended
                .deliveries
                .into_iter()
                .map(|it| AcceptedDelivery { gateway_id: it.gateway_id, sequence: it.sequence })
                .collect(),
            reason: None,
            detail: None,
            row: None,
        },
        EditedRow::Rejected(rejection, row) => api::EditedRow {
            published: false,
            dry_run,
            event_id: None,
            deliveries: Vec::new(),
            gateway_ids: Vec::new(),
            reason: Some(rejection.reason.into()),
            detail: Some(rejection.detail),
            row: Some((*row).into()),
        },
    }
}
