//! When a deadline counts as missed. A process that was stopped, or starved of CPU time, resumes
//! with all its deadlines in the past, and only then reads what its peers sent meanwhile. So a lane
//! pings its peer shortly before a deadline, and closes the connection only if that ping stays
//! unanswered while the process runs. Makes decisions only: no clock, no I/O.

use std::time::Duration;

use tokio::time::Instant;

/// How long before a deadline the peer is pinged, unless the deadline is short.
const MAX_LEAD: Duration = Duration::from_secs(1);

/// What a lane does about a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing: the deadline has moved.
    Wait,
    /// Ping the peer and wait until [`FinalPing::wakes_at`].
    Ping,
    /// Close the connection.
    Close,
}

/// The last ping before one deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinalPing {
    lead: Duration,
    /// How long to wait for the answer if this process did not run for a while.
    answer_timeout: Duration,
    /// The deadline that the peer was pinged for, and when it counts as missed.
    pinged: Option<(Instant, Instant)>,
}

impl FinalPing {
    /// For deadlines that are at least `shortest` away.
    pub(super) fn new(shortest: Duration, answer_timeout: Duration) -> Self {
        Self { lead: MAX_LEAD.min(shortest / 4), answer_timeout, pinged: None }
    }

    /// When the lane must check this deadline next.
    pub(super) fn wakes_at(&self, deadline: Instant) -> Instant {
        match self.pinged {
            Some((pinged_for, until)) if pinged_for == deadline => until,
            _ => deadline.checked_sub(self.lead).unwrap_or(deadline),
        }
    }

    /// What to do about the deadline at `now`, after everything received so far was processed.
    pub(super) fn due(&mut self, deadline: Instant, now: Instant) -> Due {
        let wakes_at = self.wakes_at(deadline);
        if now < wakes_at {
            return Due::Wait;
        }
        let until = if now.duration_since(wakes_at) > self.lead {
            // The process hardly ran, so the peer could not be pinged.
            now + self.answer_timeout
        } else if self.pinged.is_some_and(|(pinged_for, _)| pinged_for == deadline) {
            return Due::Close;
        } else {
            deadline.max(now + self.lead)
        };
        self.pinged = Some((deadline, until));
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(25);
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

    #[test]
    fn a_silent_peer_is_pinged_once_and_closed_at_its_deadline() {
        let mut final_ping = FinalPing::new(TIMEOUT, ANSWER_TIMEOUT);
        let deadline = Instant::now() + TIMEOUT;
        let first = final_ping.wakes_at(deadline);
        assert_eq!(first, deadline - MAX_LEAD);
        assert_eq!(final_ping.due(deadline, first), Due::Ping);
        assert_eq!(final_ping.wakes_at(deadline), deadline);
        assert_eq!(final_ping.due(deadline, deadline), Due::Close);
    }

    proptest! {
        /// Even if the process was stopped, and checks its deadlines before it reads, a peer that
        /// answers pings is never closed, and a silent one is closed once the process runs again.
        #[test]
        fn only_a_peer_that_leaves_a_ping_unanswered_is_closed(
            stalls in proptest::collection::vec((0_u64..30_000, 1_u64..90_000), 1..8),
            is_silent: bool,
        ) {
            const ANSWER: Duration = Duration::from_millis(5);
            let begin = Instant::now();
            let (mut now, mut alive_at, mut answer_at) = (begin, begin, None);
            let mut final_ping = FinalPing::new(TIMEOUT, ANSWER_TIMEOUT);
            let mut stops = Vec::new();
            let mut stopped = begin;
            for (runs, stall) in stalls {
                let stops_at = stopped + Duration::from_millis(runs);
                stopped = stops_at + Duration::from_millis(stall);
                stops.push((stops_at, stopped));
            }
            loop {
                let wakes_at = final_ping.wakes_at(alive_at + TIMEOUT);
                now = now.max(answer_at.map_or(wakes_at, |at: Instant| at.min(wakes_at)));
                if let Some((_, ends_at)) = stops.iter().find(|(from, to)| (*from..*to).contains(&now)) {
                    now = *ends_at;
                }
                if wakes_at <= now {
                    match final_ping.due(alive_at + TIMEOUT, now) {
                        Due::Close => {
                            prop_assert!(is_silent, "a living peer was closed");
                            break;
                        }
                        Due::Ping if !is_silent => {
                            answer_at.get_or_insert(now + ANSWER);
                        }
                        Due::Ping | Due::Wait => {}
                    }
                }
                if answer_at.take_if(|at| *at <= now).is_some() {
                    alive_at = now;
                    if now > stopped {
                        break;
                    }
                }
                prop_assert!(now < stopped + 3 * TIMEOUT, "a silent peer was never closed");
            }
        }
    }
}
