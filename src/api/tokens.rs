//! Gateway keys and access tokens. A secret is returned once, when it is created.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;

/// The scope of an access token. A route requires exactly one.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Publish events.
    Publish,
    /// Read everything except secrets.
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

/// `POST /gateways/{id}/tokens`: a key to create.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"expiresInSeconds": 31_536_000}))]
pub struct NewGatewayToken {
    /// In how many seconds it expires, at most ten years; never if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub expires_in_seconds: Option<u64>,
}

/// `POST /access-tokens`: an access token to create.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "deployer", "scopes": ["publish"], "expiresInSeconds": 31_536_000}))]
pub struct NewAccessToken {
    /// What it is called in the list of tokens; 1 to 128 characters, whitespace at either
    /// end removed. Control and format characters are refused.
    #[schema(min_length = 1, max_length = 128)]
    pub name: String,
    /// Its scopes; at least one.
    #[schema(min_items = 1)]
    pub scopes: Vec<Scope>,
    /// In how many seconds it expires, at most ten years; never if omitted.
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
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; `null` if it does not.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(required = true)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, accurate to a minute.
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
    /// Its scopes.
    pub scopes: Vec<Scope>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; `null` if it does not.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[schema(required = true)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, accurate to a minute.
    #[schema(required = true)]
    pub last_used_at: Option<Timestamp>,
}

/// A new key or token with its secret, which is returned only once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct WithSecret<T> {
    /// The key or token as lists show it.
    #[serde(flatten)]
    pub info: T,
    /// The whole key or token. It can't be retrieved again.
    #[schema(example = "gwk_6kzj2v7qmw4t_…")]
    pub token: String,
}
