//! Deliveries in a time window, and redrives.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::auth::{Admin, Reader};
use super::cursor;
use super::idempotency::Keyed;
use super::openapi::{Body, Idempotent, Long, Missing, Problems, Purging, Scoped, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{
    self, DeliveriesQuery, DeliveriesStatus, DeliveriesWindow, Delivery, DeliveryFilter,
    FailuresByBucket, Object, Page, PageQuery, RedriveRequest, Redriven, Summary, SummaryBy,
    SummaryQuery, Window,
};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{GatewayKey, JobId, OrganisationKey, Sequence, quoted};
use crate::store::{
    self, Actor, Bulk, DeliveryCursor, DeliveryKey, EarlierResult, Ledger, RedriveCursor,
    RedriveSelection,
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MAX_BUCKET_SECS: u64 = 366 * 24 * 3600;
/// Maximum number of buckets per response; a chart cannot show more.
const MAX_BUCKETS: u128 = 2000;

impl FromQuery for DeliveryFilter {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self {
            from: parameters.instant("from")?,
            to: parameters.instant("to")?,
            gateway_id: parameters.gateway_id("gatewayId")?,
            event_type: parameters.get("type")?,
            reason: parameters.get("reason")?,
            event_id: parameters.get("eventId")?,
            correlation_id: parameters.get("correlationId")?,
        })
    }
}

impl FromQuery for DeliveriesQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let words = [
            ("failed", DeliveriesStatus::Failed),
            ("pending", DeliveriesStatus::Pending),
            ("delivered", DeliveriesStatus::Delivered),
            ("filtered", DeliveriesStatus::Filtered),
            ("superseded", DeliveriesStatus::Superseded),
            ("all", DeliveriesStatus::All),
        ];
        let windows =
            [("appended", DeliveriesWindow::Appended), ("outcome", DeliveriesWindow::Outcome)];
        Ok(Self {
            status: parameters.one_of("status", &words)?,
            window_of: parameters.one_of("windowOf", &windows)?,
        })
    }
}

impl FromQuery for SummaryQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let words = [
            ("reason", SummaryBy::Reason),
            ("gateway", SummaryBy::Gateway),
            ("type", SummaryBy::Type),
        ];
        let bucket = parameters.text("bucket").map(str::to_owned);
        Ok(Self { bucket, by: parameters.one_of("by", &words)? })
    }
}

/// Where a page begins, and the window of the first page: "until now" means the same
/// instant on every page.
#[derive(Serialize, Deserialize)]
struct PagePosition {
    at: FailurePosition,
    window: TimeWindow,
}

/// List deliveries by their state.
///
/// A failed delivery is listed once, at its newest failure in the window, newest failure
/// first. Others are listed by gateway and newest first or, with `windowOf=outcome`, once, at their
/// newest attempt in the window, newest first.
#[utoipa::path(
    get, path = "/deliveries", tag = "deliveries", operation_id = "listDeliveries",
    params(DeliveriesQuery, DeliveryFilter, PageQuery),
    responses(
        (status = 200, description = "A page of deliveries.", body = Page<Delivery>),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(ledger): Part<dyn Ledger>,
    Reader(organisation): Reader,
    Query((which, asked, page)): Query<(DeliveriesQuery, DeliveryFilter, PageQuery)>,
) -> HandlerResult<Json<Page<Delivery>>> {
    let status = which.status.unwrap_or_default();
    let by_outcome = which.window_of == Some(DeliveriesWindow::Outcome);
    let state = match status {
        DeliveriesStatus::Failed | DeliveriesStatus::Pending if by_outcome => {
            return Err(Problem::invalid(
                "windowOf",
                "`outcome` needs a `status` of `all`, `delivered`, `filtered` or `superseded`",
            ));
        }
        DeliveriesStatus::Failed => {
            return failed(ledger.as_ref(), organisation, asked, &page).await;
        }
        DeliveriesStatus::Pending => Some(store::DeliveryState::Pending),
        DeliveriesStatus::Delivered => Some(store::DeliveryState::Delivered),
        DeliveriesStatus::Filtered => Some(store::DeliveryState::Filtered),
        DeliveriesStatus::Superseded => Some(store::DeliveryState::Superseded),
        DeliveriesStatus::All => None,
    };
    if asked.reason.is_some() {
        return Err(Problem::invalid("reason", "applies to failed deliveries only"));
    }
    if by_outcome {
        return of_outcomes(ledger.as_ref(), organisation, (status, state), asked, &page).await;
    }
    in_state(ledger.as_ref(), organisation, (status, state), asked, &page).await
}

