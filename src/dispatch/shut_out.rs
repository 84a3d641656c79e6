//! Closes sockets for what another node did: it was told to shut somebody out
//! (it closes its own at once, and needs none of this), or it took this node for
//! dead.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Dispatcher, registry};
use crate::event::Reason;
use crate::store::{Result, ShutOut};

/// A key that was revoked must not serve for longer than a second.
const LOOK: Duration = Duration::from_millis(500);

/// Between two sockets that are closed because their connections are lost.
/// Gateways come back at once, and are not to do so all at the same moment.
const APART: Duration = Duration::from_millis(5);
/// But in no more steps than this: the node's heartbeat waits for the last one.
const STEPS: usize = 400;

/// Looks again and again, until told to stop.
pub(super) async fn run(dispatcher: &Dispatcher, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stop.run_until_cancelled(async {
        loop {
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

/// Closes those that are not live on record.
pub(super) async fn close_lost(dispatcher: &Dispatcher) -> Result<usize> {
    let ids = dispatcher.registry.ids();
    if ids.is_empty() {
        return Ok(0);
    }
    let lost: HashSet<_> = dispatcher.store.not_on_record(&ids).await?.into_iter().collect();
    let stops = dispatcher.registry.stops(|id| lost.contains(id));
    for few in stops.chunks(stops.len().div_ceil(STEPS).max(1)) {
        for stop in few {
            registry::stop(stop, Reason::NodeLost);
        }
        tokio::time::sleep(APART).await;
    }
    Ok(stops.len())
}
