//! Finds the events that nobody was there to receive, soon after they came.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Dispatcher;
use super::backoff::Backoff;
use crate::event::{GatewayKey, Reason};

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
        Ok(0) => true,
        Ok(deliveries) => {
            let reason = Reason::NotConnected;
            metrics::counter!("gateway_events_delivery_failures_total", "reason" => reason.as_str())
                .increment(deliveries);
            tracing::warn!(
                target: "delivery",
                deliveries,
                %reason,
                outcome = "failed",
                "nobody was there to receive these; they wait for their gateways"
            );
            true
        }
        Err(error) => {
            tracing::warn!(%error, "the search for unserved gateways failed; trying again");
            false
        }
    }
}