async fn of_outcomes(
    ledger: &dyn Ledger,
    organisation: OrganisationKey,
    (status, state): (DeliveriesStatus, Option<store::DeliveryState>),
    asked: DeliveryFilter,
    page: &PageQuery,
) -> HandlerResult<Json<Page<Delivery>>> {
    let named =
        [("eventId", asked.event_id.is_some()), ("correlationId", asked.correlation_id.is_some())];
    if let Some((field, _)) = named.iter().find(|(_, is_there)| *is_there) {
        return Err(Problem::invalid(
            *field,
            "can't be combined with `windowOf=outcome`; an event has few deliveries, which GET /events/{id} shows",
        ));
    }
    let filters = ("outcome", status, &asked);
    let position = page.position::<PagePosition>(&filters)?;
    let window = match &position {
        Some(position) => position.window,
        None => open_window(asked.from, asked.to)?,
    };
    let filter = in_window(asked.clone(), window);
    let after = position.map(|position| position.at.into());
    let limit = page.size();
    let found = ledger.deliveries_by_outcome(organisation, &filter, state, after, limit).await?;
    let next =
        found.next.map(|at| cursor::encode(&PagePosition { at: at.into(), window }, &filters));
    let list = found.rows.into_iter().map(Into::into).collect();
    Ok(Json(Page::new(list, limit, next)))
}

async fn failed(
    ledger: &dyn Ledger,
    organisation: OrganisationKey,
    asked: DeliveryFilter,
    page: &PageQuery,
) -> HandlerResult<Json<Page<Delivery>>> {
    let position = page.position::<PagePosition>(&asked)?;
    let window = match &position {
        Some(position) => position.window,
        None => open_window(asked.from, asked.to)?,
    };
    let filter = in_window(asked.clone(), window);
    let limit = page.size();
    let after = position.map(|position| position.at.into());
    let found = ledger.failed_deliveries(organisation, &filter, after, limit).await?;
    let next = found.next.map(|at| cursor::encode(&PagePosition { at: at.into(), window }, &asked));
    let list = found.rows.into_iter().map(Into::into).collect();
    Ok(Json(Page::new(list, limit, next)))
}

/// Where a page of deliveries in a state begins, and the window of the first page.
#[derive(Serialize, Deserialize)]
struct StatePosition {
    gateway: i64,
    sequence: Sequence,
    window: TimeWindow,
}

async fn in_state(
    ledger: &dyn Ledger,
    organisation: OrganisationKey,
    (status, state): (DeliveriesStatus, Option<store::DeliveryState>),
    asked: DeliveryFilter,
    page: &PageQuery,
) -> HandlerResult<Json<Page<Delivery>>> {
    let filters = (status, &asked);
    let position = page.position::<StatePosition>(&filters)?;
    let window = match &position {
        Some(position) => position.window,
        // What is pending matters however old it is.
        None if status == DeliveriesStatus::Pending => {
            open_window(asked.from.or(Some(Timestamp::from_micros(0))), asked.to)?
        }
        None => open_window(asked.from, asked.to)?,
    };
    let filter = in_window(asked.clone(), window);
    let limit = page.size();
    let after =
        position.map(|at| DeliveryKey { gateway: GatewayKey(at.gateway), sequence: at.sequence });
    let found = ledger.deliveries_in_state(organisation, &filter, state, after, limit).await?;
    let next = found.next.map(|DeliveryKey { gateway, sequence }| {
        cursor::encode(&StatePosition { gateway: gateway.0, sequence, window }, &filters)
    });
    let list = found.rows.into_iter().map(Into::into).collect();
    Ok(Json(Page::new(list, limit, next)))
}

