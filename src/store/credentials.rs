//! Organisations, access tokens and gateway tokens. The store keeps digests and never compares a
//! secret; callers compare digests in constant time.

use async_trait::async_trait;

use super::{
    AccessCredential, Actor, GatewayCredential, NewToken, Result, Scope, TokenInfo, TokenKind,
};
use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};

/// Operations on organisations and tokens. Those that take an [`Actor`] record what they change in
/// the [audit log](super::audit).
#[async_trait]
pub trait Credentials: Send + Sync + 'static {
    /// The key of an organisation by its name; `NotFound` if there is none.
    async fn organisation(&self, name: &str) -> Result<OrganisationKey>;

    /// Whether an access token was ever created, in any organisation.
    async fn has_access_tokens(&self) -> Result<bool>;
    /// Creates an access token.
    async fn create_access_token(
        &self,
        actor: &Actor,
        name: &str,
        scopes: &[Scope],
        token: NewToken,
    ) -> Result<TokenInfo>;
    /// Access tokens of an organisation, including revoked and expired ones, oldest first.
    async fn access_tokens(&self, organisation: OrganisationKey) -> Result<Vec<TokenInfo>>;
    /// Revokes an access token. Revoking it again keeps the time of the first revocation.
    async fn revoke_access_token(&self, actor: &Actor, id: &str) -> Result<()>;
    /// The digest and scopes of an access token, by its public part.
    async fn access_credential(&self, id: &str) -> Result<Option<AccessCredential>>;

    /// Creates a gateway token; `Conflict` if the gateway has two live ones.
    async fn create_gateway_token(
        &self,
        actor: &Actor,
        id: GatewayId,
        token: NewToken,
    ) -> Result<TokenInfo>;
    /// Tokens of a gateway, including revoked and expired ones, oldest first.
    async fn gateway_tokens(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Vec<TokenInfo>>;
    /// Revokes a gateway token. The caller closes the connections that use it.
    async fn revoke_gateway_token(&self, actor: &Actor, id: GatewayId, token: &str) -> Result<()>;
    /// The digest and the gateway of a gateway token, by its public part.
    async fn gateway_credential(&self, token: &str) -> Result<Option<GatewayCredential>>;

    /// Records the use of an accepted token, at most once a minute. Returns at once, and skips the
    /// record when the writer's queue is full. `last_used_at` is the recorded time.
    fn note_use(&self, kind: TokenKind, id: &str, last_used_at: Option<Timestamp>);
}
