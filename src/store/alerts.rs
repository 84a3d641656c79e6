//! Alerts: rules, what they found, and the outbox of notifications about them. The store keeps
//! definitions, findings and messages as JSON texts, which the module `alerts` reads and writes.
//!
//! One node at a time evaluates rules. It acquires a [lease](Alerts::acquire_evaluation_lease), and
//! its changes are refused once another node has acquired one. A notification is stored in the transaction
//! that changes its alert. Any node sends it: it [claims](Alerts::claim_notifications) the
//! notification for longer than a sending may take, so that no other node sends it meanwhile, and
//! records each attempt before it begins.
//!
//! An alert that fires and is resolved again and again does not fill the outbox of a destination that
//! accepts nothing. When it is resolved, and the notification that it fires was not attempted because
//! earlier ones of the alert are pending, neither is sent: they are
//! [superseded](NotificationState::Superseded). So at most three notifications of an alert are pending
//! for a destination: the first firing and resolved ones, and the newest firing one. A refresh, which an
//! Alertmanager is sent while an alert fires for a long time, is one more.

use std::time::Duration;

use async_trait::async_trait;

use super::{Actor, Labels, Result};
use crate::clock::Timestamp;
use crate::event::{EventType, GatewayId, NodeId, OrganisationKey, Reason};

/// Rules of an organisation that are stored, at most.
pub const MAX_RULES: i64 = 1_000;
/// Destinations of an organisation, at most.
pub const MAX_DESTINATIONS: i64 = 100;
/// Attempts of a notification that are kept, the newest ones.
pub const KEPT_ATTEMPTS: i64 = 50;

/// What to do with a stored rule or destination that has the id of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays as it is, and the new one is refused with [`Conflict::AlertId`](super::Conflict).
    Refuse,
    /// The new one replaces it.
    Replace,
}

/// A stored rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRule {
    /// Its id, unique in its organisation.
    pub id: String,
    /// What it says, in JSON. `None`: only the silence of a built-in rule is stored.
    pub definition: Option<String>,
    /// Until when no notifications are sent, and who silenced it.
    pub silence: Option<(Timestamp, String)>,
    /// When it was stored first.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// Secrets of a destination, encrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The nonce and the ciphertext.
    pub bytes: Vec<u8>,
    /// Identifies the key that opens them; nothing can be derived from it.
    pub by: String,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("by", &self.by).finish_non_exhaustive()
    }
}

/// A stored destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDestination {
    /// Its id, unique in its organisation.
    pub id: String,
    /// What it says, in JSON, without secrets.
    pub definition: String,
    /// Its secrets.
    pub sealed: Sealed,
    /// When it was stored first.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The state of an alert. The names are those of the column `alerts.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertState {
    /// The condition is true, but not for long enough.
    Pending,
    /// It fires.
    Firing,
    /// It fired, and the condition is not true any more.
    Resolved,
}

impl AlertState {
    /// Its name in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }

    /// The state with a name from the database. An unknown one counts as resolved.
    pub fn stored(name: &str) -> Self {
        [Self::Pending, Self::Firing]
            .into_iter()
            .find(|state| state.as_str() == name)
            .unwrap_or(Self::Resolved)
    }
}

/// An alert: a rule, and a group of gateways. Both together identify a thread of notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAlert {
    /// The rule.
    pub rule: String,
    /// The value of the label that the rule groups by; empty without a group.
    pub group: String,
    /// Its state.
    pub state: AlertState,
    /// When the condition was first true.
    pub since: Timestamp,
    /// When it began to fire.
    pub fired_at: Option<Timestamp>,
    /// Since when the condition is not true, while it still fires.
    pub clear_since: Option<Timestamp>,
    /// When it was resolved.
    pub resolved_at: Option<Timestamp>,
    /// What the condition found last, in JSON.
    pub found: String,
    /// The destinations for which a notification that it fires was stored.
    pub notified: Vec<String>,
    /// When notifications that it fires were last stored.
    pub notified_at: Option<Timestamp>,
}

/// What a notification says about its alert. The names are those of the column
/// `alert_notifications.event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertEvent {
    /// It fires.
    Firing,
    /// It is resolved.
    Resolved,
}

impl AlertEvent {
    /// Its name in the database and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }

    /// The event with a name from the database.
    pub fn stored(name: &str) -> Self {
        if name == Self::Firing.as_str() { Self::Firing } else { Self::Resolved }
    }
}

/// A notification to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotification {
    /// Its id, the same at each attempt.
    pub id: String,
    /// The destination that it is sent to.
    pub destination: String,
    /// What it says.
    pub event: AlertEvent,
    /// The message, in JSON.
    pub body: String,
}

/// A change of an alert, with the notifications about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertChange {
    /// What it is now.
    pub alert: StoredAlert,
    /// Whether it is forgotten, because the condition ended before it fired.
    pub is_forgotten: bool,
    /// The notifications of this change.
    pub notifications: Vec<NewNotification>,
}

/// A node's lease of the evaluation of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationLease {
    /// Its number. Later leases have larger ones.
    pub number: i64,
    /// When it was acquired or renewed, by the database's clock.
    pub at: Timestamp,
}

