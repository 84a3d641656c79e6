//! Everything that outlives the process: the logs of gateways, the ledger of delivery attempts,
//! and what is registered. The only module that uses sqlx.
//!
//! There is one trait per entity, in a file with its types, and [`Store`] is all of them. An
//! operation is one transaction: when it returns `Ok`, its changes are on disk.
//!
//! Both databases implement the traits with the same code, in `sql`, which is compiled once for
//! each database. Its `dialect.rs` lists the statements that differ between the databases, and why
//! they differ. `sqlite` and `postgres` contain these statements, in files of the same names, and
//! the code that opens the database and connects to it.

use std::time::Duration;

mod actions;
mod alerts;
pub mod audit;
mod browse;
mod bulk;
mod conflict;
mod connections;
mod console_sessions;
mod credentials;
mod delivery_filter;
pub mod deployments;
pub mod diagnosis;
mod errors;
mod event_types;
pub mod expiry_mark;
mod feed;
pub mod filtered;
mod fleet;
mod gateways;
mod health;
mod high_water;
pub mod idempotency;
mod inbox;
pub mod instances;
mod instants;
mod ledger;
pub mod limits;
mod log;
mod maintenance;
mod nodes;
mod open;
pub mod positions;
#[cfg(feature = "postgres")]
pub mod postgres;
mod principals;
pub mod ranges;
pub mod receipts;
mod refusals;
mod request_keys;
mod restore;
mod resync;
pub mod rollout;
mod schema;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "postgres")]
mod sqlstate;
mod statement_failures;
mod summary;
pub mod supersession;
mod timed_key;
mod trimming;
mod undelivered;
mod verdict;

pub use actions::*;
pub use alerts::*;
pub use audit::{
    Actor, Audit, AuditAction, AuditCursor, AuditEntry, AuditFilter, AuditHash, AuditHead,
    AuditObject, AuditRecord, Audited, Principal,
};
pub use browse::*;
pub use bulk::*;
pub use conflict::*;
pub use connections::*;
pub use console_sessions::*;
pub use credentials::*;
pub use delivery_filter::DeliveryFilter;
pub use deployments::{DeploymentKey, DeploymentMatch};
pub use diagnosis::{
    Diagnosis, EventEvidence, FailureDetail, GatewayEvidence, GatewayHistory, GatewayState,
    GatewayThen, LabelTarget, NamedByRow, PendingDelivery, ReasonTally, TruncatedList,
};
pub use event_types::*;
pub use expiry_mark::ExpiryMark;
pub use feed::*;
pub use fleet::*;
pub use gateways::*;
pub use health::*;
pub use high_water::*;
pub use inbox::*;
pub use instances::{
    Confirmation, EarlierNacks, ExpiredInstance, Gap, GapReason, InstanceConnection, InstanceInfo,
    InstanceList, Instances, LISTED_EXPIRED, Level, LogState, MAX_INSTANCES, MAX_NACK_DETAIL_BYTES,
    OpenInstance, OpenedInstance, ReplacedConnection, ResumeFrom,
};
pub use ledger::*;
pub use log::*;
pub use maintenance::*;
pub use nodes::*;
pub use open::{Open, OpenError, Options, Queue};
pub use principals::*;
pub use refusals::*;
pub use request_keys::*;
pub use restore::*;
pub use resync::*;
pub use rollout::{
    EventState, EventVerdict, Rollout, RolloutEvent, RolloutOf, RolloutTarget, TargetState,
};
pub use schema::SchemaError;
pub use statement_failures::StatementFailures;
pub use summary::*;
pub use timed_key::TimedKey;
pub use trimming::*;
pub use undelivered::*;
pub use verdict::*;

#[cfg(feature = "sqlite")]
use errors::sqlite_code;
pub use errors::storable;

/// Why a store operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is unreachable, locked for too long, or its queue is full. Retrying later may
    /// succeed.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// As `Unavailable`, and the database connection must not be reused: it broke, or its server is
    /// read-only.
    #[error("the database connection was lost: {0}")]
    ConnectionLost(String),
    /// A statement failed, and the error is not known to pass. A retry succeeds if the cause
    /// lies in the database, such as a missing privilege, and fails again if it lies in the
    /// values: see [`StatementFailures`].
    #[error("a statement failed: {0}")]
    StatementFailed(String),
    /// The disk returns I/O errors.
    #[error("the database's disk failed: {0}")]
    Disk(String),
    /// The commit failed, and whether it took effect is unknown. A retry with the same keys is
    /// safe.
    #[error(
        "the commit's outcome is unknown ({0}); retry with the same event id or Idempotency-Key"
    )]
    Unknown(String),
    /// Free space is below the watermark. Publishing is refused; receipts still work.
    #[error("the disk is nearly full; publishing is refused until space is freed")]
    StorageFull,
    /// A query exceeded its timeout and was cancelled, so that others are not kept waiting.
    #[error("the query took longer than {} ms", .0.as_millis())]
    TooLong(Duration),
    /// A name is taken, or a limit (two live gateway tokens, 64 labels) is reached.
    #[error("{0}")]
    Conflict(Conflict),
    /// The named object does not exist in this organisation.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The schema was changed while this node ran, and this version can't use it.
    #[error("the database's schema changed: {0}")]
    SchemaChanged(String),
    /// The database contains a value that this version can't read.
    #[error("the database is damaged or was written by another version: {0}")]
    Corrupt(String),
}

/// The result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// All operations. Each is one transaction, and completes even if its caller stops waiting. A
/// caller takes only the part that it needs: an `Arc<dyn Store>` coerces to an `Arc<dyn Gateways>`.
pub trait Store:
    Health
    + Actions
    + Alerts
    + Audit
    + ConsoleSessions
    + Credentials
    + Gateways
    + EventTypes
    + Log
    + Feed
    + Connections
    + Instances
    + Diagnosis
    + Ledger
    + Bulk
    + Inbox
    + Nodes
    + Maintenance
{
}

impl<S> Store for S where
    S: Health
        + Actions
        + Alerts
        + Audit
        + ConsoleSessions
        + Credentials
        + Gateways
        + EventTypes
        + Log
        + Feed
        + Connections
        + Instances
        + Diagnosis
        + Ledger
        + Bulk
        + Inbox
        + Nodes
        + Maintenance
{
}
