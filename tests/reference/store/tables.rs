//! The tables of a database, as collections. Sequences are plain numbers, as in a database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_events::clock::Timestamp;
use gateway_events::event::{
    ConnectionId, Epoch, Event, EventId, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason,
};
use gateway_events::store::{
    AboutNode, Appended, AuditHead, AuditRecord, BulkJob, Confirmation, EventTypeInfo,
    ExpiredInstance, Failing, GatewayState, InboxContent, KeptResult, Labels, LastRefusal, Level,
    Outcome, Pause, PublishedTarget, Purge, Refusal, Rejection, Resync, StoreError, TokenInfo,
};
use gateway_events::wake::Control;

use super::alerts::AlertTables;
use super::feed::ConnectionChange;

/// A delivery.
pub(super) type Key = (GatewayKey, i64);

#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) organisations: BTreeMap<String, OrganisationKey>,
    pub(super) access_tokens: BTreeMap<String, Token<OrganisationKey>>,
    pub(super) console_sessions: BTreeMap<[u8; 32], ConsoleSessionRow>,
    pub(super) gateway_tokens: BTreeMap<String, Token<GatewayKey>>,
    pub(super) event_types: BTreeMap<(OrganisationKey, String), EventTypeInfo>,
    pub(super) gateways: BTreeMap<GatewayKey, GatewayRow>,
    pub(super) cursors: BTreeMap<(GatewayKey, String), Cursor>,
    pub(super) expired_instances: BTreeMap<(GatewayKey, String), ExpiredInstance>,
    pub(super) resyncs: BTreeMap<(GatewayKey, i64), Resync>,
    pub(super) connections: BTreeMap<ConnectionId, ConnectionRow>,
    /// Connections that were opened and closed, in order.
    pub(super) connection_changes: BTreeMap<i64, ConnectionChange>,
    pub(super) nodes: BTreeMap<NodeId, NodeRow>,
    pub(super) events: BTreeMap<i64, EventRow>,
    pub(super) event_keys: BTreeMap<(OrganisationKey, EventId), i64>,
    pub(super) outbox: BTreeMap<Key, i64>,
    /// Deliveries that were trimmed from their log, while their event is kept.
    pub(super) trimmed: BTreeMap<Key, i64>,
    /// When a replay or a resend appended a delivery.
    pub(super) appended_again: BTreeMap<Key, Timestamp>,
    /// By key.
    pub(super) bulk_jobs: BTreeMap<i64, BulkJob>,
    /// Deliveries that are not sent, because an admin has skipped them.
    pub(super) skipped: BTreeSet<Key>,
    /// Deliveries that take part in supersession, and their keys as they are stored.
    pub(super) collapse_keys: BTreeMap<Key, String>,
    /// Deliveries that are not sent, because newer events supersede them.
    pub(super) superseded: BTreeSet<Key>,
    pub(super) responses: BTreeMap<(OrganisationKey, String), KeptResponse>,
    /// Results of actions, by the key of the request.
    pub(super) results: BTreeMap<(OrganisationKey, String), StoredResult>,
    pub(super) attempts: BTreeMap<i64, AttemptRow>,
    /// By their first sequence. They don't overlap.
    pub(super) dead_letters: BTreeMap<Key, DeadLetter>,
    pub(super) inbox: BTreeMap<i64, Inserted>,
    pub(super) rejected: BTreeMap<i64, RejectedRow>,
    pub(super) alerts: AlertTables,
    /// By sequence.
    pub(super) audit: Vec<AuditRecord>,
    /// The newest record, also after it was trimmed.
    pub(super) audit_head: AuditHead,
    pub(super) last: Last,
}

/// The last assigned keys. Keys are never reused.
#[derive(Clone, Debug, Default)]
pub(super) struct Last {
    pub(super) gateway: i64,
    pub(super) event: i64,
    pub(super) attempt: i64,
    pub(super) connection_change: i64,
    pub(super) inbox: i64,
    pub(super) rejected: i64,
    pub(super) job: i64,
    pub(super) resync: i64,
}

