//! The positions of gateways and of their connections.

use std::borrow::Cow;

use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::positions::Change;
use crate::store::{Range, Result};

/// The table `cursors`: the positions of gateways and of their connections. They only move forward.
pub(crate) trait CursorStatements {
    /// Adds what becomes delivered when these gateways' positions move to the streams' totals.
    async fn count_confirmed(&mut self, gateways: &[Raised<'_>], longest_range: i64) -> Result<()>;
    /// Raises positions, up to the heads of their streams; returns how many exist. If all instances
    /// of a gateway must confirm, its own position rises no further than that of the last one; the
    /// same holds for the other statements here.
    async fn raise_cursors(&mut self, raised: &[Raised<'_>]) -> Result<u64>;
    /// Raises cursors of instances, up to the heads of their streams.
    async fn raise_instances(&mut self, raised: &[RaisedInstance<'_>]) -> Result<()>;
    /// Raises what gateways and unnamed connections have applied, up to the heads of their streams.
    async fn raise_applied(&mut self, raised: &[Raised<'_>]) -> Result<()>;
    /// Ends the failing of gateways that acknowledged an event of the type that failed last, at or
    /// after that failure; or any event after it, if that type is not on record any more.
    async fn end_failing(&mut self, acknowledged: &[(GatewayKey, Range)]) -> Result<()>;
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

/// How far the cursor of an instance rises; zero where it does not.
#[derive(Clone, Copy)]
pub(crate) struct RaisedInstance<'a> {
    pub(crate) gateway: GatewayKey,
    pub(crate) instance: &'a str,
    /// What it has received.
    pub(crate) received: Sequence,
    /// What it has applied. It has received that, too.
    pub(crate) applied: Sequence,
    /// Its position, at whatever level it confirms by.
    pub(crate) position: Sequence,
    /// Its last activity; the Unix epoch if there was none.
    pub(crate) at: Timestamp,
}
