//! The store's health, and its shutdown.

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::nodes;
use crate::store::{Health, Result, StoreError};

#[async_trait]
impl Health for Backend {
    async fn check(&self) -> Result<()> {
        if let Some(reason) = self.writer.failure().borrow().as_ref() {
            return Err(StoreError::Unavailable(format!(
                "a commit failed ({reason}); restart the service"
            )));
        }
        if !self.writer.is_running() {
            return Err(StoreError::Unavailable("the database is closed".to_owned()));
        }
        self.writer.check_progress()?;
        self.check_database().await
    }

    async fn has_room(&self) -> bool {
        self.check_space().is_ok()
    }

    async fn close(&self) {
        let node = self.node;
        let stopped: Result<()> = run!(self.write_tx, |conn, now| nodes::stopped(conn, now, node));
        if let Err(error) = stopped {
            tracing::warn!(%error, "failed to record that this node stopped");
        }
        self.shut_down().await;
    }
}
