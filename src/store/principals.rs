//! Gateways and tokens as they are stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Confirmation, Conflict, Failing, Pause, Result};
use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};

/// Key-value pairs by which publishers select gateways.
pub type Labels = BTreeMap<String, String>;

/// A registered gateway with the state of its log.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The key by which the store refers to it.
    pub key: GatewayKey,
    /// The id by which API clients refer to it.
    pub id: GatewayId,
    /// Unique name within the organisation.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Which of its instances must confirm a delivery.
    pub confirmation: Confirmation,
    /// How many replicas connect at the same time, as declared. See
    /// [`positions`](super::positions) for what happens if there are fewer.
    pub replicas: i64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was disabled; `None` while it may connect.
    pub disabled_at: Option<Timestamp>,
    /// Its pause, while it is paused.
    pub paused: Option<Pause>,
    /// The latest manifest that it sent, and when.
    pub manifest: Option<(Box<serde_json::value::RawValue>, Timestamp)>,
    /// Its log's epoch.
    pub epoch: Epoch,
    /// The last sequence assigned.
    pub head: Sequence,
    /// The last sequence trimmed.
    pub floor: Sequence,
    /// The gateway's confirmed position.
    pub confirmed: Sequence,
    /// Deliveries in its log that are neither confirmed nor dead: its lag in events.
    pub pending: i64,
    /// When the oldest of them was appended or redriven: its lag in time.
    pub oldest_pending_at: Option<Timestamp>,
    /// Live connections on all nodes.
    pub live_connections: i64,
    /// When the oldest of them was opened.
    pub connected_since: Option<Timestamp>,
    /// When its last closed connection ended, and why.
    pub left: Option<(Timestamp, Reason)>,
    /// Its failed reports since the last success, if its newest report is a failure.
    pub failing: Option<Failing>,
    /// When and why its last attempt failed.
    pub last_failure: Option<(Timestamp, Reason)>,
    /// When its last receipt arrived.
    pub last_receipt_at: Option<Timestamp>,
    /// The database's time when this was read.
    pub as_of: Timestamp,
    /// Its last refused connection attempt, if one was recorded.
    pub last_refusal: Option<LastRefusal>,
}

/// A refused connection attempt, as recorded for its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRefusal {
    /// When it was refused.
    pub at: Timestamp,
    /// Why: an error code of the API.
    pub code: String,
    /// What was wrong with its key, if that was why.
    pub cause: Option<KeyFault>,
    /// The peer's address.
    pub address: String,
}

/// A refused connection attempt to record for its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotedRefusal {
    /// Why: an error code of the API.
    pub code: String,
    /// What was wrong with its key, if that was why.
    pub cause: Option<KeyFault>,
    /// The peer's address.
    pub address: String,
}

/// What is wrong with a gateway's key whose public part is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// It was revoked.
    Revoked,
    /// It has expired.
    Expired,
    /// Its secret part is another one.
    WrongSecret,
}

impl KeyFault {
    /// Its name in the database and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "key_revoked",
            Self::Expired => "key_expired",
            Self::WrongSecret => "key_wrong",
        }
    }

    /// The fault with a name from the database; `None` for one that only a newer version knows.
    pub fn stored(name: &str) -> Option<Self> {
        [Self::Revoked, Self::Expired, Self::WrongSecret].into_iter().find(|it| it.as_str() == name)
    }
}

/// A change to a gateway. Fields that are `None` stay unchanged.
#[derive(Clone, Debug, Default)]
pub struct GatewayChange {
    /// New name.
    pub name: Option<String>,
    /// The change to its labels.
    pub labels: Option<LabelChange>,
    /// The new number of replicas.
    pub replicas: Option<i64>,
    /// Which of its instances must confirm a delivery.
    pub confirmation: Option<Confirmation>,
    /// Whether to disable or enable it.
    pub disabled: Option<bool>,
}

/// A change to labels, as in a JSON merge patch (RFC 7396).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelChange {
    /// Removes all.
    Clear,
    /// Sets these, removes those without a value, and keeps all others.
    Merge(BTreeMap<String, Option<String>>),
}

/// The largest number of labels of a gateway.
pub const MAX_LABELS: usize = 64;

impl LabelChange {
    /// Applies the change to `labels`. `Conflict` if the result has too many labels.
    pub fn apply(self, mut labels: Labels) -> Result<Labels> {
        match self {
            Self::Clear => labels.clear(),
            Self::Merge(changes) => {
                for (name, value) in changes {
                    match value {
                        Some(value) => drop(labels.insert(name, value)),
                        None => drop(labels.remove(&name)),
                    }
                }
            }
        }
        if labels.len() > MAX_LABELS {
            return Err(Conflict::Labels { labels: labels.len(), most: MAX_LABELS }.into());
        }
        Ok(labels)
    }
}

/// A token, without its secret.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// The public part of the token.
    pub id: String,
    /// The name of an access token; empty for gateway tokens.
    pub name: String,
    /// Scopes of an access token; empty for gateway tokens.
    pub scopes: Vec<Scope>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; `None` if never.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, accurate to a minute.
    pub last_used_at: Option<Timestamp>,
}

/// What an access token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Publish events.
    Publish,
    /// Read everything except secrets.
    Read,
    /// Manage gateways and tokens, and redrive.
    Admin,
}

impl Scope {
    /// Its name in the database, the API and the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Authenticates a gateway.
    Gateway,
    /// Authenticates a publisher or an admin.
    Access,
}

/// A token to store: its digest only, never its secret.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The public part of the token.
    pub id: String,
    /// SHA-256 of the whole token.
    pub digest: [u8; 32],
    /// When it expires; `None` if never.
    pub expires_at: Option<Timestamp>,
}

/// What is stored about a gateway token.
#[derive(Clone, Debug)]
pub struct GatewayCredential {
    /// The SHA-256 to compare with, in constant time.
    pub digest: [u8; 32],
    /// The gateway.
    pub gateway: GatewayKey,
    /// The id by which API clients refer to the gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The gateway's organisation.
    pub organisation: OrganisationKey,
    /// The token's expiry.
    pub expires_at: Option<Timestamp>,
    /// Whether the token was revoked.
    pub revoked: bool,
    /// Whether the gateway is disabled.
    pub disabled: bool,
    /// When the token was last used, as far as recorded.
    pub last_used_at: Option<Timestamp>,
}

impl GatewayCredential {
    /// What was wrong with an invalid key of this credential, at an instant.
    pub fn fault(&self, now: Timestamp) -> KeyFault {
        if self.revoked {
            KeyFault::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            KeyFault::Expired
        } else {
            KeyFault::WrongSecret
        }
    }
}

/// What is stored about an access token.
#[derive(Clone, Debug)]
pub struct AccessCredential {
    /// The SHA-256 to compare with, in constant time.
    pub digest: [u8; 32],
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// Its name. Shared, because a request copies it.
    pub name: Arc<str>,
    /// Its scopes.
    pub scopes: Vec<Scope>,
    /// When it expires; `None` if never.
    pub expires_at: Option<Timestamp>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// When it was last used, as far as recorded.
    pub last_used_at: Option<Timestamp>,
}
