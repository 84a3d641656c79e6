//! Waiting between tries while the database is away, and what is worth a try.

pub(super) use crate::jobs::Backoff;
use crate::store::StoreError;

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
