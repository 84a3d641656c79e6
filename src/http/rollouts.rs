//! Rollouts: how far events have come at their gateways. A request may wait until enough gateways
//! have come far enough; then this node reads the rollout again whenever it has recorded outcomes,
//! and at intervals, because other nodes and background jobs record outcomes, too.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use super::auth::Reader;
use super::openapi::{Long, Missing, Problems, Scoped, Waiting};
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented, not_allowed};
use crate::api::{
    self, Code, Quorum, RolloutGateway, RolloutOfEvents, RolloutQuery, RolloutState, WaitEnd,
    WaitFor, WaitQuery,
};
use crate::dispatch::Dispatcher;
use crate::event::OrganisationKey;
use crate::store::{self, EventState, Ledger, RolloutOf, TargetState};

/// The wait of a request that names none.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
const MAX_WAIT: Duration = Duration::from_mins(10);
/// Requests of one organisation that may wait at this node at the same time.
const MAX_WAITING: usize = 64;
/// What is left of `server.request_timeout` for reading, after the wait.
const MARGIN: Duration = Duration::from_secs(5);
/// How often a waiting request reads without a hint.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// The shortest time between two reads of a waiting request.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads rollouts, and waits for them.
pub(super) struct Rollouts {
    ledger: Arc<dyn Ledger>,
    dispatcher: Arc<Dispatcher>,
    request_timeout: Duration,
    /// Permits for requests that wait.
    waits: DashMap<OrganisationKey, Arc<Semaphore>>,
}

impl Rollouts {
    pub(super) fn new(
        ledger: Arc<dyn Ledger>,
        dispatcher: Arc<Dispatcher>,
        request_timeout: Duration,
    ) -> Self {
        Self { ledger, dispatcher, request_timeout, waits: DashMap::new() }
    }

    /// How far events have come, after the wait.
    pub(super) async fn of_events(
        &self,
        organisation: OrganisationKey,
        of: &RolloutOf,
        wait: Option<Wait>,
    ) -> HandlerResult<RolloutOfEvents> {
        let read = async || {
            let rollout = self.ledger.rollout(organisation, of).await?;
            if rollout.events.is_empty() {
                return Err(Problem::not_found(match of {
                    RolloutOf::Event(_) => "event",
                    RolloutOf::Correlation(_) => "event with this correlation id",
                }));
            }
            Ok(rollout)
        };
        let mut rollout = read().await?;
        let Some(wait) = wait else { return Ok(shown(rollout, None)) };
        check(&rollout, wait)?;
        let mut end = decide(&rollout, wait);
        let time = wait.time.min(most(self.request_timeout));
        if end.is_none() && !time.is_zero() {
            let _permit = self.begin_wait(organisation)?;
            let deadline = Instant::now() + time;
            let mut recorded = self.dispatcher.watch_recorded();
            while end.is_none() && Instant::now() < deadline {
                let read_at = Instant::now();
                // What is recorded from here on is noticed.
                recorded.mark_unchanged();
                rollout = read().await?;
                end = decide(&rollout, wait);
                if end.is_none() && self.dispatcher.is_draining() {
                    end = Some(WaitEnd::Shutdown);
                }
                if end.is_none() {
                    let again = deadline.min(read_at + READ_AGAIN);
                    let _ = timeout(
                        again.saturating_duration_since(Instant::now()),
                        recorded.changed(),
                    )
                    .await;
                    sleep_until(deadline.min(read_at + PAUSE)).await;
                }
            }
            // What came in the last moment counts.
            if end.is_none() {
                rollout = read().await?;
                end = decide(&rollout, wait);
            }
        }
        let end = end.unwrap_or(WaitEnd::Timeout);
        let needed = wait.quorum.of(rollout.awaited());
        Ok(shown(rollout, Some((needed, end))))
    }

    fn begin_wait(&self, organisation: OrganisationKey) -> HandlerResult<OwnedSemaphorePermit> {
        let permits = Arc::clone(
            &self
                .waits
                .entry(organisation)
                .or_insert_with(|| Arc::new(Semaphore::new(MAX_WAITING))),
        );
        permits.try_acquire_owned().map_err(|_| {
            Problem::new(
                Code::TooManyWaits,
                format!(
                    "{MAX_WAITING} requests of this organisation are waiting at this node, the maximum. Try again later, or send the request without `wait`."
                ),
            )
            .retry_after(fastrand::u32(1..=5))
        })
    }
}

