//! How long to wait after a connect that failed: about `first`, doubling up
//! to `most`, spread by a quarter so that a fleet doesn't come back at once.

use std::time::Duration;

/// The bounds of the waiting times; made only with sane ones.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(2), most: Duration::from_mins(5) }
    }
}

impl Backoff {
    /// Waits that begin at about `first` and never pass `most` by more than
    /// a quarter. A `most` below `first` is raised to it.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most: most.max(first) }
    }

    /// The wait after the `failures`-th failure in a row, counted from 1;
    /// `chance` lies in `0.0..1.0`.
    pub fn wait(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.most);
        wait.mul_f64(0.75 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most() {
        let backoff = Backoff::default();
        let waits: Vec<_> = [1, 2, 3, 8, 9, u32::MAX]
            .map(|failures| backoff.wait(failures, 0.5).as_secs())
            .to_vec();
        assert_eq!(waits, [2, 4, 8, 256, 300, 300]);
    }

    #[test]
    fn waits_are_spread_by_a_quarter_each_way() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(1, 0.0), Duration::from_millis(1500));
        assert_eq!(backoff.wait(1, 1.0), Duration::from_millis(2500));
    }
}
