//! Gateway keys and access tokens. A secret is shown once, when it is made.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;

/// What an access token may do. A route needs exactly one of them.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Publish events.
    Publish,
    /// Read everything but secrets.
    Read,
    /// Register, change, revoke and redrive.
    Admin,
}

impl Scope {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// `POST /gateways/{id}/tokens`: a key to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewGatewayToken {
    /// After how many seconds it expires, at most ten years; never if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub expires_in_seconds: Option<u64>,
}

/// `POST /access-tokens`: an access token to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewAccessToken {
    /// What it is called in the list of tokens; 1 to 128 characters, whitespace at either
    /// end removed. Control and format characters are refused.
    #[schema(min_length = 1, max_length = 128, example = "deployer")]
    pub name: String,
    /// What it may do; at least one.
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
    /// After how many seconds it expires, at most ten years; never if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub expires_in_seconds: Option<u64>,
}

/// A gateway's key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayToken {
    /// The public part of the key.
    #[schema(example = "6kzj2v7qmw4t")]
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused; `null` if it does not expire.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(required = true)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[schema(required = true)]
    pub last_used_at: Option<Timestamp>,
}

/// An access token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessToken {
    /// The public part of the token.
    #[schema(example = "6kzj2v7qmw4t")]
    pub id: String,
    /// Its name.
    #[schema(example = "deployer")]
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused; `null` if it does not expire.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(required = true)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    #[schema(required = true)]
    pub last_used_at: Option<Timestamp>,
}

/// A new key or token with its secret, which is shown this once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct WithSecret<T> {
    /// What lists show of it.
    #[serde(flatten)]
    pub info: T,
    /// The whole key or token. It can't be shown again.
    #[schema(example = "gwk_6kzj2v7qmw4t_…")]
    pub token: String,
}
