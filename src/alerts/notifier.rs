//! The job that sends notifications. It claims what is due, each destination in turn, and sends each in
//! a task of its own, so that a destination that does not answer delays others only briefly.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Alerting;
use super::message::Message;
use super::sending::Notification;
use super::sent::Sent;
use crate::backoff::Backoff;
use crate::clock::Timestamp;
use crate::jobs::{Job, Next};
use crate::metric;
use crate::store::{AfterAttempt, Alerts, AttemptEnd, ClaimedNotification, Result, StoreError};

/// How often the job looks for notifications that are due.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Attempts of this node at the same time, at most.
const ATTEMPTS: usize = 16;
/// Attempts at one destination at the same time, at most.
const PER_DESTINATION: i64 = 4;
/// A claim lasts this much longer than two attempts may take.
const MARGIN: Duration = Duration::from_secs(5);
/// The pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LAST_PAUSE: Duration = Duration::from_mins(10);
/// The pause before the end of an attempt is recorded again.
const RECORD_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Notifier {
    store: Arc<dyn Alerts>,
    alerting: Arc<Alerting>,
    permits: Arc<Semaphore>,
}

impl Notifier {
    pub(super) fn new(store: Arc<dyn Alerts>, alerting: Arc<Alerting>) -> Self {
        Self { store, alerting, permits: Arc::new(Semaphore::new(ATTEMPTS)) }
    }

    fn begin(&self, claimed: ClaimedNotification, deadline: Instant, permit: OwnedSemaphorePermit) {
        let (store, alerting) = (Arc::clone(&self.store), Arc::clone(&self.alerting));
        self.alerting.attempts.spawn(async move {
            let end = attempt(&alerting, &claimed, deadline).await;
            record(store.as_ref(), &claimed, &end, deadline).await;
            drop(permit);
        });
    }
}

impl Job for Notifier {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next> {
        let free = self.permits.available_permits();
        if free == 0 || self.alerting.stopped.is_cancelled() {
            return Ok(Next::Wait);
        }
        let limit = self.alerting.sender.limit;
        let lease = limit * 2 + MARGIN;
        // Measured from before the claim, so that it ends before the claim does.
        let deadline = Instant::now() + lease;
        let most = i64::try_from(free).unwrap_or(1);
        let claimed = self.store.claim_notifications(lease, PER_DESTINATION, most).await?;
        let has_more = claimed.len() == free;
        for notification in claimed {
            // There are as many permits as were counted: only this job takes them.
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                self.begin(notification, deadline, permit);
            }
        }
        Ok(if has_more { Next::After(Duration::from_millis(50)) } else { Next::Wait })
    }
}

/// Sends a notification, and decides what follows.
async fn attempt(
    alerting: &Alerting,
    claimed: &ClaimedNotification,
    deadline: Instant,
) -> AttemptEnd {
    let Some(destination) = &claimed.destination else {
        let detail = "the destination was deleted".to_owned();
        return AttemptEnd { then: AfterAttempt::GivenUp, status: None, detail };
    };
    // The process may have been stopped since; then another node may send it.
    let has_time = deadline.saturating_duration_since(Instant::now()) > alerting.sender.limit;
    let sent = if has_time {
        let opened = alerting.unseal(claimed.organisation, destination);
        let message = serde_json::from_str::<Message>(&claimed.body);
        match (opened, message) {
            (Ok((settings, secrets)), Ok(message)) => {
                let id = &claimed.id;
                let notification =
                    Notification { settings: &settings, secrets: &secrets, id, message: &message };
                alerting.sender.send(notification).await
            }
            (Err(error), _) => Sent::failed(error.to_string()),
            (_, Err(error)) => Sent::failed(format!("the message can't be read: {error}")),
        }
    } else {
        Sent::failed("not sent: this node was stopped for too long")
    };
    let then = after(alerting, claimed, &sent);
    let outcome = match then {
        AfterAttempt::Delivered => "delivered",
        AfterAttempt::Retry(_) => "failed",
        AfterAttempt::GivenUp => "given_up",
    };
    metrics::counter!(metric::ALERT_ATTEMPTS, "outcome" => outcome).increment(1);
    if then != AfterAttempt::Delivered {
        tracing::warn!(
            rule = claimed.rule,
            group = claimed.group,
            destination = destination.id,
            attempt = claimed.attempt,
            outcome,
            detail = sent.detail,
            "failed to send a notification about an alert"
        );
    }
    AttemptEnd { then, status: sent.status.map(i64::from), detail: sent.detail }
}

fn after(alerting: &Alerting, claimed: &ClaimedNotification, sent: &Sent) -> AfterAttempt {
    if sent.is_delivered {
        return AfterAttempt::Delivered;
    }
    let failures = u32::try_from(claimed.attempt).unwrap_or(u32::MAX);
    let pause = Backoff::new(FIRST_PAUSE, LAST_PAUSE).pause(failures, fastrand::f64());
    let age = Timestamp::now().since(claimed.created_at);
    if age + pause >= alerting.give_up_after {
        AfterAttempt::GivenUp
    } else {
        AfterAttempt::Retry(pause)
    }
}

/// Records the end of an attempt, again and again while the database does not answer and the claim
/// lasts.
async fn record(
    store: &dyn Alerts,
    claimed: &ClaimedNotification,
    end: &AttemptEnd,
    deadline: Instant,
) {
    loop {
        match store.end_attempt(claimed.key, claimed.attempt, end.clone()).await {
            Ok(()) => return,
            Err(error) if Instant::now() + RECORD_AGAIN < deadline => {
                tracing::debug!(%error, "failed to record an attempt to send a notification");
                tokio::time::sleep(RECORD_AGAIN).await;
            }
            Err(error) => {
                tracing::warn!(%error, "failed to record an attempt to send a notification; it may be repeated");
                return;
            }
        }
    }
}
