//! Decides which failures of the store are retried.

pub(super) use crate::backoff::Backoff;
use crate::store::StoreError;

/// Whether a retry of the operation may succeed.
pub(super) const fn is_passing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable(_)
            | StoreError::ConnectionLost(_)
            | StoreError::StatementFailed(_)
            | StoreError::Disk(_)
            | StoreError::Unknown(_)
            | StoreError::StorageFull
    )
}
