//! The positions of gateways and of their connections.

use std::borrow::Cow;

use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::Result;
use crate::store::positions::Change;

/// The table `cursors`: the positions of gateways and of their connections. They only move forward.
pub(crate) trait CursorStatements {
    /// Adds what becomes delivered when these gateways' positions move to the streams' totals.
    async fn count_confirmed(&mut self, gateways: &[Raised<'_>], longest_range: i64) -> Result<()>;
    /// Raises positions, up to the heads of their streams; returns how many exist.
    async fn raise_cursors(&mut self, raised: &[Raised<'_>]) -> Result<u64>;
    /// Inserts positions; keeps those that exist.
    async fn insert_cursors(&mut self, raised: &[Raised<'_>]) -> Result<()>;
    /// Deletes positions of unnamed connections.
    async fn delete_cursors(&mut self, gateway: GatewayKey, instances: &[String]) -> Result<()>;
    /// Changes instants of positions of unnamed connections.
    async fn change_cursors(&mut self, gateway: GatewayKey, changes: &[Change]) -> Result<()>;
}

/// The new position of a gateway or connection, with the name under which it is stored.
#[derive(Clone)]
pub(crate) struct Raised<'a> {
    pub(crate) gateway: GatewayKey,
    pub(crate) instance: Cow<'a, str>,
    pub(crate) to: Sequence,
    /// The last receipt or, of a connection's own position, the last activity; the Unix epoch if there
    /// was none.
    pub(crate) at: Timestamp,
}
