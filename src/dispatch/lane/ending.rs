//! How a lane ends: it tells its transport, takes what the peer still says, and
//! puts on record what was left unconfirmed.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::receipts::reported;
use super::{Lane, State};
use crate::clock::{Timestamp, millis};
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
                Ok(Some(Incoming::Ended { detail, by_peer, .. })) => {
                    self.note_end(state, by_peer);
                    return (reason, detail.into());
                }
                Ok(Some(incoming)) => self.hear(state, incoming),
                Ok(None) => return (reason, "the transport is gone".to_owned()),
                Err(_) => return (reason, "the transport did not end in time".to_owned()),
            }
        }
    }

    /// An end that the peer's host sent is a sign of life, unless the peer had left
    /// a ping unanswered: then its host may speak for a process that is gone.
    pub(super) fn note_end(&self, state: &mut State, by_peer: bool) {
        let is_silent = state.pinged_at.is_some_and(|at| at > state.alive_at);
        if by_peer && !(is_silent && self.window.is_idle()) {
            state.alive_at = Instant::now();
        }
    }

    pub(super) async fn finish(
        mut self: Box<Self>,
        mut state: State,
        reason: Reason,
        detail: String,
    ) {
        drop((self.registration, self.permit, self.link));
        let alive_at = Timestamp::now().minus(state.alive_at.elapsed());
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
                let (window, outcomes) = (&mut self.window, &mut self.outcomes);
                // What is odd about the last ones is not worth a line.
                let _ = reported(window, &mut self.reports, outcomes, &mut state, &matched);
            }
        };
        if timeout(LAST_REPORTS, last_reports).await.is_err() {
            tracing::warn!(connection = %self.whose.connection, "reports that came last were not matched");
        }
        for event in state.in_flight.unconfirmed() {
            self.outcomes.name(event);
        }
        let closing = self.window.close(reason, self.timing.patience);
        self.outcomes.closed(reason, detail, closing, Some(alive_at));
        self.outcomes.hand_in_all(&self.recorder).await;
    }
}
