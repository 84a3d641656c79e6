//! The audit log: who changed what, when, from where, and what it was before.
//!
//! An operation that changes something on behalf of a principal takes an [`Actor`], and writes its
//! [`AuditEntry`]s in the transaction of the change: neither exists without the other. A call that
//! changes nothing writes none. Publishing is not audited, because the log is its record; neither
//! are gateways' own requests and background jobs, which have no principal.
//!
//! Entries name objects and contain what changed. They never contain a secret, a digest or a
//! payload, and their size is bounded. The records form a [chain] of hashes.

use std::net::IpAddr;

use async_trait::async_trait;

use super::{RequestKey, Result};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{Invalid, OrganisationKey, quoted};

pub mod chain;
pub mod entries;
mod facts;

pub use chain::{AuditHash, AuditHead};
pub use facts::{Fact, Facts};

use facts::bounded;

/// Queries of the audit log.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// Records of an organisation that match, newest first, after `after`.
    async fn audit(
        &self,
        organisation: OrganisationKey,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>>;
}

/// Who makes changes, and in which organisation.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The organisation whose objects it changes. An operation finds no others.
    pub organisation: OrganisationKey,
    /// Who makes the changes, and from where.
    pub principal: Principal,
    /// The `Idempotency-Key` of the request, for operations that keep their results under it.
    pub request_key: Option<RequestKey>,
}

impl Actor {
    /// Adds the `Idempotency-Key` of the request.
    #[must_use]
    pub fn with_request_key(self, request_key: Option<RequestKey>) -> Self {
        Self { request_key, ..self }
    }
}

/// Who makes a change, and from where. Texts are cut to their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The public part of an access token, or [`LOCAL`](Self::LOCAL).
    pub id: String,
    /// The access token's name, or the name of the operating system's user.
    pub name: String,
    /// The client's IP address, or the name of the host.
    pub source: String,
    /// The request's id; empty without a request.
    pub request_id: String,
}

impl Principal {
    /// The id of a principal that changes the database directly. No access token has it: their ids
    /// are longer.
    pub const LOCAL: &str = "local";

    /// An access token that is used in a request.
    pub fn access_token(
        id: &str,
        name: &str,
        address: Option<IpAddr>,
        request_id: Option<&str>,
    ) -> Self {
        let source = address.map(|address| address.to_string()).unwrap_or_default();
        Self::new(id, name, &source, request_id.unwrap_or_default())
    }

    /// A user of the operating system, who has access to the database.
    pub fn local(user: &str, host: &str) -> Self {
        Self::new(Self::LOCAL, user, host, "")
    }

    fn new(id: &str, name: &str, source: &str, request_id: &str) -> Self {
        Self {
            id: bounded(id),
            name: bounded(name),
            source: bounded(source),
            request_id: bounded(request_id),
        }
    }

    /// This principal, making changes in an organisation.
    pub const fn in_organisation(self, organisation: OrganisationKey) -> Actor {
        Actor { organisation, principal: self, request_key: None }
    }
}

/// What a change did to one object; recorded with its [`Actor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// What was done.
    pub action: AuditAction,
    /// The object that was changed.
    pub object: AuditObject,
    /// What it was before; only what changed.
    pub before: Facts,
    /// What it is now; only what changed.
    pub after: Facts,
}

/// The object of a change. Texts are cut to their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditObject {
    /// Its kind, such as `gateway`.
    pub kind: String,
    /// Its id in the API.
    pub id: String,
    /// Its name at that time. Of a gateway's key, the gateway's name.
    pub name: String,
}

impl AuditObject {
    fn new(kind: &str, id: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), id: bounded(id), name: bounded(name) }
    }
}

/// The result of an operation that changed something, with the entries to record before its
/// transaction ends.
#[derive(Debug)]
pub struct Audited<T> {
    /// What the operation returns.
    pub value: T,
    /// What it changed; empty if it changed nothing.
    pub entries: Vec<AuditEntry>,
}

impl<T> Audited<T> {
    /// A result with its entries.
    pub fn new(value: T, entries: impl IntoIterator<Item = AuditEntry>) -> Self {
        Self { value, entries: entries.into_iter().collect() }
    }
}

/// A stored record of the audit log: one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its sequence in the audit log, which all organisations share. The first record has 1.
    pub sequence: i64,
    /// The organisation.
    pub organisation: OrganisationKey,
    /// When it was recorded, by the database's clock.
    pub recorded_at: Timestamp,
    /// Who made the change.
    pub principal: Principal,
    /// What was done: the name of an [`AuditAction`], or one of a newer version.
    pub action: String,
    /// The object that was changed.
    pub object: AuditObject,
    /// What it was before: a JSON object, as it is stored.
    pub before: String,
    /// What it is since: a JSON object, as it is stored.
    pub after: String,
    /// Its hash, which covers the hash of the record before it.
    pub hash: AuditHash,
}

