//! Authentication and authorisation: access tokens with scopes, and gateways' keys.
//! Each scope is an extractor, so that a handler's signature says which one it needs.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderName, header};

use super::client_address::client_address;
use super::failures::Failures;
use super::listener::Peer;
use super::problem::{Challenge, Problem};
use super::request_id;
use super::ttl_cache::TtlCache;
use crate::admission::{Candidate, KeyCheck, check_key};
use crate::api::{self, Code};
use crate::clock::Timestamp;
use crate::compute::Source;
use crate::config::Config;
use crate::event::OrganisationKey;
use crate::store::{
    AccessCredential, Actor, Credentials, GatewayCredential, Principal, Scope, TokenKind,
};
use crate::token::{Kind, Presented};

const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// A gateway that has presented a valid key.
pub(super) struct Gateway(pub(super) GatewayCredential);
/// A token with the scope `publish`.
pub(super) struct Publisher {
    pub(super) organisation: OrganisationKey,
    /// The [source] of its requests.
    pub(super) source: Source,
}
/// The organisation of a token with the scope `read`.
pub(super) struct Reader(pub(super) OrganisationKey);
/// A token with the scope `admin`, as it appears in the audit log. What changes something takes it.
pub(super) struct Admin(pub(super) Actor);

/// A token with the scope `read`, for a request that outlives its check.
pub(super) struct Watcher {
    pub(super) organisation: OrganisationKey,
    pub(super) token: Presented,
}

impl<S: Send + Sync> FromRequestParts<S> for Publisher
where
    Arc<Auth>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let auth = Arc::<Auth>::from_ref(state);
        let (token, credential) = auth.principal(parts, Scope::Publish).await?;
        Ok(Self { organisation: credential.organisation, source: Source::new(token.id()) })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reader
where
    Arc<Auth>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let auth = Arc::<Auth>::from_ref(state);
        let (_, credential) = auth.principal(parts, Scope::Read).await?;
        Ok(Self(credential.organisation))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Watcher
where
    Arc<Auth>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let auth = Arc::<Auth>::from_ref(state);
        let (token, credential) = auth.principal(parts, Scope::Read).await?;
        Ok(Self { organisation: credential.organisation, token })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Admin
where
    Arc<Auth>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let auth = Arc::<Auth>::from_ref(state);
        let (token, credential) = auth.principal(parts, Scope::Admin).await?;
        let request_id = request_id::of(&parts.headers);
        let address = auth.address(&parts.extensions, &parts.headers);
        let principal = Principal::access_token(token.id(), &credential.name, address, request_id);
        Ok(Self(principal.in_organisation(credential.organisation)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Gateway
where
    Arc<Auth>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let auth = Arc::<Auth>::from_ref(state);
        let refuse = |token: Option<&str>, gateway: Option<&GatewayCredential>| {
            auth.failures.credential(
                auth.address(&parts.extensions, &parts.headers),
                Kind::Gateway,
                token,
                gateway,
            );
            Problem::unauthorized(Challenge::ApiKey)
        };
        let presented = gateway_key(&parts.headers).ok_or_else(|| refuse(None, None))?;
        match check_key(auth.credentials.as_ref(), &presented).await? {
            KeyCheck::Valid(credential) => Ok(Self(credential)),
            KeyCheck::Invalid(gateway) => Err(refuse(Some(presented.id()), gateway.as_ref())),
        }
    }
}

/// Checks the credentials of requests.
pub(super) struct Auth {
    credentials: Arc<dyn Credentials>,
    failures: Arc<Failures>,
    config: Arc<Config>,
    /// Access tokens that were read within the last second.
    known: TtlCache<String, AccessCredential>,
}

impl Auth {
    pub(super) fn new(
        credentials: Arc<dyn Credentials>,
        failures: Arc<Failures>,
        config: Arc<Config>,
    ) -> Self {
        Self { credentials, failures, config, known: TtlCache::default() }
    }

    /// Frees the memory of tokens that were read before.
    pub(super) fn remove_expired(&self) {
        self.known.remove_expired();
    }

    /// Reads an access token again when it is presented next: it has changed.
    pub(super) fn forget(&self, token: &str) {
        self.known.remove(token);
    }

