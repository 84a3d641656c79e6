//! Whether the store works, and its end.

use async_trait::async_trait;

use super::Result;

/// The store's own state.
#[async_trait]
pub trait Health: Send + Sync + 'static {
    /// Checks that the database can be read and written; the error says why not.
    async fn check(&self) -> Result<()>;
    /// Whether the disk has room to publish. Receipts and retention need less, so a store
    /// without room still works.
    async fn has_room(&self) -> bool;
    /// Finishes the writes that are queued and closes the database. Later calls fail.
    async fn close(&self);
}
