//! Closes the sockets of those whom another node was told to shut out, or has
//! closed on record because it took this node for dead. The node that was told
//! closes its own at once, and needs none of this.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Dispatcher;
use crate::event::Reason;
use crate::store::ShutOut;

/// A key that was revoked must not serve for longer than a second.
const LOOK: Duration = Duration::from_millis(500);
/// Nodes say every few seconds that they live, and are not taken for dead sooner.
const LOOKS_FOR_CLOSED: u32 = 10;

/// Looks again and again, until told to stop.
pub(super) async fn run(dispatcher: &Dispatcher, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stop.run_until_cancelled(async {
        for look in (0..LOOKS_FOR_CLOSED).cycle() {
            looks.tick().await;
            // Nobody here who could be shut out.
            if dispatcher.live() == 0 {
                continue;
            }
            match dispatcher.store.shut_out().await {
                Ok(found) => found.into_iter().for_each(|one| close(dispatcher, one)),
                // The sockets outlive a database that is away.
                Err(error) => tracing::debug!(%error, "nobody could be asked whom to shut out"),
            }
            if look == 0 {
                let_go(dispatcher).await;
            }
        }
    })
    .await;
}

fn close(dispatcher: &Dispatcher, ShutOut { gateway, token, reason }: ShutOut) {
    if reason == Reason::TokenRevoked {
        dispatcher.close_token(&token, reason);
    } else {
        dispatcher.close_gateway(gateway, reason);
    }
}

/// Whoever is closed on record is seen by nobody: no admin finds the socket, no
/// revocation reaches it, and what it receives counts as missed. So it is closed
/// in truth, and its gateway comes back from where it is.
async fn let_go(dispatcher: &Dispatcher) {
    match dispatcher.store.closed_among(dispatcher.registry.ids()).await {
        Ok(closed) if closed.is_empty() => {}
        Ok(closed) => {
            tracing::warn!(
                connections = closed.len(),
                "another node took this one for dead; its gateways are asked to come back"
            );
            dispatcher.registry.stop_connections(&closed, Reason::NodeLost);
        }
        Err(error) => tracing::debug!(%error, "nobody could be asked who is closed on record"),
    }
}
