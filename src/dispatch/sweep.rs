//! Records events for gateways that are not connected, soon after they came.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Dispatcher;
use super::backoff::Backoff;
use crate::event::{GatewayKey, Reason};
use crate::store::Missed;

/// Events of this long are swept together.
const GATHER: Duration = Duration::from_millis(100);
/// How often all gateways are looked at: a node that dies takes the hints that
/// it had along.
const EVERYTHING: Duration = Duration::from_mins(1);

/// Sweeps until told to stop: everything once, then the gateways with new or
/// newly unserved events.
pub(super) async fn run(dispatcher: &Dispatcher, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        // Gateways come back within moments of a start.
        sleep(dispatcher.options.not_connected_grace).await;
        let mut sweep = Sweep { dispatcher, due: HashMap::new(), backoff: Backoff::default() };
        let mut everything_at = Instant::now();
        loop {
            let now = Instant::now();
            if everything_at <= now {
                let is_done = sweep.once(None).await;
                let wait = if is_done { EVERYTHING } else { sweep.backoff.next() };
                everything_at = Instant::now() + wait;
            }
            sweep.once_due(now).await;
            let next = sweep.due.values().min().map_or(everything_at, |at| everything_at.min(*at));
            tokio::select! {
                gateways = dispatcher.wake.unswept() => {
                    let at = Instant::now() + GATHER;
                    for gateway in gateways {
                        sweep.due.entry(gateway).or_insert(at);
                    }
                }
                () = sleep_until(next) => {}
            }
        }
    })
    .await;
}

struct Sweep<'a> {
    dispatcher: &'a Dispatcher,
    /// Gateways to look at, and when.
    due: HashMap<GatewayKey, Instant>,
    backoff: Backoff,
}

impl Sweep<'_> {
    /// Sweeps the gateways whose time has come.
    async fn once_due(&mut self, now: Instant) {
        let due = self.due.extract_if(|_, at| *at <= now);
        let mut gateways: Vec<GatewayKey> = due.map(|(gateway, _)| gateway).collect();
        // Its lane serves a gateway that is connected here; the end of its last
        // connection makes it unserved again.
        gateways.retain(|gateway| self.dispatcher.registry.connected(*gateway) == 0);
        if !gateways.is_empty() && !self.once(Some(&gateways)).await {
            let at = Instant::now() + self.backoff.next();
            self.due.extend(gateways.into_iter().map(|gateway| (gateway, at)));
        }
    }

    /// One sweep; false if it is to be tried again.
    async fn once(&mut self, gateways: Option<&[GatewayKey]>) -> bool {
        let grace = self.dispatcher.options.not_connected_grace;
        match self.dispatcher.store.sweep_not_connected(gateways, grace).await {
            Ok(swept) => {
                let detail = "the gateway is not connected; the event waits for it";
                swept.missed.iter().for_each(|missed| tell(missed, Reason::NotConnected, detail));
                let now = Instant::now();
                self.due.extend(swept.postponed.into_iter().map(|(key, left)| (key, now + left)));
                self.backoff.reset();
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the search for unserved gateways failed; trying again");
                false
            }
        }
    }
}

/// One line and one count per range, as for every failed attempt.
pub(super) fn tell(missed: &Missed, reason: Reason, detail: &str) {
    let Missed { gateway_id, range } = missed;
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
        detail,
        "not delivered"
    );
}