    /// The presented token and its credential, if it has the scope.
    async fn principal(
        &self,
        parts: &Parts,
        needed: Scope,
    ) -> Result<(Presented, AccessCredential), Problem> {
        let refuse = |token: Option<&str>| {
            self.failures.credential(
                self.address(&parts.extensions, &parts.headers),
                Kind::Access,
                token,
                None,
            );
            Problem::unauthorized(Challenge::Bearer)
        };
        let presented = bearer(&parts.headers).ok_or_else(|| refuse(None))?;
        let credential =
            self.access(&presented).await?.ok_or_else(|| refuse(Some(presented.id())))?;
        admit(&parts.extensions, &credential)?;
        if credential.scopes.contains(&needed) {
            return Ok((presented, credential));
        }
        let scope = api::Scope::from(needed).as_str();
        Err(Problem::new(Code::InsufficientScope, format!("This token lacks the scope `{scope}`.")))
    }

    /// The stored credential of a valid token.
    async fn access(&self, presented: &Presented) -> Result<Option<AccessCredential>, Problem> {
        self.credential(presented.id(), |found| access_is_good(found, presented)).await
    }

    /// The credential of a token that is typed in, for a session of the console. A refusal is logged as
    /// that of a request is.
    pub(super) async fn typed_in(
        &self,
        text: &str,
        address: Option<IpAddr>,
    ) -> Result<Option<(String, AccessCredential)>, Problem> {
        let presented = Presented::parse(Kind::Access, text.trim()).ok();
        let found = match &presented {
            Some(presented) => self.access(presented).await?,
            None => None,
        };
        let id = presented.as_ref().map(Presented::id);
        if found.is_none() {
            self.failures.credential(address, Kind::Access, id, None);
        }
        Ok(id.map(str::to_owned).zip(found))
    }

    /// The credential of the token that opened a session, if the token is still valid.
    pub(super) async fn of_session(
        &self,
        token: &str,
    ) -> Result<Option<AccessCredential>, Problem> {
        self.credential(token, |found| !found.revoked && !has_passed(found.expires_at)).await
    }

    /// The stored credential of a token if it is good, from the [cache](super::ttl_cache) if it was read
    /// within the last second.
    async fn credential(
        &self,
        id: &str,
        is_good: impl Fn(&AccessCredential) -> bool,
    ) -> Result<Option<AccessCredential>, Problem> {
        if let Some(known) = self.known.get(id) {
            return Ok(Some(known).filter(is_good));
        }
        let load = self.known.begin_load();
        let found = self.credentials.access_credential(id).await?.filter(is_good);
        if let Some(credential) = &found {
            self.credentials.note_use(TokenKind::Access, id, credential.last_used_at);
            self.known.insert(load, id.to_owned(), credential.clone());
        }
        Ok(found)
    }

    /// Whether a token that was valid has expired or was revoked. False if that is not known.
    pub(super) async fn is_revoked(&self, presented: &Presented) -> bool {
        matches!(self.access(presented).await, Ok(None))
    }

    /// The client's address: the peer's, or the one that a trusted proxy reports.
    pub(super) fn address(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = extensions.get::<Peer>()?;
        let trusted = &self.config.server.trusted_proxies;
        Some(client_address(peer.address.ip(), headers, trusted))
    }
}

/// Marks the connection of a request as that of a principal. Connections of the reserve are for
/// admins.
pub(super) fn admit(extensions: &Extensions, credential: &AccessCredential) -> Result<(), Problem> {
    let Some(peer) = extensions.get::<Peer>() else { return Ok(()) };
    if peer.slot.is_reserve() && !credential.scopes.contains(&Scope::Admin) {
        return Err(Problem::http_connection_limit());
    }
    peer.slot.authenticated();
    peer.keep();
    Ok(())
}

/// The source of a request for the compute pool and the memory for bodies, which share
/// their capacity between sources: its access token.
pub(super) fn source(headers: &HeaderMap) -> Source {
    Source::new(bearer(headers).as_ref().map_or("", Presented::id))
}

/// A well-formed access token from the header `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<Presented> {
    let text = only(headers, &header::AUTHORIZATION)?;
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

/// A well-formed gateway's key from the header `api-key`.
pub(super) fn gateway_key(headers: &HeaderMap) -> Option<Presented> {
    Presented::parse(Kind::Gateway, only(headers, &API_KEY)?.trim()).ok()
}

/// A gateway that requests admission with these headers.
pub(super) fn candidate(headers: &HeaderMap, address: IpAddr) -> Candidate {
    Candidate { key: gateway_key(headers), address }
}

/// The value of a header, or `None` if it is repeated: a proxy and this service might use different
/// values (RFC 9110, section 5.3).
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() {
        return None;
    }
    first.to_str().ok()
}
