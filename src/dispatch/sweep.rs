//! The job that finds the events whose gateway was not connected, soon after
//! they came.

use std::sync::Arc;
use std::time::Duration;

use super::Dispatcher;
use crate::event::{GatewayKey, Reason};
use crate::jobs::{Job, Next};
use crate::store::{Missed, StoreError};

/// Events of this long are swept together.
const GATHER: Duration = Duration::from_millis(100);
/// An idle sweep shows this often that it still runs.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// Sweeps all gateways once, then those that are said to be unserved.
pub(super) struct Sweep {
    dispatcher: Arc<Dispatcher>,
    has_swept_all: bool,
    /// To be swept next; kept until that has succeeded.
    unserved: Vec<GatewayKey>,
}

impl Sweep {
    pub(super) const fn new(dispatcher: Arc<Dispatcher>) -> Self {
        Self { dispatcher, has_swept_all: false, unserved: Vec::new() }
    }

    async fn sweep(&self, gateways: Option<&[GatewayKey]>) -> Result<(), StoreError> {
        let missed = self.dispatcher.store.sweep_not_connected(gateways).await?;
        missed.iter().for_each(tell);
        Ok(())
    }
}

impl Job for Sweep {
    type Error = StoreError;

    async fn wait(&mut self) {
        let unserved = self.dispatcher.wake.unswept().await;
        self.unserved.extend(unserved);
        tokio::time::sleep(GATHER).await;
    }

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        if !self.has_swept_all {
            self.sweep(None).await?;
            self.has_swept_all = true;
        }
        // A gateway that is connected here is served; the end of its last
        // connection makes it unserved again.
        let registry = &self.dispatcher.registry;
        self.unserved.retain(|gateway| registry.connected(*gateway) == 0);
        if !self.unserved.is_empty() {
            self.sweep(Some(&self.unserved)).await?;
            self.unserved.clear();
        }
        Ok(Next::Wait)
    }
}

/// One line and one count per range, as for every failed attempt.
fn tell(missed: &Missed) {
    let Missed { gateway_id, range } = missed;
    let reason = Reason::NotConnected;
    let count = u64::try_from(range.last.0 - range.first.0 + 1).unwrap_or(0);
    metrics::counter!("gateway_events_delivery_failures_total", "reason" => reason.as_str())
        .increment(count);
    tracing::info!(
        target: "delivery",
        gateway = %gateway_id,
        first = range.first.0,
        last = range.last.0,
        outcome = "failed",
        %reason,
        detail = "nobody was there to receive it; it waits for its gateway",
        "not delivered"
    );
}
