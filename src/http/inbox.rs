//! Rejected rows of the inbox: listed with their reasons, put back once the cause is corrected, or
//! deleted. Nothing is inserted here; to publish over HTTP, use `POST /events`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::App;
use super::auth::{Admin, Reader};
use super::cursor;
use super::extract::{self, Path};
use super::openapi::{Body, Long, Missing, Problems, Scoped, Taken, Write};
use super::problem::{Answer, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{
    Page, PageQuery, RejectedFilter, RejectedRow, RejectedRowWithPayload, RejectionReason, Retried,
    RetryRequest,
};
use crate::clock::{EmptyWindow, TimeWindow};
use crate::store::{self, RetrySelection};

/// The number of characters returned of a payload.
const SHOWN_CHARS: usize = 64 * 1024;

impl FromQuery for RejectedFilter {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> Answer<Self> {
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
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Query((filter, page)): Query<(RejectedFilter, PageQuery)>,
) -> Answer<Json<Page<RejectedRow>>> {
    let before = page.position::<i64>(&filter)?;
    let limit = page.size();
    let of = filter.clone().try_into()?;
    let mut rows = app.store.rejected(organisation, &of, before, limit + 1).await?;
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
    State(app): State<Arc<App>>,
    Reader(organisation): Reader,
    Path(id): Path<i64>,
    _: Query<()>,
) -> Answer<Json<RejectedRowWithPayload>> {
    let found = app.store.rejected_row(organisation, id, SHOWN_CHARS).await?;
    let (row, payload) = found.ok_or_else(|| Problem::not_found("rejected row"))?;
    Ok(Json(RejectedRowWithPayload { row: row.into(), payload }))
}

/// Put a rejected row back into the inbox.
#[utoipa::path(
    post, path = "/inbox/rejected/{id}/retry", tag = "inbox", operation_id = "retryRejectedRow",
    params(("id" = i64, Path, description = "The rejected row.")),
    responses(
        (status = 202, description = "It is in the inbox again.", body = Retried),
        Problems<(Scoped, Missing, Taken, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn retry_one(
    State(app): State<Arc<App>>,
    Admin(actor): Admin,
    Path(id): Path<i64>,
    _: Query<()>,
) -> Answer<(StatusCode, Json<Retried>)> {
    let retried = app.store.retry_rejected(&actor, RetrySelection::One(id)).await?;
    Ok((StatusCode::ACCEPTED, Json(retried.into())))
}

/// Put rejected rows back into the inbox.
///
/// All that match, oldest first, at most 1,000 in a call. The request must select rows: by `all`,
/// or by `reason`, `from` and `to`.
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
        (status = 202, description = "They are in the inbox again.", body = Retried),
        Problems<(Scoped, Body, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn retry(
    State(app): State<Arc<App>>,
    Admin(actor): Admin,
    _: Query<()>,
    extract::Json(request): extract::Json<RetryRequest>,
) -> Answer<(StatusCode, Json<Retried>)> {
    let RetryRequest { all, reason, from, to } = request;
    let is_filtered = reason.is_some() || from.is_some() || to.is_some();
    if all == is_filtered {
        return Err(Problem::invalid(
            "all",
            "give either `all: true`, or at least one of `reason`, `from` and `to`",
        ));
    }
    let filter = RejectedFilter { reason, from, to, retried: false };
    let selection = RetrySelection::Filter(filter.try_into()?);
    let retried = app.store.retry_rejected(&actor, selection).await?;
    Ok((StatusCode::ACCEPTED, Json(retried.into())))
}

/// Delete a rejected row.
#[utoipa::path(
    delete, path = "/inbox/rejected/{id}", tag = "inbox", operation_id = "deleteRejectedRow",
    params(("id" = i64, Path, description = "The rejected row.")),
    responses(
        (status = 204, description = "It is deleted."),
        Problems<(Scoped, Missing, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Admin(actor): Admin,
    Path(id): Path<i64>,
    _: Query<()>,
) -> Answer<StatusCode> {
    app.store.delete_rejected(&actor, id).await?;
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
        Self { retried, more }
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
