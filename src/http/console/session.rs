//! Sessions of the console. A session's id is 256 random bits in a cookie that scripts can't read
//! and other sites can't send; the database has its SHA-256. The token that opened the session is
//! checked at each request, from the same cache as requests of the API, so a session ends as soon as
//! its token does. Forms contain a second token, derived from the id, against forged requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Extensions, HeaderMap, HeaderValue, header};
use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::super::auth::{self, Admin, Auth, Publisher, Reader};
use super::super::problem::{HandlerResult, Problem};
use super::super::request_id;
use super::super::state::AppState;
use crate::api::{self, Code};
use crate::compute::Source;
use crate::event::OrganisationKey;
use crate::store::{AccessCredential, Actor, ConsoleSessions, Principal, Scope};

/// The cookie's name: with this prefix, browsers accept it only from this host, over TLS.
const COOKIE: &str = "__Host-session";
/// How long a session lasts.
pub(super) const LIFETIME: Duration = Duration::from_hours(12);
const ID_BYTES: usize = 32;

/// The id of a session, as the cookie contains it.
#[derive(Clone)]
pub(super) struct SessionId([u8; ID_BYTES]);

/// A session whose token is valid.
pub(super) struct Session {
    pub(super) id: SessionId,
    /// The token's name.
    pub(super) name: Arc<str>,
    scopes: Vec<Scope>,
    organisation: OrganisationKey,
    actor: Actor,
}

impl SessionId {
    /// A new random id.
    pub(super) fn new() -> HandlerResult<Self> {
        let mut bytes = [0; ID_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| {
            tracing::error!(%error, "failed to generate a session's id");
            Problem::internal()
        })?;
        Ok(Self(bytes))
    }

    /// The id in a request's cookies.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|it| it.to_str().ok());
        let mut values = cookies
            .flat_map(|line| line.split(';'))
            .filter_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='));
        let bytes = BASE64URL_NOPAD.decode(values.next()?.as_bytes()).ok()?;
        let is_only = values.next().is_none();
        Some(Self(bytes.try_into().ok()?)).filter(|_| is_only)
    }

    /// What the database knows of it.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// The token that each form of the session contains.
    pub(super) fn form_token(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"gateway-events console form");
        hash.update(self.0);
        BASE64URL_NOPAD.encode(&hash.finalize())
    }

    /// Whether this is the token of the session's forms.
    pub(super) fn has_form_token(&self, token: &str) -> bool {
        self.form_token().as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// The header that gives the browser the cookie.
    pub(super) fn cookie(&self) -> HandlerResult<HeaderValue> {
        let (id, secs) = (BASE64URL_NOPAD.encode(&self.0), LIFETIME.as_secs());
        set_cookie(&id, secs)
    }
}

/// The header that removes the cookie.
pub(super) fn no_cookie() -> HandlerResult<HeaderValue> {
    set_cookie("", 0)
}

fn set_cookie(value: &str, max_age_secs: u64) -> HandlerResult<HeaderValue> {
    let text = format!(
        "{COOKIE}={value}; Path=/; Max-Age={max_age_secs}; Secure; HttpOnly; SameSite=Strict"
    );
    let mut header = HeaderValue::try_from(text).map_err(|_| Problem::internal())?;
    header.set_sensitive(true);
    Ok(header)
}

impl Session {
    /// The session of a request, if it has one whose token is valid.
    pub(super) async fn of(
        state: &AppState,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> HandlerResult<Option<Self>> {
        let Some(id) = SessionId::of(headers) else { return Ok(None) };
        let (auth, digest) = (state.get::<Arc<Auth>>(), id.digest());
        let sessions = state.part::<dyn ConsoleSessions>();
        let Some(found) = sessions.console_session(&digest).await? else { return Ok(None) };
        let Some(credential) = auth.of_session(&found.token).await? else { return Ok(None) };
        if !credential.scopes.contains(&Scope::Read) {
            return Ok(None);
        }
        auth::admit(extensions, &credential)?;
        sessions.note_console_use(&digest, found.last_used_at);
        let AccessCredential { organisation, name, scopes, .. } = credential;
        let address = auth.address(extensions, headers);
        let request = request_id::of(headers);
        let principal = Principal::access_token(&found.token, &name, address, request);
        let actor = principal.in_organisation(organisation);
        Ok(Some(Self { id, name, scopes, organisation, actor }))
    }

    /// Whether its token has a scope.
    pub(super) fn can(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether its token may change something.
    pub(super) fn is_admin(&self) -> bool {
        self.can(Scope::Admin)
    }

    /// Its scopes in words.
    pub(super) fn scopes(&self) -> String {
        self.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// What a handler that reads takes.
    pub(super) fn reader(&self) -> HandlerResult<Reader> {
        self.require(Scope::Read).map(|()| Reader(self.organisation))
    }

    /// What a handler that publishes takes.
    pub(super) fn publisher(&self) -> HandlerResult<Publisher> {
        self.require(Scope::Publish)?;
        Ok(Publisher { organisation: self.organisation, source: self.source() })
    }

    /// The source of its requests, for capacity that sources share.
    pub(super) fn source(&self) -> Source {
        Source::new(self.token())
    }

    /// The id of its token.
    pub(super) fn token(&self) -> &str {
        &self.actor.principal.id
    }

    /// What a handler that changes something takes.
    pub(super) fn admin(&self) -> HandlerResult<Admin> {
        self.require(Scope::Admin).map(|()| Admin(self.actor.clone()))
    }

    fn require(&self, scope: Scope) -> HandlerResult<()> {
        if self.can(scope) {
            return Ok(());
        }
        let scope = api::Scope::from(scope).as_str();
        Err(Problem::new(
            Code::InsufficientScope,
            format!("Your access token lacks the scope `{scope}`. Sign in with one that has it."),
        ))
    }
}

/// Begins a session of a token that is typed in; `None` if the token is not valid.
pub(super) async fn begin(
    state: &AppState,
    token: &str,
    address: Option<IpAddr>,
    extensions: &Extensions,
) -> HandlerResult<Option<SessionId>> {
    let auth: Arc<Auth> = state.get();
    let Some((token, credential)) = auth.typed_in(token, address).await? else {
        return Ok(None);
    };
    if !credential.scopes.contains(&Scope::Read) {
        let why = "This access token lacks the scope `read`, which the console needs.";
        return Err(Problem::new(Code::InsufficientScope, why));
    }
    auth::admit(extensions, &credential)?;
    let id = SessionId::new()?;
    state
        .part::<dyn ConsoleSessions>()
        .begin_console_session(id.digest(), &token, LIFETIME)
        .await?;
    let address = address.map(tracing::field::display);
    tracing::info!(address, token, "signed in to the console");
    Ok(Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(text: &str) -> Option<SessionId> {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, text.parse().unwrap());
        SessionId::of(&headers)
    }

    #[test]
    fn an_id_is_found_in_its_own_cookie_only() {
        let id = SessionId::new().unwrap();
        let text = id.cookie().unwrap().to_str().unwrap().to_owned();
        let pair = text.split(';').next().unwrap();
        let found = cookies(&format!("a=b; {pair}; c=d")).unwrap();
        assert!(found.digest() == id.digest() && found.has_form_token(&id.form_token()));
        for other in ["", "session=x", "__Host-session=AAAA", "x__Host-session=AAAA"] {
            assert!(cookies(other).is_none(), "{other}");
        }
        assert!(cookies(&format!("{pair}; {pair}")).is_none(), "two of them");
        assert!(!SessionId::new().unwrap().has_form_token(&id.form_token()));
    }
}
