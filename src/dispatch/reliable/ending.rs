//! Ends a lane of reliable mode: closes its transport, receives the peer's last messages, and records
//! what is unconfirmed.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Lane, Outcome, State};
use crate::clock::millis;
use crate::event::{Reason, Sequence};
use crate::metric;
use crate::transport::{Control, Ended, Incoming};

/// The timeout of closing a transport, which has shorter timeouts of its own.
const CLOSE: Duration = Duration::from_secs(5);

impl Lane {
    /// Closes the transport, and receives what the peer still sends.
    pub(super) async fn close(
        &mut self,
        state: &mut State,
        control: Control,
        reason: Reason,
    ) -> Outcome {
        let by = Instant::now() + CLOSE;
        // A violation explains itself; what the peer sends after it does not count.
        let (detail, is_violation) = match &control {
            Control::Violation(violation) => (violation.to_string(), true),
            _ => (String::new(), false),
        };
        // Probes may fill the channel until the transport takes them.
        let _ = timeout_at(by, self.link.control.send(control)).await;
        loop {
            match timeout_at(by, self.link.incoming.recv()).await {
                Ok(Some(Incoming::Ended(ended))) => {
                    let Ended { detail: more, by_peer, .. } = *ended;
                    state.silence.disconnected(by_peer);
                    let detail = if detail.is_empty() { more } else { detail };
                    return Outcome { reason, detail };
                }
                Ok(Some(Incoming::Unsent(first))) => self.withdraw(state, first),
                Ok(Some(_)) if is_violation => {}
                Ok(Some(incoming)) => {
                    // The connection ends anyway.
                    let _ = self.receive(state, incoming);
                }
                Ok(None) => return Outcome::new(reason, "the transport ended without a report"),
                Err(_) => return Outcome::new(reason, "the transport did not end in time"),
            }
        }
    }

    /// Events from `first` on were not sent, so that their attempts don't count.
    pub(super) fn withdraw(&mut self, state: &mut State, first: Sequence) {
        self.window.withdraw(first);
        state.in_flight.remove_from(first);
    }

    pub(super) async fn finish(mut self: Box<Self>, state: State, outcome: Outcome) {
        let Outcome { reason, detail } = outcome;
        drop((self.registration, self.permit, self.link));
        metrics::counter!(metric::CONNECTIONS_CLOSED, "reason" => reason.as_str()).increment(1);
        let alive_at = state.silence.alive_at();
        tracing::info!(
            gateway = %self.info.gateway_id,
            connection = %self.info.connection,
            instance = &*self.info.instance,
            %reason,
            detail,
            duration_ms = millis(state.opened_at.elapsed()),
            confirmed = self.window.position().0,
            "disconnected"
        );
        for event in state.in_flight.unconfirmed() {
            self.outcomes.name(event);
        }
        let closing = self.window.close(reason, self.timing.give_up);
        self.outcomes.closed(reason, detail, closing, Some(alive_at));
        self.outcomes.hand_in_all(&self.recorder).await;
    }
}
