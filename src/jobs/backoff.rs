//! Waiting between tries: at random, so that a thousand waiting tasks don't try
//! at the same moment, and longer each time.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The pauses of consecutive failures.
#[derive(Debug)]
pub struct Backoff {
    ceiling: Duration,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    /// With pauses of at most `longest`.
    pub fn up_to(longest: Duration) -> Self {
        Self { ceiling: SHORTEST.min(longest), longest }
    }

    /// How long to wait now: between the shortest pause and a ceiling that
    /// doubles with each failure.
    #[allow(clippy::should_implement_trait, reason = "it is no iterator: it never ends")]
    pub fn next(&mut self) -> Duration {
        let shortest = SHORTEST.min(self.longest);
        let pause = shortest + self.ceiling.saturating_sub(shortest).mul_f64(fastrand::f64());
        self.ceiling = (self.ceiling * 2).min(self.longest);
        pause
    }

    /// After a success: the next failure is a first one.
    pub fn reset(&mut self) {
        *self = Self::up_to(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), SHORTEST);
        for _ in 0..100 {
            assert!((SHORTEST..=LONGEST).contains(&backoff.next()));
        }
        backoff.reset();
        assert_eq!(backoff.next(), SHORTEST);
    }
}
