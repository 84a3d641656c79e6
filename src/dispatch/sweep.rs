//! The job that records events for gateways that are not connected, soon after they were appended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Dispatcher;
use crate::event::{GatewayKey, Reason};
use crate::jobs::{Job, Next};
use crate::store::StoreError;

/// Requests of this period are swept together.
const GATHER: Duration = Duration::from_millis(100);
/// How often an idle sweep runs, which shows that the job is alive.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// How often all gateways are swept: the requests of a node that died are lost.
const EVERYTHING: Duration = Duration::from_mins(1);

/// Sweeps all gateways regularly, and single ones on request.
pub(super) struct Sweep {
    dispatcher: Arc<Dispatcher>,
    /// Before this, gateways may still reconnect after the start of the service.
    ready_at: Instant,
    everything_at: Instant,
    /// Gateways to sweep, and when. Kept until the sweep has succeeded.
    due: BTreeMap<GatewayKey, Instant>,
}

impl Sweep {
    pub(super) fn new(dispatcher: Arc<Dispatcher>) -> Self {
        let ready_at = Instant::now() + dispatcher.options.not_connected_grace;
        Self { dispatcher, ready_at, everything_at: ready_at, due: BTreeMap::new() }
    }

    async fn sweep(&mut self, gateways: Option<&[GatewayKey]>) -> Result<(), StoreError> {
        let grace = self.dispatcher.options.not_connected_grace;
        let swept = self.dispatcher.store.sweep_not_connected(gateways, grace).await?;
        let detail = "the gateway is not connected; the event waits for it";
        for failed in &swept.recorded {
            self.dispatcher.failures.count_and_log(failed, Reason::NotConnected, detail);
        }
        let now = Instant::now();
        self.due.extend(swept.postponed.into_iter().map(|(gateway, left)| (gateway, now + left)));
        Ok(())
    }
}

impl Job for Sweep {
    type Error = StoreError;

    async fn wait(&mut self) {
        let next = self.due.values().min();
        let next = next.map_or(self.everything_at, |at| self.everything_at.min(*at));
        tokio::select! {
            // A continuous stream of requests can't delay the sweep, which runs after each of them.
            biased;
            gateways = self.dispatcher.wake.sweep_requests() => {
                let at = self.ready_at.max(Instant::now());
                for gateway in gateways {
                    self.due.entry(gateway).or_insert(at);
                }
                sleep(GATHER).await;
            }
            () = sleep_until(next) => {}
        }
    }

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        let now = Instant::now();
        if self.everything_at <= now {
            self.sweep(None).await?;
            self.everything_at = now + EVERYTHING;
        }
        let due = self.due.extract_if(.., |_, at| *at <= now);
        let mut gateways: Vec<GatewayKey> = due.map(|(gateway, _)| gateway).collect();
        // A gateway that is connected here receives its events. When its last connection ends,
        // another sweep is requested.
        gateways.retain(|gateway| self.dispatcher.registry.connected(*gateway) == 0);
        if !gateways.is_empty()
            && let Err(error) = self.sweep(Some(&gateways)).await
        {
            self.due.extend(gateways.into_iter().map(|gateway| (gateway, now)));
            return Err(error);
        }
        Ok(Next::Wait)
    }
}
