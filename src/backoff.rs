//! Exponential backoff with jitter, for every retry in the service and its clients.

use std::time::Duration;

/// The pauses after consecutive failures: about `first`, doubling up to `max`. Each is
/// spread by a quarter either way, so that many clients don't retry at the same instant.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

/// From 100 ms to 5 s: for retries within the service, such as while the database is
/// unavailable.
impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

impl Backoff {
    /// Pauses between about `first` and about `max`. A `max` below `first` is raised to it.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max: max.max(first), failures: 0 }
    }

    /// Counts a failure and returns the pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.pause(self.failures, fastrand::f64())
    }

    /// Counts a failure and returns a random pause from zero to the one that would be the middle of
    /// [`next_pause`](Self::next_pause). It spreads many clients that lost their connections at the
    /// same instant best.
    pub fn next_full_jitter(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.without_jitter(self.failures).mul_f64(fastrand::f64())
    }

    /// Counts a success: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after a number of consecutive failures, from 1; `chance` is a random number
    /// from 0 to 1.
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        self.without_jitter(failures).mul_f64(0.75 + 0.5 * chance.clamp(0.0, 1.0))
    }

    /// The pause after a number of consecutive failures, from 1, without a random part.
    pub fn without_jitter(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { first: Duration::from_secs(2), max: Duration::from_mins(5), failures: 0 };

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let pauses =
            [1, 2, 3, 8, 9, u32::MAX].map(|failures| BACKOFF.pause(failures, 0.5).as_secs());
        assert_eq!(pauses, [2, 4, 8, 256, 300, 300]);
    }

    #[test]
    fn pauses_are_spread_by_a_quarter_either_way() {
        assert_eq!(BACKOFF.pause(1, 0.0), Duration::from_millis(1500));
        assert_eq!(BACKOFF.pause(1, 1.0), Duration::from_millis(2500));
    }

    #[test]
    fn full_jitter_stays_below_the_middle() {
        let mut backoff = BACKOFF;
        for limit in [2, 4, 8, 16] {
            assert!(backoff.next_full_jitter() <= Duration::from_secs(limit));
        }
    }

    #[test]
    fn a_success_starts_again_with_the_first_pause() {
        let mut backoff = BACKOFF;
        for _ in 0..10 {
            backoff.next_pause();
        }
        assert!(backoff.next_pause() >= Duration::from_secs(225));
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(2500));
    }
}
