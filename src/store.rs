//! Everything that outlives the process: the logs of gateways, the ledger of delivery attempts,
//! and what is registered. The only module that uses sqlx.
//!
//! There is one trait per entity, in a file with its types, and [`Store`] is all of them. An
//! operation is one transaction: when it returns `Ok`, its changes are on disk.
//!
//! Both databases implement the traits with the same code. `sql` contains it, and is compiled
//! once for each database; its `dialect.rs` lists what a database words differently, and says
//! why. `sqlite` and `postgres` contain these statements, in files of the same names, and how
//! the database is opened and connected to.

use std::time::Duration;

mod away;
mod browse;
mod connections;
mod credentials;
pub mod deployments;
mod errors;
mod event_types;
mod gateways;
mod health;
mod inbox;
mod instants;
mod ledger;
pub mod limits;
mod log;
mod maintenance;
mod missed;
mod nodes;
mod open;
pub mod positions;
#[cfg(feature = "postgres")]
pub mod postgres;
mod principals;
pub mod ranges;
pub mod receipts;
mod refusals;
pub mod repeats;
mod schema;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "postgres")]
mod sqlstate;
mod trimming;
mod verdict;

pub use away::*;
pub use browse::*;
pub use connections::*;
pub use credentials::*;
pub use deployments::{DeploymentKey, DeploymentMatch};
pub use event_types::*;
pub use gateways::*;
pub use health::*;
pub use inbox::*;
pub use ledger::*;
pub use log::*;
pub use maintenance::*;
pub use missed::*;
pub use nodes::*;
pub use open::{Open, OpenError, Options, Queue};
pub use principals::*;
pub use refusals::*;
pub use schema::SchemaError;
pub use trimming::*;
pub use verdict::*;

#[cfg(feature = "sqlite")]
use errors::sqlite_code;
pub use errors::storable;

/// What a store answers when it can't do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, locked for too long, or its queue is full: try again later.
    #[error("the database can't take this now: {0}")]
    Unavailable(String),
    /// The same, and the connection to the database is not to be used any more: it broke, or
    /// its server takes no writes.
    #[error("the connection to the database is lost: {0}")]
    ConnectionLost(String),
    /// The disk reads or writes no more as it should.
    #[error("the database's disk fails: {0}")]
    Disk(String),
    /// The commit failed: whether it happened is unknown; a retry with the same keys is safe.
    #[error(
        "the commit's outcome is unknown ({0}); retry with the same event id or Idempotency-Key"
    )]
    Unknown(String),
    /// Free space fell below the watermark: nothing more is published, receipts still work.
    #[error("the disk is nearly full; publishing is refused until space is freed")]
    StorageFull,
    /// A question took too long, and was ended so that others are not kept waiting.
    #[error("the answer would take longer than {} ms", .0.as_millis())]
    TooLong(Duration),
    /// A name is taken, or a limit (two live tokens) is reached.
    #[error("{0}")]
    Conflict(String),
    /// What was named does not exist in this organisation.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The schema was changed while this node ran, and is none that it can use.
    #[error("the database's schema changed: {0}")]
    SchemaChanged(String),
    /// The database holds something that this version can't read.
    #[error("the database is damaged or of another version: {0}")]
    Corrupt(String),
}

/// A store's answer.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// All operations. Each is one transaction, and completes even if its caller stops waiting. A
/// caller names the part that it needs: an `Arc<dyn Store>` coerces to an `Arc<dyn Gateways>`.
pub trait Store:
    Health
    + Credentials
    + Gateways
    + EventTypes
    + Log
    + Connections
    + Ledger
    + Inbox
    + Nodes
    + Maintenance
{
}

impl<S> Store for S where
    S: Health
        + Credentials
        + Gateways
        + EventTypes
        + Log
        + Connections
        + Ledger
        + Inbox
        + Nodes
        + Maintenance
{
}
