//! The agent: makes a product a gateway in reliable mode without code in the product. It hands each
//! event to a [program](exec) or to a [local address](forward), one at a time and in order, and
//! confirms it if the product says that it has applied it.
//!
//! Two kinds of failure are distinguished. If the product has *answered* that it can't apply an event,
//! or may have begun to, the failure is reported to the service, which counts the attempt and gives the
//! event up after `delivery.max_attempts`. If the product is *unavailable* (nothing listens, the
//! program is missing), the event is kept here and tried again until the product is back: nothing is
//! counted, and no event is given up because of a restart.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::client::reliable::{
    DeliveryGap, EventFrame, Handler, NackCode, Notice, Outcome, SnapshotError,
};
use crate::event::Sequence;

mod delivery;
pub mod exec;
pub mod forward;
pub mod metrics;
mod outcome;
mod position;

pub use position::RetryingPosition;

use delivery::Delivery;
use exec::Program;
use forward::Forwarder;
use outcome::{Answer, Reply};

/// The longest pause before an event is tried again, unless the product asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// The longest pause that a product may ask for.
const MAX_REQUESTED_PAUSE: Duration = Duration::from_hours(1);

/// How events are handed to the product.
#[derive(Debug)]
pub enum Target {
    /// A program is run for each event.
    Exec(Program),
    /// Each event is posted.
    Forward(Box<Forwarder>),
}

impl Target {
    async fn give(&self, delivery: &Delivery<'_>) -> Reply {
        match self {
            Self::Exec(program) => program.run(delivery).await,
            Self::Forward(forwarder) => forwarder.post(delivery).await,
        }
    }
}

/// What happens when events can't be delivered, so that the product must read a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnGap {
    /// The agent ends. Nothing is confirmed.
    #[default]
    Exit,
    /// The gap is handed over like an event, of the type `delivery.gap`, until that succeeds.
    Handle,
    /// It is logged and confirmed: an operator has brought the product up to date.
    Accept,
}

/// Hands events over, as the handler of a [client](crate::client::reliable::Client).
#[derive(Debug)]
pub struct Agent {
    /// The service's address, for the log.
    address: String,
    target: Target,
    on_gap: OnGap,
    retries: Backoff,
    retry_delay: Duration,
    retried: Mutex<Retried>,
    stop: CancellationToken,
    gap: CancellationToken,
}

/// The event that was tried last, and how many times in succession it is to be tried again. The
/// service's count of attempts includes those at which an event before it was to be tried again.
#[derive(Debug, Default)]
struct Retried {
    sequence: Sequence,
    times: u32,
}

impl Retried {
    fn again(&mut self, sequence: Sequence) -> u32 {
        let times = if self.sequence == sequence { self.times.saturating_add(1) } else { 1 };
        *self = Self { sequence, times };
        times
    }
}

impl Agent {
    /// An agent of the service at `address`, which is only logged. The first pause before a retry is
    /// about `retry_delay`; the pauses double up to a minute. `stop` is the token that stops its client.
    /// `gap` is cancelled if the agent stops because of a gap.
    pub fn new(
        address: String,
        target: Target,
        on_gap: OnGap,
        retry_delay: Duration,
        stop: CancellationToken,
        gap: CancellationToken,
    ) -> Self {
        let retries = Backoff::new(retry_delay, MAX_PAUSE);
        let retry_delay = retry_delay.min(MAX_REQUESTED_PAUSE);
        Self { address, target, on_gap, retries, retry_delay, retried: Mutex::default(), stop, gap }
    }