/// What a request waits for.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    level: WaitFor,
    quorum: Quorum,
    time: Duration,
}

impl FromQuery for WaitQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let words = [("received", WaitFor::Received), ("applied", WaitFor::Applied)];
        Ok(Self {
            wait: parameters.one_of("wait", &words)?,
            quorum: parameters.get("quorum")?,
            timeout: parameters.text("timeout").map(str::to_owned),
        })
    }
}

impl FromQuery for RolloutQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        Ok(Self {
            correlation_id: parameters.get("correlationId")?,
            event_id: parameters.get("eventId")?,
        })
    }
}

impl WaitQuery {
    /// What the request waits for; `None` if it does not wait.
    pub(super) fn wait(&self) -> HandlerResult<Option<Wait>> {
        let given = [("quorum", self.quorum.is_some()), ("timeout", self.timeout.is_some())];
        let Some(level) = self.wait else {
            return match given.iter().find(|(_, is_given)| *is_given) {
                Some((name, _)) => Err(Problem::invalid(
                    *name,
                    "applies only with `wait`, which is received or applied",
                )),
                None => Ok(None),
            };
        };
        let time = match &self.timeout {
            Some(text) => time(text)?,
            None => DEFAULT_WAIT,
        };
        Ok(Some(Wait { level, quorum: self.quorum.unwrap_or_default(), time }))
    }
}

/// Reads a duration such as `20s`.
fn time(text: &str) -> HandlerResult<Duration> {
    let time = humantime_serde::re::humantime::parse_duration(text).ok();
    time.filter(|time| *time <= MAX_WAIT)
        .ok_or_else(|| not_allowed("timeout", text, "a duration of at most 10m, such as 20s"))
}

/// The longest wait that leaves time for an answer.
fn most(request_timeout: Duration) -> Duration {
    request_timeout.saturating_sub(MARGIN).max(request_timeout / 2)
}

/// Show how far events have come.
///
/// At each gateway of an event, or of all events with a correlation id. With `wait`, the response is
/// delayed until enough gateways have come far enough, until that is impossible, or until the
/// time is up.
#[utoipa::path(
    get, path = "/rollouts", tag = "events", operation_id = "showRollout",
    params(RolloutQuery, WaitQuery),
    responses(
        (status = 200, description = "How far the events have come.", body = RolloutOfEvents),
        Problems<(Scoped, Missing, Long, Waiting)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    State(rollouts): State<Arc<Rollouts>>,
    Reader(organisation): Reader,
    Query((which, wait)): Query<(RolloutQuery, WaitQuery)>,
) -> HandlerResult<Json<RolloutOfEvents>> {
    let of = match (which.event_id, which.correlation_id) {
        (Some(id), None) => RolloutOf::Event(id),
        (None, Some(id)) => RolloutOf::Correlation(id),
        _ => {
            let why = "name one event by eventId, or several by correlationId";
            return Err(Problem::invalid("correlationId", why));
        }
    };
    let rollout = rollouts.of_events(organisation, &of, wait.wait()?).await?;
    Ok(Json(rollout))
}

/// Refuses a wait that has no meaning for these events.
fn check(rollout: &store::Rollout, wait: Wait) -> HandlerResult<()> {
    if rollout.more {
        return Err(Problem::invalid(
            "wait",
            "these are too many deliveries to wait for; wait for the events one by one",
        ));
    }
    let targets = rollout.targets.len();
    if let Quorum::Count(count) = wait.quorum
        && count > targets
    {
        return Err(Problem::invalid(
            "quorum",
            format!("is {count}, but there are {targets} gateways to wait for"),
        ));
    }
    if wait.level == WaitFor::Applied
        && let Some(event) = rollout.events.first()
        && rollout.events.iter().all(|event| !event.is_reported)
        && !rollout.targets.iter().any(|it| it.acknowledges || it.state == TargetState::Applied)
    {
        return Err(Problem::invalid(
            "wait",
            format!(
                "these gateways report only deployments (….deployed and ….undeployed, with an artifact and a deploymentId) as applied, because none is in reliable mode, and never an event like this {}; wait for received",
                event.event_type
            ),
        ));
    }
    Ok(())
}

