//! The job that counts published events per minute.

use std::sync::Arc;

use crate::jobs::{Job, Next};
use crate::store::{Store, StoreError};

/// Counts the next minutes that have ended.
pub(super) struct CountEvents(pub(super) Arc<dyn Store>);

impl Job for CountEvents {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next, StoreError> {
        Ok(if self.0.count_published().await? { Next::Again } else { Next::Wait })
    }
}