/// Which records to list.
#[derive(Clone, Debug)]
pub struct AuditFilter {
    /// When they were recorded.
    pub window: TimeWindow,
    /// What was done.
    pub action: Option<AuditAction>,
    /// The id or name of the principal that made them.
    pub principal: Option<String>,
    /// The id or name of the changed object.
    pub object: Option<String>,
}

/// Where a page of records ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor {
    /// When its last record was recorded.
    pub recorded_at: Timestamp,
    /// The sequence of its last record.
    pub sequence: i64,
}

impl AuditRecord {
    /// Where a page that ends with this record ends.
    pub const fn cursor(&self) -> AuditCursor {
        AuditCursor { recorded_at: self.recorded_at, sequence: self.sequence }
    }
}

macro_rules! audit_actions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What can be done. The names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AuditAction {
            $($(#[$doc])* $name,)*
        }

        impl AuditAction {
            /// All actions.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in the database, the API and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

audit_actions! {
    /// A gateway was registered.
    GatewayRegistered = "gateway.registered",
    /// A gateway's name, number of replicas or confirmation changed.
    GatewayChanged = "gateway.changed",
    /// A gateway's labels changed.
    GatewayLabelled = "gateway.labelled",
    /// A gateway was disabled.
    GatewayDisabled = "gateway.disabled",
    /// A gateway was enabled again.
    GatewayEnabled = "gateway.enabled",
    /// Delivery to a gateway was paused.
    GatewayPaused = "gateway.paused",
    /// Delivery to a gateway was resumed.
    GatewayResumed = "gateway.resumed",
    /// A resync of a gateway's instances was requested.
    ResyncRequested = "gateway.resync_requested",
    /// An instance of a gateway was forgotten.
    InstanceForgotten = "instance.forgotten",
    /// A gateway was deleted, and with it its keys.
    GatewayDeleted = "gateway.deleted",
    /// A gateway's key was created.
    GatewayTokenCreated = "gateway_token.created",
    /// A gateway's key was revoked.
    GatewayTokenRevoked = "gateway_token.revoked",
    /// An access token was created.
    AccessTokenCreated = "access_token.created",
    /// An admin access token was created directly in the database by `token recover`.
    AccessTokenRecovered = "access_token.recovered",
    /// An access token was revoked.
    AccessTokenRevoked = "access_token.revoked",
    /// An event type was registered.
    EventTypeRegistered = "event_type.registered",
    /// An event type's description or schema changed.
    EventTypeChanged = "event_type.changed",
    /// A registered event type was deleted.
    EventTypeDeleted = "event_type.deleted",
    /// Dead letters of a gateway were appended again.
    DeliveryRedriven = "delivery.redriven",
    /// Part of a gateway's log was appended again.
    GatewayReplayed = "gateway.replayed",
    /// An event was appended for more gateways.
    EventResent = "event.resent",
    /// A job that redrives or replays many deliveries was started.
    JobStarted = "job.started",
    /// A job ended by itself: it is done, or failed.
    JobEnded = "job.ended",
    /// A job was aborted.
    JobAborted = "job.aborted",
    /// A pending delivery was given up.
    DeliverySkipped = "delivery.skipped",
    /// All logs got new epochs, directly in the database, by `restore` or `epoch renew`.
    EpochsRenewed = "epochs.renewed",
    /// An event's payload was removed.
    EventPurged = "event.purged",
    /// A rejected row was edited, and stayed rejected.
    RejectedRowEdited = "rejected_row.edited",
    /// A rejected row was edited and published.
    RejectedRowPublished = "rejected_row.published",
    /// Rejected rows were put back into the inbox.
    RejectedRowRetried = "rejected_row.retried",
    /// A rejected row was deleted.
    RejectedRowDeleted = "rejected_row.deleted",
    /// An alert rule was created.
    AlertRuleCreated = "alert_rule.created",
    /// An alert rule was changed.
    AlertRuleChanged = "alert_rule.changed",
    /// An alert rule was deleted.
    AlertRuleDeleted = "alert_rule.deleted",
    /// An alert rule was silenced, or its silence was ended.
    AlertRuleSilenced = "alert_rule.silenced",
    /// A destination of alerts was created.
    AlertDestinationCreated = "alert_destination.created",
    /// A destination of alerts was changed.
    AlertDestinationChanged = "alert_destination.changed",
    /// A destination of alerts was deleted.
    AlertDestinationDeleted = "alert_destination.deleted",
    /// A destination of alerts was tested.
    AlertDestinationTested = "alert_destination.tested",
}

impl std::str::FromStr for AuditAction {
    type Err = Invalid;

    fn from_str(text: &str) -> std::result::Result<Self, Invalid> {
        Self::ALL.iter().copied().find(|action| action.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|action| action.as_str()).collect();
            Invalid(format!(
                "unknown action {}; expected one of {}",
                quoted(text),
                names.join(", ")
            ))
        })
    }
}