/// A gateway, as rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedGateway {
    /// Its id.
    pub id: GatewayId,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is disabled or paused.
    pub is_stopped: bool,
    /// Whether it has a live connection on any node.
    pub is_connected: bool,
    /// When its last connection ended, or when it was registered.
    pub left_at: Timestamp,
    /// Deliveries that are neither confirmed nor dead.
    pub pending: i64,
    /// When the oldest of them was appended or redriven.
    pub oldest_pending_at: Option<Timestamp>,
    /// Its open dead letters.
    pub dead_letters: i64,
}

/// Which failed attempts to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureCount {
    /// Those that finished at this instant or later.
    pub since: Timestamp,
    /// With this reason.
    pub reason: Option<Reason>,
    /// Of events with this type; those that retention has removed don't count then.
    pub event_type: Option<EventType>,
}

/// A node, for rules about nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCondition {
    /// Its id.
    pub id: NodeId,
    /// Its host.
    pub host: Option<String>,
    /// When it started.
    pub started_at: Timestamp,
    /// Its last heartbeat.
    pub heartbeat_at: Timestamp,
    /// When it stopped cleanly.
    pub stopped_at: Option<Timestamp>,
    /// When another node declared it dead. Older than `heartbeat_at` if it lived on.
    pub lost_at: Option<Timestamp>,
    /// What it measured last.
    pub health: NodeHealth,
}

/// What only a node itself can measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeHealth {
    /// Free space on the disk of its data directory, in bytes.
    pub disk_free: Option<i64>,
    /// The size of that disk, in bytes.
    pub disk_total: Option<i64>,
    /// When the certificate that it serves expires.
    pub certificate_expires_at: Option<Timestamp>,
}

/// A key of a gateway or an access token that expires soon or has expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiringToken {
    /// Its public id.
    pub id: String,
    /// Its gateway; `None` for an access token.
    pub gateway: Option<GatewayId>,
    /// The name of its gateway, or of the access token.
    pub name: String,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// An address from which a gateway's key was used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedAddress {
    /// The gateway.
    pub gateway: GatewayId,
    /// The key's public id.
    pub token: String,
    /// The address.
    pub address: String,
}

/// A notification that this node may send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedNotification {
    /// The key by which the store refers to it.
    pub key: i64,
    /// Its id.
    pub id: String,
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// The rule of its alert.
    pub rule: String,
    /// The group of its alert.
    pub group: String,
    /// What it says.
    pub event: AlertEvent,
    /// The message, in JSON.
    pub body: String,
    /// The number of this attempt, from 1.
    pub attempt: i64,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When this attempt was recorded.
    pub claimed_at: Timestamp,
    /// Its destination; `None` if that was deleted.
    pub destination: Option<StoredDestination>,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterAttempt {
    /// Nothing: it arrived.
    Delivered,
    /// Another attempt after this pause.
    Retry(Duration),
    /// Nothing: it is given up.
    GivenUp,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// What follows.
    pub then: AfterAttempt,
    /// The status of the response, if there was one.
    pub status: Option<i64>,
    /// What was answered, or what went wrong, for people.
    pub detail: String,
}

/// The state of a notification. The names are those of the column `alert_notifications.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationState {
    /// It is being sent, or waits to be sent or retried.
    Pending,
    /// It arrived.
    Delivered,
    /// It was given up.
    Failed,
    /// It was not sent, because its alert was resolved before it was attempted, while earlier ones
    /// were pending.
    Superseded,
}

impl NotificationState {
    /// Its name in the database and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }

    /// The state with a name from the database. An unknown one has ended.
    pub fn stored(name: &str) -> Self {
        [Self::Pending, Self::Delivered, Self::Superseded]
            .into_iter()
            .find(|state| state.as_str() == name)
            .unwrap_or(Self::Failed)
    }
}

/// A notification with its attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredNotification {
    /// The key by which the store refers to it. Later ones have larger keys.
    pub key: i64,
    /// Its id.
    pub id: String,
    /// The rule of its alert.
    pub rule: String,
    /// The group of its alert.
    pub group: String,
    /// The destination that it is sent to.
    pub destination: String,
    /// What it says.
    pub event: AlertEvent,
    /// Its state.
    pub state: NotificationState,
    /// The number of attempts that were begun.
    pub attempt_count: i64,
    /// When the next attempt is due, while it is pending.
    pub due_at: Timestamp,
    /// When it was stored.
    pub created_at: Timestamp,
    /// When it arrived or was given up.
    pub ended_at: Option<Timestamp>,
    /// The newest attempts, oldest first.
    pub attempts: Vec<StoredAttempt>,
}

/// An attempt at a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAttempt {
    /// Its number, from 1.
    pub number: i64,
    /// The node that made it.
    pub node: NodeId,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `None` while it is in progress, or if it was cut off.
    pub ended_at: Option<Timestamp>,
    /// The status of the response, if there was one.
    pub status: Option<i64>,
    /// What was answered, or what went wrong.
    pub detail: String,
}

