//! Checks gateways' keys.

use crate::clock::Timestamp;
use crate::store::{Credentials, GatewayCredential, Result, TokenKind};
use crate::token::Presented;

/// The result of checking a gateway's key.
pub(crate) enum KeyCheck {
    /// It is valid.
    Valid(GatewayCredential),
    /// It is certainly invalid. The gateway is known if the key's public part is.
    Invalid(Option<GatewayCredential>),
}

/// Checks a gateway's key. An error means that it could not be checked.
pub(crate) async fn check_key(store: &dyn Credentials, presented: &Presented) -> Result<KeyCheck> {
    let Some(credential) = store.gateway_credential(presented.id()).await? else {
        return Ok(KeyCheck::Invalid(None));
    };
    let is_expired = credential.expires_at.is_some_and(|at| at <= Timestamp::now());
    if !presented.matches(&credential.digest) || credential.revoked || is_expired {
        return Ok(KeyCheck::Invalid(Some(credential)));
    }
    store.note_use(TokenKind::Gateway, presented.id(), credential.last_used_at);
    Ok(KeyCheck::Valid(credential))
}