pub(super) fn next(last: &mut i64) -> i64 {
    *last += 1;
    *last
}

#[derive(Clone, Debug)]
pub(super) struct Token<Of> {
    pub(super) of: Of,
    pub(super) digest: [u8; 32],
    pub(super) info: TokenInfo,
}

#[derive(Clone, Debug)]
pub(super) struct ConsoleSessionRow {
    pub(super) token: String,
    pub(super) created_at: Timestamp,
    pub(super) last_used_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct GatewayRow {
    pub(super) id: GatewayId,
    pub(super) organisation: OrganisationKey,
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) replicas: i64,
    pub(super) created_at: Timestamp,
    pub(super) disabled_at: Option<Timestamp>,
    pub(super) paused: Option<Pause>,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) manifest: Option<(String, Timestamp)>,
    pub(super) last_refusal: Option<LastRefusal>,
    /// Its states, newest first.
    pub(super) history: Vec<GatewayState>,
    pub(super) stream: Stream,
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) confirmation: Confirmation,
    pub(super) epoch: Epoch,
    pub(super) head: i64,
    pub(super) floor: i64,
    pub(super) missed: i64,
    pub(super) confirmed_total: i64,
    pub(super) failed_total: i64,
    pub(super) dead_total: i64,
    pub(super) last_failure: Option<(Timestamp, Reason)>,
    /// The newest sequence that the gateway reported on.
    pub(super) reported: i64,
    pub(super) failing: Option<Failing>,
    pub(super) left: Option<(Timestamp, Reason)>,
    /// What a connection that has ended may have been sent.
    pub(super) attended: i64,
    /// Raised by each change to the delivery of the log, and when it was.
    pub(super) revision: i64,
    pub(super) revised_at: Option<Timestamp>,
}