    /// Hands an event over until the product is available; an error if the agent is stopped first.
    async fn give(&self, delivery: &Delivery<'_>) -> Result<Answer, String> {
        let mut pauses = self.retries;
        loop {
            let started = Instant::now();
            let reply = self.target.give(delivery).await;
            metrics::handed_over(&reply, started.elapsed());
            let why = match reply {
                Reply::Answered(answer) => return Ok(answer),
                Reply::Unavailable(why) => why,
            };
            let pause = pauses.next_pause();
            tracing::warn!(
                event = delivery.id.as_ref(),
                sequence = delivery.sequence.0,
                reason = why,
                retry_in_ms = millis(pause),
                "the product is not available; the event waits"
            );
            tokio::select! {
                () = self.stop.cancelled() => return Err(why),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// The pause before the next attempt at an event. A product that asks for none would use up all
    /// attempts at once.
    fn pause(&self, requested: Option<Duration>, sequence: Sequence) -> Duration {
        let times = self.retried.lock().unwrap_or_else(PoisonError::into_inner).again(sequence);
        match requested {
            Some(pause) => pause.clamp(self.retry_delay, MAX_REQUESTED_PAUSE),
            None => self.retries.pause(times, fastrand::f64()),
        }
    }
}

#[async_trait]
impl Handler for Agent {
    async fn handle(&self, event: EventFrame) -> Outcome {
        let delivery = Delivery::of_event(&event);
        let (id, kind, sequence) =
            (event.event_id.as_str(), event.event_type.as_str(), event.sequence.0);
        let answer = match self.give(&delivery).await {
            Ok(answer) => answer,
            Err(why) => {
                tracing::info!(
                    event = id,
                    r#type = kind,
                    sequence,
                    reason = why,
                    "stopping; the event was not handed over and will be delivered again"
                );
                // The client reports progress on the event instead of this, because it is stopping.
                return Outcome::RetryAfter {
                    after: Duration::ZERO,
                    code: NackCode::Overloaded,
                    detail: Some(why),
                };
            }
        };
        match answer {
            Answer::Retry { after, code, detail } => {
                let after = self.pause(after, event.sequence);
                tracing::warn!(
                    event = id,
                    r#type = kind,
                    sequence,
                    attempt = event.attempt,
                    code = code.as_str(),
                    detail,
                    retry_in_ms = millis(after),
                    "the event was not applied; the service sends it again, unless this was its last attempt"
                );
                Outcome::RetryAfter { after, code, detail }
            }
            Answer::Reject { code, detail } => {
                tracing::warn!(
                    event = id,
                    r#type = kind,
                    sequence,
                    attempt = event.attempt,
                    code = code.as_str(),
                    detail,
                    "the event was rejected"
                );
                Outcome::Reject { code, detail: Some(detail) }
            }
            Answer::Applied => {
                tracing::debug!(event = id, r#type = kind, sequence, "the event is applied");
                metrics::applied(event.sequence);
                Outcome::Applied
            }
        }
    }

    async fn read_snapshot(&self, gap: &DeliveryGap) -> Result<(), SnapshotError> {
        let (from, to, reason) = (gap.from.0, gap.to.0, gap.reason.as_str());
        let snapshot_url = gap.snapshot_url.as_deref();
        match self.on_gap {
            OnGap::Exit => {
                tracing::error!(
                    from,
                    to,
                    reason,
                    snapshot_url,
                    "events can't be delivered: bring the product up to date by other means (from the \
                     snapshot URL, if there is one), then run the agent once with --on-gap accept; or let \
                     the product do it: --on-gap handle"
                );
                self.gap.cancel();
                self.stop.cancel();
                std::future::pending().await
            }
            OnGap::Accept => {
                tracing::warn!(
                    from,
                    to,
                    reason,
                    snapshot_url,
                    "events can't be delivered; accepted"
                );
                Ok(())
            }
            OnGap::Handle => {
                tracing::warn!(from, to, reason, snapshot_url, "events can't be delivered");
                let delivery = Delivery::of_gap(gap);
                match self.target.give(&delivery).await {
                    Reply::Answered(Answer::Applied) => Ok(()),
                    Reply::Answered(Answer::Retry { detail, .. }) => {
                        Err(SnapshotError(detail.unwrap_or_default()))
                    }
                    Reply::Answered(Answer::Reject { detail, .. }) | Reply::Unavailable(detail) => {
                        Err(SnapshotError(detail))
                    }
                }
            }
        }
    }

    async fn notice(&self, notice: Notice) {
        match notice {
            Notice::Connected(ack) => {
                tracing::info!(gateway = %ack.gateway_id, connection = %ack.connection_id, "connected");
            }
            Notice::Resumed(resumed) => {
                metrics::connected(true);
                tracing::info!(from = resumed.from.0, pending = resumed.pending, "resumed");
            }
            Notice::SnapshotFailed { why, wait } => tracing::warn!(
                reason = why,
                retry_in_ms = millis(wait),
                "the product did not handle the gap"
            ),
            Notice::Disconnected { code, why, wait } => {
                metrics::connected(false);
                tracing::warn!(
                    url = self.address,
                    code,
                    reason = why,
                    retry_in_ms = millis(wait),
                    "disconnected"
                );
            }
            Notice::Failed { why, wait } => {
                metrics::connected(false);
                let advice = crate::client::tls::advice(&why);
                tracing::warn!(
                    url = self.address,
                    reason = why,
                    advice,
                    retry_in_ms = millis(wait),
                    "not connected"
                );
            }
        }
    }
}

/// Milliseconds, for logs.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
