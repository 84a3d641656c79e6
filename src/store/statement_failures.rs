//! When to stop repeating work whose statements fail.

use super::{Health, StoreError};

/// Failures in a row after which the work itself is the cause; with the first pauses of a
/// [`Backoff`](crate::backoff::Backoff) about three seconds.
const FAILURES_IN_A_ROW: u32 = 6;

/// Counts how often statements of the same work failed in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatementFailures(u32);

impl StatementFailures {
    /// Counts an error. Returns true if the work itself is its cause: a statement failed for
    /// the sixth time in a row, or more often, while the store is healthy otherwise.
    pub async fn lie_in_the_work<S: Health + ?Sized>(
        &mut self,
        error: &StoreError,
        store: &S,
    ) -> bool {
        if !matches!(error, StoreError::StatementFailed(_)) {
            self.reset();
            return false;
        }
        self.0 = self.0.saturating_add(1);
        self.0 >= FAILURES_IN_A_ROW && store.check().await.is_ok()
    }

    /// The work is done: what follows is other work.
    pub const fn reset(&mut self) {
        self.0 = 0;
    }
}
