//! Housekeeping by the clock: what is too old goes, in bounded batches, so
//! that publishing never waits long for it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::event::Reason;
use crate::store::{Result, RetentionLimits, Store, Trimmed};
use crate::wake::Wake;

/// Trims until nothing is left to trim; returns what went.
pub async fn run_once(
    store: &dyn Store,
    limits: &RetentionLimits,
    stop: &CancellationToken,
) -> Result<Trimmed> {
    let mut total = Trimmed::default();
    loop {
        let batch = store.trim(limits).await?;
        total.deliveries += batch.deliveries;
        total.events += batch.events;
        total.attempts += batch.attempts;
        total.lost += batch.lost;
        total.more = batch.more;
        if !batch.more || stop.is_cancelled() {
            return Ok(total);
        }
        // Others want the writer too.
        tokio::task::yield_now().await;
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
    loop {
        let pause = interval.mul_f64(0.9 + 0.2 * fastrand::f64());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        match run_once(store.as_ref(), &limits, &stop).await {
            Ok(trimmed) if trimmed.lost > 0 => {
                let reason = Reason::Retention.as_str();
                metrics::counter!("gateway_events_delivery_failures_total", "reason" => reason)
                    .increment(trimmed.lost);
                tracing::warn!(?trimmed, "unconfirmed events were removed by the hard limits");
            }
            Ok(trimmed) => tracing::debug!(?trimmed, "retention"),
            Err(error) => tracing::warn!(%error, "retention could not run"),
        }
        wake.forget_idle();
    }
}
