//! Ends a lane: closes its transport, receives the peer's last messages, and records what is
//! unconfirmed.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::super::outcomes::Outcomes;
use super::super::reports::Reports;
use super::super::window::Window;
use super::receipts::reported;
use super::{Lane, Outcome, State};
use crate::clock::millis;
use crate::event::Reason;
use crate::metric;
use crate::transport::{Control, Ended, Incoming};

/// The timeout of closing a transport, which has shorter timeouts of its own.
const CLOSE: Duration = Duration::from_secs(5);
/// The timeout of matching reports that arrived just before the end. The transaction that records
/// the others looks up their events.
const LAST_REPORTS: Duration = Duration::from_secs(2);

impl Lane {
    /// Closes the transport, and receives what the peer still sends.
    pub(super) async fn close(&mut self, state: &mut State, reason: Reason) -> Outcome {
        let by = Instant::now() + CLOSE;
        // Probes may fill the channel until the transport takes them.
        let _ = timeout_at(by, self.link.control.send(Control::Close(reason))).await;
        let detail = loop {
            match timeout_at(by, self.link.incoming.recv()).await {
                Ok(Some(Incoming::Ended(ended))) => {
                    let Ended { detail, by_peer, shared, .. } = *ended;
                    state.silence.disconnected(by_peer);
                    return Outcome { reason, detail, shared: Some(shared) };
                }
                Ok(Some(incoming)) => self.receive(state, incoming),
                Ok(None) => break "the transport ended without a report",
                Err(_) => break "the transport did not end in time",
            }
        };
        Outcome { reason, detail: detail.to_owned(), shared: None }
    }

    pub(super) async fn finish(mut self: Box<Self>, mut state: State, outcome: Outcome) {
        let Outcome { reason, detail, shared } = outcome;
        drop((self.registration, self.permit, self.link));
        metrics::counter!(metric::CONNECTIONS_CLOSED, "reason" => reason.as_str()).increment(1);
        let alive_at = state.silence.alive_at();
        tracing::info!(
            gateway = %self.info.gateway_id,
            connection = %self.info.connection,
            %reason,
            detail,
            duration_ms = millis(state.opened_at.elapsed()),
            confirmed = self.window.position().0,
            "disconnected"
        );
        let last_reports = async {
            while !self.reports.is_empty() {
                let Some(matched) = self.reports.next().await else { continue };
                let (window, outcomes) = (&mut self.window, &mut self.outcomes);
                // Invalid ones among the last are not logged.
                let _ = reported(window, &mut self.reports, outcomes, &mut state, &matched);
                if let Some(range) = window.pass_settled() {
                    outcomes.skipped(range, Reason::Skipped);
                }
            }
        };
        if timeout(LAST_REPORTS, last_reports).await.is_err() {
            tracing::warn!(
                connection = %self.info.connection,
                count = self.reports.len(),
                "timed out matching the last reports; they are matched when they are recorded"
            );
        }
        leave_unmatched(&self.window, &mut self.reports, &mut self.outcomes);
        for event in state.in_flight.unconfirmed() {
            self.outcomes.name(event);
        }
        let closing = self.window.close(reason, shared.as_deref(), self.timing.give_up);
        self.outcomes.closed(reason, detail, closing, Some(alive_at));
        self.outcomes.hand_in_all(&self.recorder).await;
    }
}

/// Leaves the reports that are not matched yet to the recorder.
pub(super) fn leave_unmatched(window: &Window, reports: &mut Reports, outcomes: &mut Outcomes) {
    for unmatched in reports.take_unmatched() {
        outcomes.unmatched(unmatched, window.sent());
    }
}
