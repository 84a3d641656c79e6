//! Rejected rows of the inbox: listed with their reasons, put back once the cause is corrected, or
//! deleted. Nothing is inserted here; to publish over HTTP, use `POST /events`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::auth::{self, Admin, Reader};
use super::cursor;
use super::extract::{self, Path};
use super::inbox_edit;
use super::openapi::{Bodiless, Body, Compute, Long, Missing, Problems, Scoped, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::publish::Publishing;
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{
    Page, PageQuery, RejectedFilter, RejectedRow, RejectedRowWithPayload, RejectionReason, Retried,
    RetriedRow, RetryRequest, RetryRowRequest,
};
use crate::clock::{EmptyWindow, TimeWindow, Timestamp};
use crate::compute::Source;
use crate::store::{
    self, Actor, Inbox, RejectedContent, Rejection, RetrySelection, Retryable, ValidationError,
};

/// The number of characters returned of a payload.
const SHOWN_CHARS: usize = 64 * 1024;
/// Rows that a dry run of a retry examines, at most. The others are only counted.
const TRIED_ROWS: usize = 100;

impl FromQuery for RejectedFilter {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self {
            reason: parameters.get("reason")?,
            from: parameters.instant("from")?,
            to: parameters.instant("to")?,
            retried: parameters
                .one_of("retried", &[("true", true), ("false", false)])?
                .unwrap_or_default(),
        })
    }
}

/// List rejected rows, newest first.
///
/// Rows that were put back into the inbox are omitted unless `retried` is `true`.
#[utoipa::path(
    get, path = "/inbox/rejected", tag = "inbox", operation_id = "listRejectedRows",
    params(RejectedFilter, PageQuery),
    responses(
        (status = 200, description = "A page of rows.", body = Page<RejectedRow>),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(inbox): Part<dyn Inbox>,
    Reader(organisation): Reader,
    Query((filter, page)): Query<(RejectedFilter, PageQuery)>,
) -> HandlerResult<Json<Page<RejectedRow>>> {
    let before = page.position::<i64>(&filter)?;
    let limit = page.size();
    let of = filter.clone().try_into()?;
    let mut rows = inbox.rejected(organisation, &of, before, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| cursor::encode(&row.id, &filter));
    Ok(Json(Page::new(rows.into_iter().map(Into::into).collect(), limit, next)))
}

/// Show a rejected row with its payload.
#[utoipa::path(
    get, path = "/inbox/rejected/{id}", tag = "inbox", operation_id = "showRejectedRow",
    params(("id" = i64, Path, description = "The rejected row.")),
    responses(
        (status = 200, description = "The row.", body = RejectedRowWithPayload),
        Problems<(Scoped, Missing)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    Part(inbox): Part<dyn Inbox>,
    Reader(organisation): Reader,
    Path(id): Path<i64>,
    _: Query<()>,
) -> HandlerResult<Json<RejectedRowWithPayload>> {
    let found = inbox.rejected_row(organisation, id, SHOWN_CHARS).await?;
    let (row, payload) = found.ok_or_else(|| Problem::not_found("rejected row"))?;
    Ok(Json(RejectedRowWithPayload { row: row.into(), payload }))
}

