//! Who is asking, and may they: bearer tokens and scopes. Each scope is an
//! extractor, so that a handler can't be written without saying which it needs.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};

use super::App;
use super::listener::Peer;
use super::problem::{Challenge, Problem};
use super::rates;
use crate::clock::Timestamp;
use crate::compute::Source;
use crate::event::OrganisationKey;
use crate::store::{AccessCredential, GatewayCredential, Scope, Store, TokenKind};
use crate::token::{Kind, Presented};

/// A gateway, by its own key.
pub(super) struct Gateway(pub(super) GatewayCredential);
/// May publish.
pub(super) struct Publisher(pub(super) OrganisationKey);
/// May read.
pub(super) struct Reader(pub(super) OrganisationKey);
/// May change things.
pub(super) struct Admin(pub(super) OrganisationKey);

macro_rules! scoped {
    ($name:ident, $scope:expr) => {
        impl FromRequestParts<Arc<App>> for $name {
            type Rejection = Problem;

            async fn from_request_parts(
                parts: &mut Parts,
                app: &Arc<App>,
            ) -> Result<Self, Problem> {
                principal(app, parts, $scope).await.map(Self)
            }
        }
    };
}

scoped!(Publisher, Scope::Publish);
scoped!(Reader, Scope::Read);
scoped!(Admin, Scope::Admin);

impl FromRequestParts<Arc<App>> for Gateway {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let refuse = |token: Option<&str>, gateway: Option<&GatewayCredential>| {
            app.failures.credential(address(app, parts), Kind::Gateway, token, gateway);
            Problem::unauthorized(Challenge::ApiKey)
        };
        let presented = gateway_key(&parts.headers).ok_or_else(|| refuse(None, None))?;
        match gateway(app.store.as_ref(), &presented).await? {
            Checked::Good(credential) => Ok(Self(credential)),
            Checked::Bad(whose) => Err(refuse(Some(presented.id()), whose.as_ref())),
        }
    }
}

async fn principal(app: &App, parts: &Parts, needed: Scope) -> Result<OrganisationKey, Problem> {
    let refuse = |token: Option<&str>| {
        app.failures.credential(address(app, parts), Kind::Access, token, None);
        Problem::unauthorized(Challenge::Bearer)
    };
    let presented = bearer(&parts.headers).ok_or_else(|| refuse(None))?;
    let credential = access(app, &presented).await?.ok_or_else(|| refuse(Some(presented.id())))?;
    if let Some(peer) = parts.extensions.get::<Peer>() {
        if peer.place.is_reserve() && !credential.scopes.contains(&Scope::Admin) {
            return Err(Problem::http_connection_limit());
        }
        peer.place.authenticated();
        peer.place.keep();
    }
    if credential.scopes.contains(&needed) {
        return Ok(credential.organisation);
    }
    let scope = match needed {
        Scope::Publish => "publish",
        Scope::Read => "read",
        Scope::Admin => "admin",
    };
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "insufficient_scope",
        format!("This token lacks the scope `{scope}`."),
    ))
}

/// Whose token it is, if it is good.
async fn access(app: &App, presented: &Presented) -> Result<Option<AccessCredential>, Problem> {
    let is_good = |credential: &AccessCredential| access_is_good(credential, presented);
    if let Some(known) = app.access.recall(presented.id()) {
        return Ok(Some(known).filter(is_good));
    }
    let asked = app.access.asking();
    let found = app.store.access_credential(presented.id()).await?.filter(is_good);
    if let Some(credential) = &found {
        app.store.note_use(TokenKind::Access, presented.id(), credential.last_used_at);
        app.access.keep(asked, presented.id().to_owned(), credential.clone());
    }
    Ok(found)
}

/// Where a request comes from.
pub(super) fn address(app: &App, parts: &Parts) -> Option<IpAddr> {
    let peer = parts.extensions.get::<Peer>()?;
    let trusted = &app.config.server.trusted_proxies;
    Some(rates::client_address(peer.address.ip(), &parts.headers, trusted))
}

/// Whose work a request is, as the compute pool and the memory for bodies tell
/// sources apart: its access token's.
pub(super) fn source(headers: &HeaderMap) -> Source {
    Source::new(bearer(headers).as_ref().map_or("", Presented::id))
}

fn bearer(headers: &HeaderMap) -> Option<Presented> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Presented::parse(Kind::Access, token.trim()).ok()
}

fn access_is_good(credential: &AccessCredential, presented: &Presented) -> bool {
    let matches = presented.matches(&credential.digest);
    matches && !credential.revoked && !has_passed(credential.expires_at)
}

fn has_passed(expires_at: Option<Timestamp>) -> bool {
    expires_at.is_some_and(|at| at <= Timestamp::now())
}

/// A gateway's key as it stands in the `api-key` header, if it is well formed.
pub(super) fn gateway_key(headers: &HeaderMap) -> Option<Presented> {
    let mut values = headers.get_all("api-key").iter();
    let text = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    Presented::parse(Kind::Gateway, text.trim()).ok()
}

/// What a gateway's key turned out to be.
pub(super) enum Checked {
    /// Good.
    Good(GatewayCredential),
    /// Certainly not good; of this gateway, if its public part is known.
    Bad(Option<GatewayCredential>),
}

/// Checks a gateway's key. An error means that it could not be checked, which
/// must never look like a refusal: gateways end on one.
pub(super) async fn gateway(store: &dyn Store, presented: &Presented) -> Result<Checked, Problem> {
    let Some(credential) = store.gateway_credential(presented.id()).await? else {
        return Ok(Checked::Bad(None));
    };
    let is_good = presented.matches(&credential.digest)
        && !credential.revoked
        && !has_passed(credential.expires_at);
    if !is_good {
        return Ok(Checked::Bad(Some(credential)));
    }
    store.note_use(TokenKind::Gateway, presented.id(), credential.last_used_at);
    Ok(Checked::Good(credential))
}
