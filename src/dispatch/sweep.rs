//! Finds the events that nobody was there to receive, soon after they came.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Dispatcher;
use super::backoff::Backoff;
use crate::event::{GatewayKey, Reason};
use crate::store::Missed;

/// Events of this long are swept together.
const GATHER: Duration = Duration::from_millis(100);

/// Sweeps until told to stop: everything once, then what is said to be unserved.
pub(super) async fn run(dispatcher: &Dispatcher, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        let mut backoff = Backoff::default();
        while !once(dispatcher, None).await {
            tokio::time::sleep(backoff.next()).await;
        }
        loop {
            let mut gateways = dispatcher.wake.unswept().await;
            tokio::time::sleep(GATHER).await;
            // Whoever is connected here is served; the end of its last
            // connection makes it unserved again.
            gateways.retain(|gateway| dispatcher.registry.connected(*gateway) == 0);
            if gateways.is_empty() {
                continue;
            }
            if once(dispatcher, Some(&gateways)).await {
                backoff.reset();
                continue;
            }
            for gateway in gateways {
                dispatcher.wake.unserved(gateway);
            }
            tokio::time::sleep(backoff.next()).await;
        }
    })
    .await;
}

/// One sweep; false if it is to be tried again.
async fn once(dispatcher: &Dispatcher, gateways: Option<&[GatewayKey]>) -> bool {
    match dispatcher.store.sweep_not_connected(gateways).await {
        Ok(missed) => {
            missed.iter().for_each(tell);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "the search for unserved gateways failed; trying again");
            false
        }
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
