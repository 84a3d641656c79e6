//! Who there is: gateways, tokens, and what a key leads to.

use std::collections::BTreeMap;

use super::{Failing, Result, StoreError};
use crate::clock::Timestamp;
use crate::event::{Epoch, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};

/// Free-form names that gateways are chosen by.
pub type Labels = BTreeMap<String, String>;

/// A registered gateway with what its stream says.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Inside key.
    pub key: GatewayKey,
    /// Outside identity.
    pub id: GatewayId,
    /// Unique name within the organisation.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// How many replicas connect at the same time, as declared.
    pub replicas: i64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// Since when it may not connect.
    pub disabled_at: Option<Timestamp>,
    /// The latest manifest that it sent, and when.
    pub manifest: Option<(Box<serde_json::value::RawValue>, Timestamp)>,
    /// Its log's identity.
    pub epoch: Epoch,
    /// Last sequence given.
    pub head: Sequence,
    /// Last sequence trimmed.
    pub floor: Sequence,
    /// The gateway's confirmed position.
    pub confirmed: Sequence,
    /// Deliveries in its log that are neither confirmed nor dead: the lag in events.
    pub pending: i64,
    /// When the oldest of them was appended, or redriven: the lag in time.
    pub oldest_pending_at: Option<Timestamp>,
    /// Live connections on all nodes.
    pub live_connections: i64,
    /// When the oldest of them was opened.
    pub connected_since: Option<Timestamp>,
    /// When its last closed connection was closed, and why.
    pub left: Option<(Timestamp, Reason)>,
    /// Its failed reports since the last success, if the newest report failed.
    pub failing: Option<Failing>,
    /// Its last failed attempt.
    pub last_failure: Option<(Timestamp, Reason)>,
    /// When its last receipt came.
    pub last_receipt_at: Option<Timestamp>,
    /// The database's time when this was read.
    pub as_of: Timestamp,
    /// Its last attempt to connect that was refused, as far as that is noted.
    pub last_refusal: Option<LastRefusal>,
}

/// A refused attempt to connect, as it is noted at the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRefusal {
    /// When.
    pub at: Timestamp,
    /// Why: a code of the API's problem documents.
    pub code: String,
    /// Where it came from.
    pub address: String,
}

/// A change to a gateway; `None` leaves things as they are.
#[derive(Clone, Debug, Default)]
pub struct GatewayChange {
    /// New name.
    pub name: Option<String>,
    /// What becomes of the labels.
    pub labels: Option<LabelChange>,
    /// Another number of replicas.
    pub replicas: Option<i64>,
    /// Disable or enable.
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

/// Labels that a gateway may have.
pub const MOST_LABELS: usize = 64;

impl LabelChange {
    /// Applies it; `Conflict` if there would be too many labels.
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
        if labels.len() > MOST_LABELS {
            return Err(StoreError::Conflict(format!(
                "a gateway has at most {MOST_LABELS} labels, and with this change it would have {}",
                labels.len()
            )));
        }
        Ok(labels)
    }
}

/// A token, without its secret.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// The public part.
    pub id: String,
    /// A name for access tokens; empty for gateway tokens.
    pub name: String,
    /// Scopes of an access token; empty for gateway tokens.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// After this it is refused.
    pub expires_at: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked_at: Option<Timestamp>,
    /// When it was last presented (to the minute).
    pub last_used_at: Option<Timestamp>,
}

/// What an access token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Publish events.
    Publish,
    /// Read everything but secrets.
    Read,
    /// Register, revoke, redrive.
    Admin,
}

/// What a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A gateway.
    Gateway,
    /// A publisher or an admin.
    Access,
}

/// A new token: its digest only.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The public part.
    pub id: String,
    /// SHA-256 of the whole key.
    pub digest: [u8; 32],
    /// After this it is refused.
    pub expires_at: Option<Timestamp>,
}

/// What a gateway's key leads to.
#[derive(Clone, Debug)]
pub struct GatewayCredential {
    /// The digest to compare with, in constant time.
    pub digest: [u8; 32],
    /// The gateway.
    pub gateway: GatewayKey,
    /// The gateway's outside identity.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// The token's expiry.
    pub expires_at: Option<Timestamp>,
    /// Revoked.
    pub revoked: bool,
    /// The gateway is disabled.
    pub disabled: bool,
    /// When the token was last used, as far as that is noted.
    pub last_used_at: Option<Timestamp>,
}

/// What an access token leads to.
#[derive(Clone, Debug)]
pub struct AccessCredential {
    /// The digest to compare with, in constant time.
    pub digest: [u8; 32],
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Its expiry.
    pub expires_at: Option<Timestamp>,
    /// Revoked.
    pub revoked: bool,
    /// When the token was last used, as far as that is noted.
    pub last_used_at: Option<Timestamp>,
}