/// Put a rejected row back into the inbox.
///
/// A dry run says whether its event would be published, and for how many gateways, or why the row
/// would be rejected again.
#[utoipa::path(
    post, path = "/inbox/rejected/{id}/retry", tag = "inbox", operation_id = "retryRejectedRow",
    params(("id" = i64, Path, description = "The rejected row.")),
    request_body(
        content = Option<RetryRowRequest>,
        examples(("dry run" = (summary = "Only report", value = json!({"dryRun": true})))),
    ),
    responses(
        (status = 200, description = "What a retry would do.", body = Retried),
        (status = 202, description = "It is in the inbox again.", body = Retried),
        Problems<(Scoped, Missing, Body, Taken, Long, Compute, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn retry_one(
    State(publishing): State<Arc<Publishing>>,
    Part(inbox): Part<dyn Inbox>,
    Admin(actor): Admin,
    Path(id): Path<i64>,
    _: Query<()>,
    headers: HeaderMap,
    extract::OptionalJson(request): extract::OptionalJson<RetryRowRequest>,
) -> HandlerResult<(StatusCode, Json<Retried>)> {
    let selection = RetrySelection::One(id);
    if request.dry_run {
        return would_retry(&publishing, inbox.as_ref(), &actor, &headers, selection).await;
    }
    let retried = inbox.retry_rejected(&actor, selection).await?;
    Ok((StatusCode::ACCEPTED, Json(retried.into())))
}

/// Put rejected rows back into the inbox.
///
/// All that match, oldest first, at most 1,000 in a call. The request must select rows: by `all`,
/// or by `reason`, `from` and `to`. A dry run counts them, and says what would become of the first
/// 100.
#[utoipa::path(
    post, path = "/inbox/rejected/retry", tag = "inbox", operation_id = "retryRejectedRows",
    request_body(
        content = RetryRequest,
        examples(
            ("reason" = (summary = "All that were rejected for one reason", value = json!({
                "reason": "unknown_event_type",
            }))),
            ("all" = (summary = "All", value = json!({"all": true}))),
        ),
    ),
    responses(
        (status = 200, description = "What a retry would do.", body = Retried),
        (status = 202, description = "They are in the inbox again.", body = Retried),
        Problems<(Scoped, Body, Long, Compute, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn retry(
    State(publishing): State<Arc<Publishing>>,
    Part(inbox): Part<dyn Inbox>,
    Admin(actor): Admin,
    _: Query<()>,
    headers: HeaderMap,
    extract::Json(request): extract::Json<RetryRequest>,
) -> HandlerResult<(StatusCode, Json<Retried>)> {
    let RetryRequest { all, reason, from, to, dry_run } = request;
    let is_filtered = reason.is_some() || from.is_some() || to.is_some();
    if all == is_filtered {
        return Err(Problem::invalid(
            "all",
            "give either `all: true`, or at least one of `reason`, `from` and `to`",
        ));
    }
    let filter = RejectedFilter { reason, from, to, retried: false };
    let selection = RetrySelection::Filter(filter.try_into()?);
    if dry_run {
        return would_retry(&publishing, inbox.as_ref(), &actor, &headers, selection).await;
    }
    let retried = inbox.retry_rejected(&actor, selection).await?;
    Ok((StatusCode::ACCEPTED, Json(retried.into())))
}

/// What a retry would do.
async fn would_retry(
    publishing: &Publishing,
    inbox: &dyn Inbox,
    actor: &Actor,
    headers: &HeaderMap,
    selection: RetrySelection,
) -> HandlerResult<(StatusCode, Json<Retried>)> {
    let Retryable { ids, more } = inbox.retryable(actor.organisation, selection).await?;
    let source = auth::source(headers);
    let mut rows = Vec::with_capacity(ids.len().min(TRIED_ROWS));
    // One at a time, because payloads are large.
    for id in ids.iter().copied().take(TRIED_ROWS) {
        // Another request may have put it back or deleted it meanwhile.
        rows.extend(would_become(publishing, inbox, actor, &source, id).await?);
    }
    let retried = u64::try_from(ids.len()).unwrap_or(u64::MAX);
    Ok((StatusCode::OK, Json(Retried { retried, more, dry_run: true, rows })))
}

/// What would become of a row; `None` if it does not exist any more.
async fn would_become(
    publishing: &Publishing,
    inbox: &dyn Inbox,
    actor: &Actor,
    source: &Source,
    id: i64,
) -> HandlerResult<Option<RetriedRow>> {
    let (organisation, now) = (actor.organisation, Timestamp::now());
    let limit = publishing.rules.event_bytes();
    let Some(found) = inbox.rejected_content(organisation, id, limit).await? else {
        return Ok(None);
    };
    let RejectedContent { content, payload_bytes, inserted_at, .. } = found;
    let result = if payload_bytes > limit {
        let bytes = u64::try_from(payload_bytes).unwrap_or(u64::MAX);
        Err(Rejection::from(ValidationError::TooLarge { bytes, limit }))
    } else {
        match inbox_edit::validate(publishing, actor, source, content, inserted_at, now).await? {
            Ok(event) => inbox.would_publish(organisation, event).await?,
            Err(rejection) => Err(rejection),
        }
    };
    Ok(Some(match result {
        Ok(gateway_count) => {
            RetriedRow { id, published: true, gateway_count, reason: None, detail: None }
        }
        Err(Rejection { reason, detail }) => RetriedRow {
            id,
            published: false,
            gateway_count: 0,
            reason: Some(reason.into()),
            detail: Some(detail),
        },
    }))
}

/// Delete a rejected row.
#[utoipa::path(
    delete, path = "/inbox/rejected/{id}", tag = "inbox", operation_id = "deleteRejectedRow",
    params(("id" = i64, Path, description = "The rejected row.")),
    responses(
        (status = 204, description = "It is deleted."),
        Problems<(Scoped, Missing, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn remove(
    Part(inbox): Part<dyn Inbox>,
    Admin(actor): Admin,
    Path(id): Path<i64>,
    _: Query<()>,
) -> HandlerResult<StatusCode> {
    inbox.delete_rejected(&actor, id).await?;
    tracing::info!(rejected_id = id, "an admin deleted a rejected row");
    Ok(StatusCode::NO_CONTENT)
}

impl TryFrom<RejectedFilter> for store::RejectedFilter {
    type Error = EmptyWindow;

    fn try_from(filter: RejectedFilter) -> Result<Self, EmptyWindow> {
        let RejectedFilter { reason, from, to, retried } = filter;
        let window = TimeWindow::between(from, to)?;
        Ok(Self { reason: reason.map(Into::into), window, retried })
    }
}

impl From<store::Retried> for Retried {
    fn from(done: store::Retried) -> Self {
        let store::Retried { retried, more } = done;
        Self { retried, more, ..Self::default() }
    }
}

impl From<store::RejectedRow> for RejectedRow {
    fn from(row: store::RejectedRow) -> Self {
        Self {
            id: row.id,
            inbox_id: row.inbox_id,
            version: row.version,
            reason: row.reason.into(),
            detail: row.detail,
            rejected_at: row.rejected_at,
            retried_at: row.retried_at,
            inserted_at: row.inserted_at,
            event_type: row.event_type,
            gateway_id: row.gateway_id,
            target: row.target,
            event_id: row.event_id,
            correlation_id: row.correlation_id,
            user_id: row.user_id,
            expires_at: row.expires_at,
            traceparent: row.traceparent,
            collapse_key: row.collapse_key,
            payload_bytes: row.payload_bytes,
        }
    }
}

impl From<store::RejectionReason> for RejectionReason {
    fn from(reason: store::RejectionReason) -> Self {
        match reason {
            store::RejectionReason::Invalid => Self::Invalid,
            store::RejectionReason::Expired => Self::Expired,
            store::RejectionReason::UnknownEventType => Self::UnknownEventType,
            store::RejectionReason::EventTooLarge => Self::EventTooLarge,
            store::RejectionReason::UnknownGateways => Self::UnknownGateways,
            store::RejectionReason::EventIdTaken => Self::EventIdTaken,
            store::RejectionReason::UnknownOrganisation => Self::UnknownOrganisation,
            store::RejectionReason::Internal => Self::Internal,
            store::RejectionReason::Unknown(name) => Self::Unknown(name),
        }
    }
}

impl From<RejectionReason> for store::RejectionReason {
    fn from(reason: RejectionReason) -> Self {
        match reason {
            RejectionReason::Invalid => Self::Invalid,
            RejectionReason::Expired => Self::Expired,
            RejectionReason::UnknownEventType => Self::UnknownEventType,
            RejectionReason::EventTooLarge => Self::EventTooLarge,
            RejectionReason::UnknownGateways => Self::UnknownGateways,
            RejectionReason::EventIdTaken => Self::EventIdTaken,
            RejectionReason::UnknownOrganisation => Self::UnknownOrganisation,
            RejectionReason::Internal => Self::Internal,
            RejectionReason::Unknown(name) => Self::Unknown(name),
        }
    }
}