/// Operations on alerts. Those that take an [`Actor`] record what they change in the
/// [audit log](super::audit).
#[async_trait]
pub trait Alerts: Send + Sync + 'static {
    /// The stored rules of an organisation, by id.
    async fn alert_rules(&self, organisation: OrganisationKey) -> Result<Vec<StoredRule>>;
    /// Stores a rule, or replaces what it says. `was` is what was in force before, for the audit log:
    /// the definition of a built-in rule. Returns true if none of that id was in force. A conflict if
    /// there are [`MAX_RULES`], or if one was in force that must not be replaced.
    async fn put_alert_rule(
        &self,
        actor: &Actor,
        id: &str,
        existing: Existing,
        was: Option<&str>,
        definition: &str,
    ) -> Result<bool>;
    /// Deletes a rule; `NotFound` unless it is stored with a definition.
    async fn delete_alert_rule(&self, actor: &Actor, id: &str) -> Result<()>;
    /// Silences a rule until an instant, or ends its silence. A rule that is not stored is a built-in
    /// one; the caller has checked that it exists.
    async fn silence_alert_rule(
        &self,
        actor: &Actor,
        id: &str,
        until: Option<Timestamp>,
    ) -> Result<()>;
    /// The destinations of an organisation, by id.
    async fn alert_destinations(
        &self,
        organisation: OrganisationKey,
    ) -> Result<Vec<StoredDestination>>;
    /// Stores or replaces a destination. Returns true if none of that id was stored. A conflict if
    /// there are [`MAX_DESTINATIONS`], or if one is stored that must not be replaced.
    async fn put_alert_destination(
        &self,
        actor: &Actor,
        id: &str,
        existing: Existing,
        definition: &str,
        sealed: &Sealed,
    ) -> Result<bool>;
    /// Deletes a destination. What waits for it is given up at its next attempt.
    async fn delete_alert_destination(&self, actor: &Actor, id: &str) -> Result<()>;
    /// Records in the audit log that a destination was tested, with the outcome.
    async fn record_destination_test(&self, actor: &Actor, id: &str, outcome: &str) -> Result<()>;
    /// The alerts of an organisation, by rule and group.
    async fn alerts(&self, organisation: OrganisationKey) -> Result<Vec<StoredAlert>>;
    /// Notifications of an organisation, newest first, before a key.
    async fn notifications(
        &self,
        organisation: OrganisationKey,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredNotification>>;

    /// All organisations.
    async fn organisations(&self) -> Result<Vec<OrganisationKey>>;
    /// Acquires or renews the lease of the evaluation of rules; `None` while another node holds it. It
    /// ends after `lease`, by the database's clock.
    async fn acquire_evaluation_lease(&self, lease: Duration) -> Result<Option<EvaluationLease>>;
    /// Changes alerts and stores the notifications about them, of which some are
    /// [superseded](NotificationState::Superseded) at once. Returns false, and changes nothing, if the
    /// lease is not the newest one.
    async fn change_alerts(
        &self,
        lease: EvaluationLease,
        organisation: OrganisationKey,
        changes: &[AlertChange],
    ) -> Result<bool>;
    /// All gateways of an organisation, by name, as rules see them.
    async fn watched_gateways(&self, organisation: OrganisationKey) -> Result<Vec<WatchedGateway>>;
    /// Failed attempts of each gateway that has some; an attempt counts once for each delivery.
    async fn failure_counts(
        &self,
        organisation: OrganisationKey,
        count: &FailureCount,
    ) -> Result<Vec<(GatewayId, i64)>>;
    /// Rejected rows of the inbox that were not put back, counted up to `most`.
    async fn rejected_count(&self, organisation: OrganisationKey, most: i64) -> Result<i64>;
    /// Nodes with a heartbeat since an instant, newest first.
    async fn node_conditions(&self, since: Timestamp, limit: i64) -> Result<Vec<NodeCondition>>;
    /// Stores what this node measured.
    async fn note_node_health(&self, health: NodeHealth) -> Result<()>;
    /// Gateways' newest keys and used access tokens that expire between two instants, in that order.
    /// A key counts only if its gateway has no other one that is valid for longer, and an access
    /// token only if it was used since `used_since`.
    async fn expiring_tokens(
        &self,
        organisation: OrganisationKey,
        from: Timestamp,
        to: Timestamp,
        used_since: Timestamp,
        limit: i64,
    ) -> Result<Vec<ExpiringToken>>;
    /// Addresses of connections that were open at an instant or later.
    async fn used_addresses(
        &self,
        organisation: OrganisationKey,
        since: Timestamp,
        limit: i64,
    ) -> Result<Vec<UsedAddress>>;

    /// Claims notifications that are due, for this node and for `lease`, and records the start of an
    /// attempt at each. Of each destination, at most `per_destination` are claimed at the same time,
    /// and of each alert only the oldest one.
    async fn claim_notifications(
        &self,
        lease: Duration,
        per_destination: i64,
        limit: i64,
    ) -> Result<Vec<ClaimedNotification>>;
    /// Records the end of an attempt. If the claim has ended meanwhile and another attempt was begun,
    /// the notification stays as it is.
    async fn end_attempt(&self, key: i64, attempt: i64, end: AttemptEnd) -> Result<()>;
}
