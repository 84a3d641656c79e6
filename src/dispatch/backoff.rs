//! Waiting between tries while the database is away: at random, so that a
//! thousand lanes don't knock all at once, and longer each time.

use std::time::Duration;

use crate::store::StoreError;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The waits of one row of failures.
#[derive(Debug)]
pub(super) struct Backoff {
    ceiling: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { ceiling: SHORTEST }
    }
}

impl Backoff {
    /// How long to wait now: between the shortest wait and a ceiling that
    /// doubles with each failure.
    pub(super) fn next(&mut self) -> Duration {
        let wait = SHORTEST + self.ceiling.saturating_sub(SHORTEST).mul_f64(fastrand::f64());
        self.ceiling = (self.ceiling * 2).min(LONGEST);
        wait
    }

    /// It went well: the next failure is a first one.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Whether trying again can help.
pub(super) const fn is_passing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable(_)
            | StoreError::ConnectionLost(_)
            | StoreError::Disk(_)
            | StoreError::Unknown(_)
            | StoreError::StorageFull
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_their_bounds() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), SHORTEST);
        for _ in 0..100 {
            assert!((SHORTEST..=LONGEST).contains(&backoff.next()));
        }
        backoff.reset();
        assert_eq!(backoff.next(), SHORTEST);
    }
}