/// Whether the wait has ended. A gateway where the event was filtered or superseded counts neither as one
/// that came far enough nor as one that has to.
fn decide(rollout: &store::Rollout, wait: Wait) -> Option<WaitEnd> {
    let needed = wait.quorum.of(rollout.awaited());
    let is_applied = wait.level == WaitFor::Applied;
    let mut there = rollout.count(TargetState::Applied);
    if !is_applied {
        there += rollout.count(TargetState::Received);
    }
    if rollout.targets.is_empty() {
        // The events are for no gateway.
        return Some(WaitEnd::Unreachable);
    }
    if rollout.awaited() == 0 {
        let superseded = rollout.count(TargetState::Superseded);
        return Some(if superseded > 0 { WaitEnd::Superseded } else { WaitEnd::Filtered });
    }
    if there >= needed {
        return Some(WaitEnd::Reached);
    }
    (rollout.possible(is_applied) < needed).then_some(WaitEnd::Unreachable)
}

fn shown(rollout: store::Rollout, waited: Option<(usize, WaitEnd)>) -> RolloutOfEvents {
    let events = rollout.events.iter().map(|event| api::RolloutEvent {
        id: event.id.clone(),
        event_type: event.event_type.clone(),
        reported: event.is_reported,
    });
    let events = events.collect();
    let (needed, ended) = waited.unzip();
    let count = |state| rollout.count(state);
    let rollout = api::Rollout {
        targets: rollout.targets.len(),
        applied: count(TargetState::Applied),
        received: count(TargetState::Received),
        filtered: count(TargetState::Filtered),
        superseded: count(TargetState::Superseded),
        pending: count(TargetState::Pending),
        failed: count(TargetState::Failed),
        not_connected: count(TargetState::NotConnected),
        reached: ended.map(|ended| ended == WaitEnd::Reached),
        needed,
        ended,
        more: rollout.more,
        gateways: rollout.targets.into_iter().map(Into::into).collect(),
    };
    RolloutOfEvents { events, rollout }
}

impl From<store::RolloutTarget> for RolloutGateway {
    fn from(target: store::RolloutTarget) -> Self {
        Self {
            event_id: target.event_id,
            gateway_id: target.gateway_id,
            gateway_name: target.gateway_name,
            sequence: target.sequence,
            state: match target.state {
                TargetState::Applied => RolloutState::Applied,
                TargetState::Received => RolloutState::Received,
                TargetState::Filtered => RolloutState::Filtered,
                TargetState::Superseded => RolloutState::Superseded,
                TargetState::Pending => RolloutState::Pending,
                TargetState::NotConnected => RolloutState::NotConnected,
                TargetState::Failed => RolloutState::Failed,
            },
            reason: target.reason,
            filtered_by: target.filtered_by,
        }
    }
}

impl From<store::EventVerdict> for api::EventVerdict {
    fn from(verdict: store::EventVerdict) -> Self {
        Self {
            state: match verdict.state {
                EventState::Unmatched => api::EventState::Unmatched,
                EventState::Failed => api::EventState::Failed,
                EventState::Pending => api::EventState::Pending,
                EventState::Delivered => api::EventState::Delivered,
                EventState::Superseded => api::EventState::Superseded,
                EventState::Filtered => api::EventState::Filtered,
            },
            since: verdict.since,
            reason: verdict.reason.map(str::to_owned),
            gateways: verdict.gateways,
            targets: verdict.targets,
            filtered: verdict.filtered,
            superseded: verdict.superseded,
            summary: verdict.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_needs_a_level_and_has_a_longest_time() {
        let timeout = |text: &str| Some(text.to_owned());
        let wait = |wait, timeout| WaitQuery { wait, quorum: None, timeout }.wait();
        assert!(wait(None, None).unwrap().is_none());
        assert!(wait(None, timeout("1s")).is_err());
        let received = Some(WaitFor::Received);
        assert_eq!(wait(received, None).unwrap().unwrap().time, DEFAULT_WAIT);
        assert_eq!(wait(received, timeout("10m")).unwrap().unwrap().time, MAX_WAIT);
        for bad in ["11m", "", "5", "-1s", "soon"] {
            assert_eq!(wait(received, timeout(bad)).err().unwrap().status().as_u16(), 422, "{bad}");
        }
        assert_eq!(most(DEFAULT_WAIT), Duration::from_secs(25));
        assert_eq!(most(Duration::from_secs(2)), Duration::from_secs(1));
    }
}
