//! `GET /gateways/{id}/log`: a gateway's log with states, for admins and tools. Reading
//! confirms nothing and moves no position. With `wait`, an empty page is held back until
//! there is an entry, so that a log can be followed without busy polling.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::auth::Reader;
use super::extract::Path;
use super::openapi::{Long, Missing, Problems, Scoped};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented, not_allowed};
use crate::api::{LogEntry, LogPage, LogPagination, LogQuery, PageQuery};
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::event::{GatewayId, Sequence, quoted};
use crate::store::{self, Log, LogSpan};

/// Payload bytes of a page.
const PAGE_BYTES: usize = 1024 * 1024;
const MAX_WAIT: Duration = Duration::from_secs(25);
/// Requests that may wait at the same time; an additional one gets its response at once.
const MAX_WAITING: usize = 256;
/// What is left of `server.request_timeout` for reading, after the wait.
const MARGIN: Duration = Duration::from_secs(5);
/// How often a waiting request checks whether the node is shutting down.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often a waiting request reads the log without a hint that it has grown: hints may
/// be lost, and the gateway may be deleted.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// The shortest time between two reads of a waiting request.
const PAUSE: Duration = Duration::from_millis(100);

/// Permits for requests that wait.
pub(super) struct Waiting(Semaphore);

impl Default for Waiting {
    fn default() -> Self {
        Self(Semaphore::new(MAX_WAITING))
    }
}

impl FromQuery for LogQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let wait = parameters.text("wait").map(str::to_owned);
        let after = parameters.parse("after", after)?;
        Ok(Self { after, limit: parameters.limit()?, wait })
    }
}

/// Read a gateway's log.
///
/// Its entries in order, from `after` on. Reading confirms nothing. With `wait`, an empty
/// page is held back until there is an entry.
#[utoipa::path(
    get, path = "/gateways/{id}/log", tag = "gateways", operation_id = "readGatewayLog",
    params(("id" = GatewayId, Path, description = "The gateway."), LogQuery),
    responses(
        (status = 200, description = "A page of the log.", body = LogPage),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    State(config): State<Arc<Config>>,
    State(dispatcher): State<Arc<Dispatcher>>,
    State(waiting): State<Arc<Waiting>>,
    Part(log): Part<dyn Log>,
    Reader(organisation): Reader,
    Path(id): Path<GatewayId>,
    Query(query): Query<LogQuery>,
) -> HandlerResult<Json<LogPage>> {
    let limit = query.limit.unwrap_or(PageQuery::DEFAULT_LIMIT);
    let after = query.after.unwrap_or(Sequence::ZERO);
    let span = LogSpan { after, limit, max_bytes: PAGE_BYTES };
    let wait = query.wait.as_deref().map(wait).transpose()?.unwrap_or_default();
    let wait = wait.min(most(config.server.request_timeout));
    let read = async || {
        let page = log.gateway_log(organisation, id, span).await?;
        page.ok_or_else(|| Problem::not_found("gateway"))
    };
    let mut page = read().await?;
    if page.rows.is_empty()
        && !wait.is_zero()
        && let Ok(_permit) = waiting.0.try_acquire()
    {
        let deadline = Instant::now() + wait;
        // Subscribed before the log is read again: what is appended in between
        // is noticed.
        let mut state = dispatcher.watch_log(page.gateway.key);
        loop {
            let read_at = Instant::now();
            page = read().await?;
            if !page.rows.is_empty() {
                break;
            }
            // The log has nothing to return up to `seen`, so wait for a head beyond it.
            let seen = after.max(page.gateway.head);
            let read_again = deadline.min(read_at + READ_AGAIN);
            while !dispatcher.is_draining() && Instant::now() < read_again {
                if timeout(LOOK_AGAIN, state.wait_for(|state| state.head > seen)).await.is_ok() {
                    break;
                }
            }
            if dispatcher.is_draining() || Instant::now() >= deadline {
                break;
            }
            sleep_until(deadline.min(read_at + PAUSE)).await;
        }
    }
    Ok(Json(shown(page, limit)))
}

fn after(text: &str) -> Result<Sequence, String> {
    let after = text.parse().ok().map(Sequence);
    after.filter(|after| (Sequence::ZERO..=Sequence::MAX).contains(after)).ok_or_else(|| {
        format!("must be a whole number from 0 to {}, not {}", Sequence::MAX, quoted(text))
    })
}

fn wait(text: &str) -> HandlerResult<Duration> {
    let wait = humantime_serde::re::humantime::parse_duration(text).ok();
    wait.filter(|wait| *wait <= MAX_WAIT)
        .ok_or_else(|| not_allowed("wait", text, "a duration of at most 25s, such as 10s"))
}

/// The longest wait that leaves time for an answer.
fn most(request_timeout: Duration) -> Duration {
    request_timeout.saturating_sub(MARGIN).max(request_timeout / 2)
}

fn shown(page: store::LogPage, limit: usize) -> LogPage {
    let store::LogPage { gateway, rows } = page;
    let end = rows.last().map(|row| row.sequence);
    let entries = rows.into_iter().map(|row| {
        let event = Arc::unwrap_or_clone(row.event);
        LogEntry {
            sequence: row.sequence,
            event_id: event.id,
            event_type: event.event_type,
            payload: event.payload,
            correlation_id: event.correlation_id,
            user_id: event.user_id,
            occurred_at: event.occurred_at,
            appended_at: row.appended_at,
            expires_at: event.expires_at,
            traceparent: event.traceparent,
            state: row.state.into(),
            purged: row.is_purged,
        }
    });
    let list: Vec<LogEntry> = entries.collect();
    LogPage {
        gateway_id: gateway.id,
        gateway_name: gateway.name,
        epoch: gateway.epoch,
        head: gateway.head,
        floor: gateway.floor,
        confirmed: gateway.confirmed,
        count: list.len(),
        list,
        pagination: LogPagination { limit, next: end.filter(|end| *end < gateway.head) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_limits() {
        assert_eq!(after("0").unwrap(), Sequence::ZERO);
        assert_eq!(after("9007199254740991").unwrap(), Sequence::MAX);
        for bad in
            ["-1", "9007199254740992", "9223372036854775807", "99999999999999999999", "", "x"]
        {
            assert!(after(bad).is_err(), "{bad}");
        }
        assert_eq!(wait("25s").unwrap(), MAX_WAIT);
        for bad in ["26s", "1d", "", "5", "-1s", "soon"] {
            assert_eq!(wait(bad).unwrap_err().status().as_u16(), 422, "{bad}");
        }
    }

    #[test]
    fn a_wait_leaves_time_for_the_answer() {
        let most = |secs| most(Duration::from_secs(secs));
        assert_eq!(most(30), MAX_WAIT);
        assert_eq!(most(2), Duration::from_secs(1));
    }
}
