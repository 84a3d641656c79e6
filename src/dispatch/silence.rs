//! How long a peer has been silent. Both kinds of lane probe a silent peer, and close its connection
//! at a deadline.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::final_ping::{Due, FinalPing};
use crate::clock::Timestamp;
use crate::transport::Control;

/// The shortest time between two records of activity.
const RECORD_INTERVAL: Duration = Duration::from_secs(10);

/// The last activity of a peer, and the probes since.
#[derive(Debug)]
pub(super) struct Silence {
    alive_at: Instant,
    recorded_at: Instant,
    probed_at: Option<Instant>,
    final_ping: FinalPing,
}

impl Silence {
    /// Begins now.
    pub(super) fn new(final_ping: FinalPing) -> Self {
        let now = Instant::now();
        Self { alive_at: now, recorded_at: now, probed_at: None, final_ping }
    }

    /// When the peer has been silent for this long.
    pub(super) fn reaches(&self, length: Duration) -> Instant {
        self.alive_at + length
    }

    /// Notes activity of the peer. Returns whether it is to be recorded.
    pub(super) fn note_activity(&mut self, now: Instant) -> bool {
        self.alive_at = now;
        let is_due = now.duration_since(self.recorded_at) >= RECORD_INTERVAL;
        if is_due {
            self.recorded_at = now;
        }
        is_due
    }

    /// Notes the end of the connection. One that came from the peer's host counts as activity, unless
    /// the peer left a probe unanswered: in that case its host may answer for a dead process.
    pub(super) fn disconnected(&mut self, by_peer: bool) {
        let is_silent = self.probed_at.is_some_and(|at| at > self.alive_at);
        if by_peer && !is_silent {
            self.alive_at = Instant::now();
        }
    }

    /// The time of the last activity.
    pub(super) fn alive_at(&self) -> Timestamp {
        Timestamp::now().minus(self.alive_at.elapsed())
    }

    /// Probes the peer.
    pub(super) fn probe(&mut self, control: &mpsc::Sender<Control>) {
        self.probed_at = Some(Instant::now());
        // Fails if the transport is behind with writing, which has its own deadline.
        let _ = control.try_send(Control::Probe);
    }

    /// When to check a deadline.
    pub(super) fn wakes_at(&self, deadline: Instant) -> Instant {
        self.final_ping.wakes_at(deadline)
    }

    /// Checks a deadline, after everything received so far was processed, and probes the peer shortly
    /// before it. Returns whether it was missed.
    pub(super) fn misses(&mut self, deadline: Instant, control: &mpsc::Sender<Control>) -> bool {
        match self.final_ping.due(deadline, Instant::now()) {
            Due::Wait => false,
            Due::Ping => {
                self.probe(control);
                false
            }
            Due::Close => true,
        }
    }
}

/// Ticks at which a peer is probed.
pub(super) fn probes(period: Duration) -> Interval {
    let mut probes = interval_at(Instant::now() + period, period);
    probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    probes
}
