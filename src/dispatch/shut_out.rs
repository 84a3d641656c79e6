//! Closes the sockets of those whom another node was told to shut out. The node
//! that was told closes its own at once, and needs none of this.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Dispatcher;
use crate::event::Reason;
use crate::store::ShutOut;

/// A key that was revoked must not serve for longer than a second.
const LOOK: Duration = Duration::from_millis(500);

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
