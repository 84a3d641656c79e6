//! The limit on connections.

use tokio::sync::OwnedSemaphorePermit;

/// The right to one connection to this node. Released when it is dropped.
#[derive(Debug)]
pub struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Permit {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit }
    }
}
