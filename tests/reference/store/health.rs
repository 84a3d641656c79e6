//! Whether the store can be used, and closing it.

use async_trait::async_trait;
use gateway_events::store::{Health, Result};

use super::MemoryStore;

#[async_trait]
impl Health for MemoryStore {
    async fn check(&self) -> Result<()> {
        self.read(|_| Ok(())).await
    }

    async fn has_room(&self) -> bool {
        self.check_space().is_ok()
    }

    async fn close(&self) {
        if !self.closed.is_cancelled() {
            self.database.tables().node_stopped((self.database.0.clock)(), self.node);
            self.database.nodes().remove(&self.node);
            self.closed.cancel();
        }
    }
}