impl GatewayRow {
    pub(super) const fn control(&self) -> Control {
        Control { revision: self.stream.revision, is_paused: self.paused.is_some() }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Cursor {
    pub(super) received: i64,
    /// The highest sequence up to which everything was acknowledged as applied.
    pub(super) applied_up_to: i64,
    /// The level that an instance confirms by; `None` for other positions.
    pub(super) confirm: Option<Level>,
    /// When it moved, or the last activity of a connection.
    pub(super) updated_at: Timestamp,
    /// Of a connection's position: when the connection was opened.
    pub(super) connected_at: Option<Timestamp>,
    /// When a later connection superseded it.
    pub(super) superseded_at: Option<Timestamp>,
    /// When the connection ended.
    pub(super) left_at: Option<Timestamp>,
}

impl Cursor {
    /// How far it has confirmed, by the level that it confirms by.
    pub(super) const fn position(&self) -> i64 {
        match self.confirm {
            Some(Level::Applied) => self.applied_up_to,
            Some(Level::Received) | None => self.received,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct ConnectionRow {
    pub(super) gateway: GatewayKey,
    pub(super) token: String,
    pub(super) instance: String,
    pub(super) transport: &'static str,
    pub(super) node: NodeId,
    pub(super) remote_address: String,
    pub(super) connected_at: Timestamp,
    pub(super) last_heartbeat_at: Timestamp,
    pub(super) closed: Option<(Timestamp, Reason)>,
    /// Its confirmed position when it was closed.
    pub(super) confirmed: Option<i64>,
    /// Whether a later connection of the same instance has replaced it.
    pub(super) is_replaced: bool,
    /// Whether it is to end because of a resync request.
    pub(super) is_to_resync: bool,
}

#[derive(Clone, Debug)]
pub(super) struct NodeRow {
    pub(super) about: Option<AboutNode>,
    pub(super) started_at: Timestamp,
    pub(super) heartbeat_at: Timestamp,
    pub(super) stopped_at: Option<Timestamp>,
    pub(super) lost_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub(super) struct EventRow {
    pub(super) organisation: OrganisationKey,
    pub(super) event: Arc<Event>,
    pub(super) appended_at: Timestamp,
    pub(super) digest: [u8; 32],
    pub(super) artifact_id: Option<String>,
    pub(super) deployment_id: Option<String>,
    pub(super) target: PublishedTarget,
    /// How many gateways the target selected.
    pub(super) matched: i64,
    pub(super) purged: Option<Purge>,
}

#[derive(Clone, Debug)]
pub(super) struct KeptResponse {
    pub(super) digest: [u8; 32],
    pub(super) results: Vec<Result<Appended, Refusal>>,
    pub(super) created_at: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct StoredResult {
    pub(super) digest: [u8; 32],
    pub(super) result: KeptResult,
    pub(super) created_at: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct AttemptRow {
    pub(super) gateway: GatewayKey,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) outcome: Outcome,
    pub(super) reason: Option<Reason>,
    pub(super) detail: Option<String>,
    pub(super) connection: Option<ConnectionId>,
    /// The instance of the connection.
    pub(super) instance: String,
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct DeadLetter {
    pub(super) last: i64,
    pub(super) reason: Reason,
    pub(super) dead_at: Timestamp,
    pub(super) redriven_at: Option<Timestamp>,
    /// The new sequence of the range's first delivery.
    pub(super) redriven_first: Option<i64>,
    /// The instance that rejected it.
    pub(super) rejected_by: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Inserted {
    pub(super) content: InboxContent,
    pub(super) inserted_at: Timestamp,
}

#[derive(Clone, Debug)]
pub(super) struct RejectedRow {
    pub(super) inbox_id: i64,
    pub(super) version: i64,
    pub(super) row: Inserted,
    pub(super) rejection: Rejection,
    pub(super) rejected_at: Timestamp,
    pub(super) retried_at: Option<Timestamp>,
}

impl Tables {
    pub(super) fn add_organisation(&mut self, name: &str) -> OrganisationKey {
        let next = i64::try_from(self.organisations.len()).unwrap_or(i64::MAX - 1) + 1;
        *self.organisations.entry(name.to_owned()).or_insert(OrganisationKey(next))
    }

    pub(super) fn organisation(&self, name: &str) -> Result<OrganisationKey, StoreError> {
        self.organisations.get(name).copied().ok_or(StoreError::NotFound("organisation"))
    }

    /// A row that another row refers to.
    pub(super) fn gateway_row(&self, key: GatewayKey) -> Result<&GatewayRow, StoreError> {
        self.gateways.get(&key).ok_or_else(|| no_row(key))
    }

    /// The stream of a gateway that must exist.
    pub(super) fn stream(&mut self, key: GatewayKey) -> Result<&mut Stream, StoreError> {
        self.gateways.get_mut(&key).map(|row| &mut row.stream).ok_or_else(|| no_row(key))
    }

    /// The key of a delivery's event, in its log or trimmed from it.
    pub(super) fn event_of(&self, key: Key) -> Option<i64> {
        self.outbox.get(&key).or_else(|| self.trimmed.get(&key)).copied()
    }

    /// The event of a delivery, if it is kept.
    pub(super) fn event_at(&self, key: Key) -> Option<&EventRow> {
        self.events.get(&self.event_of(key)?)
    }

    /// Deliveries in their logs or trimmed from them, with the keys of their events.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = (Key, i64)> {
        self.trimmed.iter().chain(&self.outbox).map(|(key, event)| (*key, *event))
    }

    pub(super) fn live_connections(&self, gateway: GatewayKey) -> usize {
        let live = |row: &&ConnectionRow| row.gateway == gateway && row.closed.is_none();
        self.connections.values().filter(live).count()
    }
}

/// The error of a violated foreign key.
fn no_row(key: GatewayKey) -> StoreError {
    StoreError::Corrupt(format!("there is no gateway {}", key.0))
}