/// Count failed attempts over time.
///
/// Counts by reason, gateway or event type, in buckets of time.
#[utoipa::path(
    get, path = "/deliveries/summary", tag = "deliveries", operation_id = "summariseFailures",
    params(Window, SummaryQuery),
    responses(
        (status = 200, description = "The counts.", body = Summary),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn summary(
    Part(ledger): Part<dyn Ledger>,
    Reader(organisation): Reader,
    Query((asked, query)): Query<(Window, SummaryQuery)>,
) -> HandlerResult<Json<Summary>> {
    let window = closed_window(asked.from, asked.to)?;
    let bucket = bucket_in(window, query.bucket.as_deref())?;
    let by = query.by.unwrap_or(SummaryBy::Reason);
    let rows = ledger.failure_summary(organisation, window, bucket, by.into()).await?;
    let list: Vec<FailuresByBucket> = rows.into_iter().map(Into::into).collect();
    let (count, bucket_seconds) = (list.len(), bucket.as_secs());
    let (from, to) = (window.from(), window.to());
    Ok(Json(Summary { count, list, from, to, bucket_seconds, by }))
}

/// How far a redrive has come, and the time window of its first call.
#[derive(Serialize, Deserialize)]
struct RedrivePosition {
    at: RedriveProgress,
    window: TimeWindow,
}

/// Append dead letters again.
///
/// The same event is appended under a new sequence, with the same event id and
/// correlation id. It was valid when it was published, and is not validated again. What one call
/// can do, at most 1,000 deliveries, is done at once. Otherwise a job does all of it, and the response is
/// 202 with `job`; all other members are empty. A dry run never starts a job; repeat it with `next` as
/// its `cursor` until `next` is `null`.
#[utoipa::path(
    post, path = "/deliveries/redrive", tag = "deliveries", operation_id = "redriveDeliveries",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            description = "Identifies the request: a repeat with the same body appends nothing again, and gets the first response."),
    ),
    request_body(
        content = RedriveRequest,
        examples(
            ("one" = (summary = "One delivery", value = json!({
                "gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057", "sequence": 42,
            }))),
            ("many" = (summary = "What would be redriven", value = json!({
                "filter": {"reason": "not_connected"}, "dryRun": true,
            }))),
        ),
    ),
    responses(
        (status = 200, description = "The result, or in a dry run what it would be.", body = Redriven),
        (status = 202, description = "A job does it.", body = Redriven),
        Problems<(Scoped, Missing, Body, Taken, Long, Write, Purging, Idempotent)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn redrive(
    Part(bulk): Part<dyn Bulk>,
    Part(ledger): Part<dyn Ledger>,
    Admin(actor): Admin,
    _: Query<()>,
    Keyed(key, asked): Keyed<RedriveRequest>,
) -> HandlerResult<(StatusCode, Json<Redriven>)> {
    let actor = actor.with_request_key(key.filter(|_| !asked.dry_run));
    let filters = ("redrive", asked.filter.clone(), asked.dry_run);
    let at = asked.cursor.as_deref();
    let at = at.map(|text| cursor::decode::<RedrivePosition>(text, &filters)).transpose()?;
    let (selection, examined) = selection(asked.clone(), at)?;
    match bulk.earlier_result(&actor).await? {
        Some(EarlierResult::Redriven(done)) => return Ok(redriven(done, examined, &filters)),
        Some(EarlierResult::RedriveStarted(job)) => return Ok(started(job)),
        _ => {}
    }
    let mut total = None;
    if let RedriveSelection::Filter(filter, None) = &selection {
        if asked.dry_run {
            total = Some(count(ledger.as_ref(), &actor, filter).await?);
        } else if would_redrive(ledger.as_ref(), &actor, filter, None).await?.next.is_some() {
            return Ok(started(bulk.start_redrive(&actor, JobId::new(), filter.clone()).await?));
        }
    }
    let done = ledger.redrive(&actor, selection, asked.dry_run).await?;
    let (status, Json(response)) = redriven(done, examined, &filters);
    Ok((status, Json(Redriven { total, ..response })))
}

/// The response if a job does it.
fn started(job: store::BulkJob) -> (StatusCode, Json<Redriven>) {
    (StatusCode::ACCEPTED, Json(Redriven { job: Some(job.into()), ..Redriven::default() }))
}

/// The response if it is done; `examined` is the window of a filter.
fn redriven(
    done: store::Redriven,
    examined: Option<TimeWindow>,
    filters: &impl Serialize,
) -> (StatusCode, Json<Redriven>) {
    let next = done
        .next
        .zip(examined)
        .map(|(at, window)| cursor::encode(&RedrivePosition { at: at.into(), window }, filters));
    (StatusCode::OK, Json(Redriven { next, ..done.into() }))
}

/// What a request selects, and the window of a filter.
fn selection(
    asked: RedriveRequest,
    at: Option<RedrivePosition>,
) -> HandlerResult<(RedriveSelection, Option<TimeWindow>)> {
    match (asked.gateway_id, asked.sequence, asked.filter) {
        (Some(gateway), Some(sequence), None) if at.is_none() => {
            if !(1..=Sequence::MAX.0).contains(&sequence.0) {
                return Err(Problem::invalid("sequence", "must be 1 to 9007199254740991"));
            }
            Ok((RedriveSelection::One(gateway, sequence), None))
        }
        (None, None, Some(Object(filter))) if filter == DeliveryFilter::default() => {
            Err(Problem::invalid(
                "filter",
                "must have at least one condition; `from` alone redrives all dead letters of a window",
            ))
        }
        (None, None, Some(Object(filter))) => {
            let beginning = Timestamp::from_micros(0);
            let window = match &at {
                Some(position) => position.window,
                None => closed_window(filter.from.or(Some(beginning)), filter.to)?,
            };
            let at = at.map(|position| position.at.into());
            Ok((RedriveSelection::Filter(in_window(filter, window), at), Some(window)))
        }
        _ => Err(Problem::invalid(
            "body",
            "name one delivery by gatewayId and sequence, or many by filter",
        )),
    }
}

/// What one call would do, starting at a cursor.
async fn would_redrive(
    ledger: &dyn Ledger,
    actor: &Actor,
    filter: &store::DeliveryFilter,
    at: Option<RedriveCursor>,
) -> HandlerResult<store::Redriven> {
    let selection = RedriveSelection::Filter(filter.clone(), at);
    Ok(ledger.redrive(actor, selection, true).await?)
}

/// How many deliveries a redrive would append in all.
async fn count(
    ledger: &dyn Ledger,
    actor: &Actor,
    filter: &store::DeliveryFilter,
) -> HandlerResult<i64> {
    let (mut total, mut at) = (0, None);
    loop {
        let part = would_redrive(ledger, actor, filter, at).await?;
        total += i64::try_from(part.redriven.len()).unwrap_or(i64::MAX);
        at = part.next;
        if at.is_none() {
            return Ok(total);
        }
    }
}

/// The last 24 hours by default. Without an end the window is open, so that it includes what was
/// recorded before the clock was set back.
pub(super) fn open_window(
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> HandlerResult<TimeWindow> {
    let from = from.unwrap_or_else(|| to.unwrap_or_else(Timestamp::now).minus(DAY));
    Ok(TimeWindow::new(from, to.unwrap_or(Timestamp::LAST))?)
}

/// The last 24 hours until now by default.
pub(super) fn closed_window(
    from: Option<Timestamp>,
    to: Option<Timestamp>,
) -> HandlerResult<TimeWindow> {
    let to = to.unwrap_or_else(Timestamp::now);
    Ok(TimeWindow::new(from.unwrap_or_else(|| to.minus(DAY)), to)?)
}

/// The width of a window's buckets; an hour by default.
pub(super) fn bucket_in(window: TimeWindow, asked: Option<&str>) -> HandlerResult<Duration> {
    let bucket = asked.map(bucket).transpose();
    let bucket = bucket.map_err(|why| Problem::invalid("bucket", why))?.unwrap_or(HOUR);
    if window.length().as_micros() / bucket.as_micros() > MAX_BUCKETS {
        return Err(Problem::invalid(
            "bucket",
            format!("the window would have more than {MAX_BUCKETS} buckets; ask for longer ones"),
        ));
    }
    Ok(bucket)
}

fn bucket(text: &str) -> Result<Duration, String> {
    let secs = |unit: char| match unit {
        's' => Some(1),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(24 * 3600),
        _ => None,
    };
    let read = || {
        let unit = text.chars().last()?;
        let number: u64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
        number.checked_mul(secs(unit)?).filter(|secs| (1..=MAX_BUCKET_SECS).contains(secs))
    };
    read().map(Duration::from_secs).ok_or_else(|| {
        format!(
            "must be seconds, minutes, hours or days, at most 366d, such as 60s, 5m, 1h, 1d; not {}",
            quoted(text)
        )
    })
}

fn in_window(filter: DeliveryFilter, window: TimeWindow) -> store::DeliveryFilter {
    let DeliveryFilter { from: _, to: _, gateway_id, event_type, reason, event_id, correlation_id } =
        filter;
    store::DeliveryFilter { window, gateway_id, event_type, reason, event_id, correlation_id }
}

impl From<store::DeliveryFilter> for DeliveryFilter {
    /// A window from the beginning has no `from`.
    fn from(filter: store::DeliveryFilter) -> Self {
        let store::DeliveryFilter {
            window,
            gateway_id,
            event_type,
            reason,
            event_id,
            correlation_id,
        } = filter;
        let from = Some(window.from()).filter(|at| at.micros() > 0);
        let to = Some(window.to());
        Self { from, to, gateway_id, event_type, reason, event_id, correlation_id }
    }
}

/// A [`DeliveryCursor`] inside a cursor of the API.
#[derive(Serialize, Deserialize)]
struct FailurePosition {
    as_of: i64,
    finished_at: i64,
    attempt: i64,
    sequence: i64,
}

impl From<DeliveryCursor> for FailurePosition {
    fn from(at: DeliveryCursor) -> Self {
        let DeliveryCursor { as_of, finished_at, attempt, sequence } = at;
        Self { as_of, finished_at, attempt, sequence }
    }
}

impl From<FailurePosition> for DeliveryCursor {
    fn from(at: FailurePosition) -> Self {
        let FailurePosition { as_of, finished_at, attempt, sequence } = at;
        Self { as_of, finished_at, attempt, sequence }
    }
}

/// A [`RedriveCursor`] inside a cursor of the API.
#[derive(Serialize, Deserialize)]
enum RedriveProgress {
    Counting(FailurePosition),
    DeadLetters { gateway: i64, sequence: Sequence },
}

impl From<RedriveCursor> for RedriveProgress {
    fn from(at: RedriveCursor) -> Self {
        match at {
            RedriveCursor::Counting(at) => Self::Counting(at.into()),
            RedriveCursor::DeadLetters(DeliveryKey { gateway, sequence }) => {
                Self::DeadLetters { gateway: gateway.0, sequence }
            }
        }
    }
}

impl From<RedriveProgress> for RedriveCursor {
    fn from(at: RedriveProgress) -> Self {
        match at {
            RedriveProgress::Counting(at) => Self::Counting(at.into()),
            RedriveProgress::DeadLetters { gateway, sequence } => {
                Self::DeadLetters(DeliveryKey { gateway: GatewayKey(gateway), sequence })
            }
        }
    }
}

impl From<store::Delivery> for Delivery {
    fn from(delivery: store::Delivery) -> Self {
        let superseded_by = delivery.superseded_by();
        Self {
            gateway_id: delivery.gateway_id,
            gateway_name: delivery.gateway_name,
            sequence: delivery.sequence,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
            correlation_id: delivery.correlation_id,
            appended_at: delivery.appended_at,
            state: delivery.state.into(),
            trimmed: delivery.trimmed,
            delivered_since: delivery.delivered_since,
            redriven: delivery.redriven,
            redriven_as: delivery.redriven_as.map(|successor| api::RedrivenAs {
                sequence: successor.sequence,
                state: successor.state.into(),
            }),
            failures: delivery.failures,
            first_failure_at: delivery.first_failure_at,
            last_failure_at: delivery.last_failure_at,
            reason: delivery.reason,
            attempt_count: delivery.attempt_count,
            superseded_by,
            attempts: delivery.attempts.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<store::DeliveryState> for api::DeliveryState {
    fn from(state: store::DeliveryState) -> Self {
        match state {
            store::DeliveryState::Pending => Self::Pending,
            store::DeliveryState::Delivered => Self::Delivered,
            store::DeliveryState::Filtered => Self::Filtered,
            store::DeliveryState::Superseded => Self::Superseded,
            store::DeliveryState::Failed => Self::Failed,
        }
    }
}

impl From<store::Outcome> for api::Outcome {
    fn from(outcome: store::Outcome) -> Self {
        match outcome {
            store::Outcome::Received => Self::Received,
            store::Outcome::Applied => Self::Applied,
            store::Outcome::Failed => Self::Failed,
            store::Outcome::Filtered => Self::Filtered,
            store::Outcome::Snapshot => Self::Snapshot,
            store::Outcome::Superseded => Self::Superseded,
            store::Outcome::Unknown => Self::Unknown,
        }
    }
}

impl From<store::Attempt> for api::Attempt {
    fn from(attempt: store::Attempt) -> Self {
        Self {
            outcome: attempt.outcome.into(),
            reason: attempt.reason,
            detail: attempt.detail,
            connection_id: attempt.connection_id,
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
        }
    }
}

impl From<SummaryBy> for store::SummaryBy {
    fn from(by: SummaryBy) -> Self {
        match by {
            SummaryBy::Reason => Self::Reason,
            SummaryBy::Gateway => Self::Gateway,
            SummaryBy::Type => Self::Type,
        }
    }
}

impl From<store::SummaryRow> for FailuresByBucket {
    fn from(row: store::SummaryRow) -> Self {
        let store::SummaryRow { from, key, gateway_name, count } = row;
        Self { from, key, gateway_name, count }
    }
}

impl From<store::Redriven> for Redriven {
    /// Without `next`, which is a cursor.
    fn from(redriven: store::Redriven) -> Self {
        Self {
            redriven: redriven.redriven.into_iter().map(Into::into).collect(),
            pending: redriven.pending,
            delivered: redriven.delivered,
            already_redriven: redriven.already_redriven,
            event_removed: redriven.event_removed,
            payload_purged: redriven.payload_purged,
            expired: redriven.expired,
            gateway_deleted: redriven.gateway_deleted,
            more: redriven.more,
            next: None,
            total: None,
            job: None,
        }
    }
}

impl From<store::RedrivenDelivery> for api::RedrivenDelivery {
    fn from(delivery: store::RedrivenDelivery) -> Self {
        let store::RedrivenDelivery { gateway_id, event_id, sequence, new_sequence } = delivery;
        Self { gateway_id, event_id, sequence, new_sequence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_windows_are_refused() {
        let at = Timestamp::from_micros(1);
        assert!(closed_window(Some(at), Some(at)).is_err());
        assert_eq!(closed_window(None, None).unwrap().length(), DAY);
    }

    #[test]
    fn buckets_are_numbers_with_a_unit() {
        assert_eq!(bucket("5m").unwrap(), Duration::from_mins(5));
        for bad in ["", "m", "0s", "5", "5é", "-1h", "99999999999999999999d"] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
    }
}
