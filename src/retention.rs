//! Housekeeping by the clock: what is too old goes, in bounded batches, so
//! that publishing never waits long for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::event::Reason;
use crate::store::{Result, RetentionLimits, Store, TrimMark, Trimmed};
use crate::wake::Wake;

/// After each batch the writer is left to others for this many times as long.
const SHARE: u32 = 4;
/// And at most so long: a batch that took longer had itself to wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Makes one pass over what there is to trim; returns what went. The mark is
/// for the next pass.
pub async fn run_once(
    store: &dyn Store,
    limits: &RetentionLimits,
    mark: &mut TrimMark,
    stop: &CancellationToken,
) -> Result<Trimmed> {
    let mut total = Trimmed::default();
    loop {
        let begun = Instant::now();
        let batch = store.trim(limits, mark).await?;
        total.deliveries += batch.deliveries;
        total.events += batch.events;
        total.attempts += batch.attempts;
        total.lost += batch.lost;
        total.more = batch.more;
        if !batch.more || stop.is_cancelled() {
            return Ok(total);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(total),
            () = tokio::time::sleep((begun.elapsed() * SHARE).min(LONGEST_PAUSE)) => {}
        }
    }
}

/// Runs it again and again, give or take a tenth of the interval.
pub async fn run(
    store: Arc<dyn Store>,
    wake: Wake,
    limits: RetentionLimits,
    interval: Duration,
    stop: CancellationToken,
) {
    let mut mark = TrimMark::default();
    loop {
        let pause = interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        match run_once(store.as_ref(), &limits, &mut mark, &stop).await {
            Ok(trimmed) if trimmed.lost > 0 => {
                let reason = Reason::Retention.as_str();
                metrics::counter!("gateway_events_delivery_failures_total", "reason" => reason)
                    .increment(trimmed.lost);
                tracing::warn!(
                    lost = trimmed.lost,
                    deliveries = trimmed.deliveries,
                    events = trimmed.events,
                    attempts = trimmed.attempts,
                    "unconfirmed events were removed by the hard limits"
                );
            }
            Ok(trimmed) => tracing::debug!(
                deliveries = trimmed.deliveries,
                events = trimmed.events,
                attempts = trimmed.attempts,
                "retention"
            ),
            Err(error) => tracing::warn!(%error, "retention could not run"),
        }
        wake.forget_idle();
    }
}
