//! The store's health, and its shutdown.

use async_trait::async_trait;

use super::Result;

/// Operations on the store as a whole.
#[async_trait]
pub trait Health: Send + Sync + 'static {
    /// Checks that the database can be read and written. The error says why not.
    async fn check(&self) -> Result<()>;
    /// Whether the disk has room to publish. Receipts and retention need less, and still work when
    /// this is false.
    async fn has_room(&self) -> bool;
    /// Finishes the writes that are queued and closes the database. Later calls fail.
    async fn close(&self);
}
