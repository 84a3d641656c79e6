//! Schedules retention; what is removed is decided in `store::sql::retention`, by the limits in
//! [`store::RetentionLimits`](crate::store::RetentionLimits). The job removes data in bounded
//! batches, so that publishers never wait for long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Reason;
use crate::jobs::{Job, Next, Supervisor};
use crate::metric;
use crate::store::{Maintenance, Result, RetentionLimits, StoreError, TrimMark, Trimmed};
use crate::wake::Wake;

/// After each batch, the job pauses for this many times as long as the batch took.
const SHARE: u32 = 4;
/// The longest pause. A batch that took longer was itself waiting for other transactions.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Starts the job, which makes a pass every interval, give or take a tenth.
pub fn start(
    store: Arc<dyn Maintenance>,
    wake: Wake,
    limits: RetentionLimits,
    interval: Duration,
    jobs: &Supervisor,
) {
    let mark = TrimMark::default();
    let job = Retention {
        store,
        wake,
        limits,
        interval,
        mark,
        pass: Trimmed::default(),
        has_begun: false,
    };
    jobs.start_housekeeping("retention", interval.mul_f64(MAX_JITTER), job);
}

const MAX_JITTER: f64 = 1.1;

/// The job. Each run is one batch.
struct Retention {
    store: Arc<dyn Maintenance>,
    wake: Wake,
    limits: RetentionLimits,
    interval: Duration,
    mark: TrimMark,
    /// What this pass has removed so far.
    pass: Trimmed,
    has_begun: bool,
}

impl Retention {
    fn next_pass(&self) -> Next {
        Next::After(self.interval.mul_f64(0.9 + 0.2 * fastrand::f64()))
    }

    fn report(&mut self) {
        let trimmed = std::mem::take(&mut self.pass);
        if trimmed.lost == 0 {
            tracing::debug!(
                deliveries = trimmed.deliveries,
                events = trimmed.events,
                attempts = trimmed.attempts,
                "retention"
            );
            return;
        }
        let reason = Reason::Retention.as_str();
        metrics::counter!(metric::DELIVERY_FAILURES, "reason" => reason).increment(trimmed.lost);
        tracing::warn!(
            lost = trimmed.lost,
            deliveries = trimmed.deliveries,
            events = trimmed.events,
            attempts = trimmed.attempts,
            "unconfirmed events were removed by the hard limits"
        );
    }
}

impl Job for Retention {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next> {
        // A service that has just started is busy with reconnecting gateways.
        if !std::mem::replace(&mut self.has_begun, true) {
            // Keeps everything, but reads the clock, so that a change before the first pass is
            // noticed.
            if let Err(error) = self.store.trim(&RetentionLimits::KEEP_ALL, &mut self.mark).await {
                tracing::debug!(%error, "failed to read the database's clock");
            }
            return Ok(self.next_pass());
        }
        let begun = Instant::now();
        let batch = self.store.trim(&self.limits, &mut self.mark).await?;
        self.pass.deliveries += batch.deliveries;
        self.pass.events += batch.events;
        self.pass.attempts += batch.attempts;
        self.pass.lost += batch.lost;
        if batch.more {
            return Ok(Next::After((begun.elapsed() * SHARE).min(MAX_PAUSE)));
        }
        self.report();
        self.wake.forget_idle();
        Ok(self.next_pass())
    }
}
