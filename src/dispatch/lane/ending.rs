//! How a lane ends: it tells its transport, takes what the peer still says, and
//! puts on record what was left unconfirmed.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{Lane, State};
use crate::clock::millis;
use crate::event::Reason;
use crate::socket::{Control, Incoming};

/// For the transport to end after it was told to; longer than it takes.
const GOODBYE: Duration = Duration::from_secs(5);
/// For reports that came just before the end.
const LAST_REPORTS: Duration = Duration::from_secs(2);

impl Lane {
    /// Tells the transport, and takes what the peer still says.
    pub(super) async fn say_goodbye(
        &mut self,
        state: &mut State,
        reason: Reason,
    ) -> (Reason, String) {
        let by = Instant::now() + GOODBYE;
        // Pings may fill the channel; the transport takes them in between.
        let _ = timeout_at(by, self.link.control.send(Control::Close(reason))).await;
        loop {
            match timeout_at(by, self.link.incoming.recv()).await {
                Ok(Some(Incoming::Ended { detail, .. })) => return (reason, detail.into()),
                Ok(Some(incoming)) => self.hear(state, incoming),
                Ok(None) => return (reason, "the transport is gone".to_owned()),
                Err(_) => return (reason, "the transport did not end in time".to_owned()),
            }
        }
    }

    pub(super) async fn finish(mut self: Box<Self>, state: State, reason: Reason, detail: String) {
        drop((self.registration, self.permit, self.link));
        tracing::info!(
            gateway = %self.whose.gateway_id,
            connection = %self.whose.connection,
            %reason,
            detail,
            duration_ms = millis(state.opened_at.elapsed()),
            confirmed = self.window.position().0,
            "disconnected"
        );
        let last_reports = async {
            while !self.reports.is_empty() {
                let matched = self.reports.next().await;
                if let Some(sequence) = matched.sequence {
                    let event = state.in_flight.named(sequence);
                    self.outcomes.reported(sequence, matched.result(), event);
                }
            }
        };
        if timeout(LAST_REPORTS, last_reports).await.is_err() {
            tracing::warn!(connection = %self.whose.connection, "reports that came last were not matched");
        }
        for event in state.in_flight.unconfirmed() {
            self.outcomes.name(event);
        }
        let closing = self.window.close(reason, self.timing.patience);
        self.outcomes.closed(reason, detail, closing.unconfirmed, closing.give_up);
        self.outcomes.hand_in_all(&self.recorder).await;
    }
}
