//! Admits gateways, on any transport and before its first answer: checks the key and the limits on
//! attempts and connections, and determines the position in the log.
//!
//! Each transport renders a [`Refusal`] in its own format. Unmodified gateways exit at HTTP 401 and
//! 403 and retry at 400, 426, 429 and 503. So [`Cause::InvalidKey`] is only for a key that is
//! certainly invalid, and [`Cause::Disabled`] only for a gateway that is certainly disabled.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use crate::dispatch::{Admission, Dispatcher, Permit, Session};
use crate::event::Reason;
use crate::store::{GatewayCredential, Store, StoreError};
use crate::token::Presented;

mod greeted;
mod key;
pub(crate) mod rates;
mod reconnects;

pub use greeted::{Greeted, NotOpened};
pub(crate) use key::{KeyCheck, check_key};
pub(crate) use rates::{Buckets, Source};
pub use reconnects::Attempt;
use reconnects::{Begun, Reconnects};

/// The admission of gateways to this node.
pub struct Admissions {
    store: Arc<dyn Store>,
    dispatcher: Arc<Dispatcher>,
    /// Attempts that did not authenticate.
    attempts: Buckets<Source>,
    /// Attempts that authenticated.
    reconnects: Reconnects,
}

/// A gateway that requests admission.
pub struct Candidate {
    /// Its key; `None` if it is missing or malformed.
    pub key: Option<Presented>,
    /// The client's address.
    pub address: IpAddr,
}

/// A gateway whose key is valid and that may connect now.
pub struct Authenticated {
    key: Presented,
    address: IpAddr,
    credential: GatewayCredential,
    attempt: Attempt,
}

/// A gateway that passed all checks, with its recorded connection.
pub struct Admitted {
    /// Its connection, which is recorded and waits for its transport.
    pub session: Session,
    /// The gateway.
    pub credential: GatewayCredential,
    /// Must be dropped when the connection has ended.
    pub attempt: Attempt,
}

/// Why a gateway is not admitted.
#[derive(Debug)]
pub enum Cause {
    /// The key is missing, unknown, expired or revoked.
    InvalidKey,
    /// The gateway is disabled.
    Disabled,
    /// The request can't become a connection. Its transport knows why.
    InvalidRequest,
    /// Too many attempts; the next one is allowed after this time.
    TooManyAttempts(Duration),
    /// This node has the maximum number of connections.
    ConnectionLimit,
    /// The gateway has the maximum number of connections to this node. Contains that number.
    GatewayConnectionLimit(usize),
    /// This node is shutting down.
    Draining,
    /// The connection was closed while it was opened. The next attempt may succeed.
    Interrupted,
    /// The key could not be checked, or the connection could not be recorded.
    Store(StoreError),
}

/// A refused gateway, and what is known about it.
pub struct Refusal {
    /// Why it is refused.
    pub cause: Cause,
    /// The public part of its key, if it has one.
    pub token: Option<String>,
    /// The gateway, if the public part of its key is known.
    pub gateway: Option<GatewayCredential>,
    /// Whether its key is invalid, even if the cause is another one.
    pub is_invalid_key: bool,
}

impl From<Cause> for Box<Refusal> {
    fn from(cause: Cause) -> Self {
        Self::new(Refusal { cause, token: None, gateway: None, is_invalid_key: false })
    }
}

impl Refusal {
    /// The refusal of a gateway with a valid key.
    fn of_gateway(cause: Cause, key: &Presented, credential: &GatewayCredential) -> Box<Self> {
        let (token, gateway) = (Some(key.id().to_owned()), Some(credential.clone()));
        Box::new(Self { cause, token, gateway, is_invalid_key: false })
    }

    fn invalid_key(
        cause: Cause,
        key: Option<&Presented>,
        gateway: Option<GatewayCredential>,
    ) -> Box<Self> {
        let token = key.map(|key| key.id().to_owned());
        Box::new(Self { cause, token, gateway, is_invalid_key: true })
    }
}

impl Authenticated {
    /// Refuses the gateway although its key is valid.
    pub fn refuse(&self, cause: Cause) -> Box<Refusal> {
        Refusal::of_gateway(cause, &self.key, &self.credential)
    }
}

impl Admissions {
    /// `attempts_per_minute` limits attempts per client that do not authenticate, and those of a
    /// gateway in excess of the connections that it held recently.
    pub fn new(
        store: Arc<dyn Store>,
        dispatcher: Arc<Dispatcher>,
        attempts_per_minute: NonZeroU32,
    ) -> Self {
        Self {
            store,
            dispatcher,
            attempts: Buckets::new(attempts_per_minute),
            reconnects: Reconnects::new(attempts_per_minute.get()),
        }
    }

    /// Admits a gateway: checks its key and all limits, and opens its connection.
    pub async fn admit(
        &self,
        candidate: Candidate,
        transport: &'static str,
    ) -> Result<Admitted, Box<Refusal>> {
        let authenticated = self.authenticate(candidate).await?;
        self.open(authenticated, transport).await
    }

    /// The first half of [`admit`](Self::admit), for a request that can't be admitted
    /// but must be refused as if it could: checks the key and the limits on attempts.
    pub async fn authenticate(&self, candidate: Candidate) -> Result<Authenticated, Box<Refusal>> {
        if self.dispatcher.is_draining() {
            return Err(Cause::Draining.into());
        }
        let Candidate { key, address } = candidate;
        let Some(key) = key else {
            return Err(Refusal::invalid_key(self.charge(address), None, None));
        };
        let checked = check_key(self.store.as_ref(), &key).await.map_err(Cause::Store)?;
        let credential = match checked {
            KeyCheck::Valid(credential) => credential,
            KeyCheck::Invalid(gateway) => {
                return Err(Refusal::invalid_key(self.charge(address), Some(&key), gateway));
            }
        };
        let refuse = |cause| Refusal::of_gateway(cause, &key, &credential);
        let attempt = match self.reconnects.begin(self.store.as_ref(), credential.gateway).await {
            Ok(Begun::Allowed(attempt)) => attempt,
            Ok(Begun::Refused { wait }) => return Err(refuse(Cause::TooManyAttempts(wait))),
            Err(error) => return Err(refuse(Cause::Store(error))),
        };
        if credential.disabled {
            return Err(refuse(Cause::Disabled));
        }
        Ok(Authenticated { key, address, credential, attempt })
    }

    /// Admits a gateway in reliable mode as far as its hello: checks its key and all limits, and
    /// registers its connection. [`Greeted::open`] is the rest.
    pub async fn greet(
        &self,
        candidate: Candidate,
        transport: &'static str,
    ) -> Result<Greeted, Box<Refusal>> {
        let Authenticated { key, address, credential, mut attempt } =
            self.authenticate(candidate).await?;
        let refuse = |cause| Refusal::of_gateway(cause, &key, &credential);
        let (permit, admission) =
            self.permit(&key, address, &credential, &mut attempt, transport).await?;
        let mut connection = match self.dispatcher.greet(permit, admission).await {
            Ok(connection) => connection,
            Err(StoreError::NotFound(_)) => return Err(self.not_found(&key).await),
            Err(error) => return Err(refuse(self.unless_draining(Cause::Store(error)))),
        };
        if connection.stopped().now_or_never().is_some() {
            return Err(refuse(self.unless_draining(Cause::Interrupted)));
        }
        attempt.held();
        let store = Arc::<dyn Store>::clone(&self.store);
        Ok(Greeted { connection, key, credential, attempt, store })
    }

    async fn open(
        &self,
        authenticated: Authenticated,
        transport: &'static str,
    ) -> Result<Admitted, Box<Refusal>> {
        let Authenticated { key, address, credential, mut attempt } = authenticated;
        let refuse = |cause| Refusal::of_gateway(cause, &key, &credential);
        let (permit, admission) =
            self.permit(&key, address, &credential, &mut attempt, transport).await?;
        let session = match self.dispatcher.open(permit, admission).await {
            Ok(session) => session,
            Err(StoreError::NotFound(_)) => return Err(self.not_found(&key).await),
            Err(error) => return Err(refuse(self.unless_draining(Cause::Store(error)))),
        };
        // A key that was revoked after it was checked, and before the connection was
        // registered, did not close this connection.
        match check_key(self.store.as_ref(), &key).await {
            Ok(KeyCheck::Valid(credential)) if credential.disabled => {
                self.dispatcher.close_gateway(credential.gateway, Reason::GatewayDisabled);
                return Err(Refusal::of_gateway(Cause::Disabled, &key, &credential));
            }
            Ok(KeyCheck::Invalid(gateway)) => {
                self.dispatcher.close_token(key.id(), Reason::TokenRevoked);
                return Err(Refusal::invalid_key(Cause::InvalidKey, Some(&key), gateway));
            }
            // Connections outlive an unavailable database.
            Ok(KeyCheck::Valid(_)) | Err(_) => {}
        }
        if session.is_stopped() {
            // It would be closed at once. A gateway that is refused before it is connected waits a
            // moment before it retries.
            return Err(refuse(self.unless_draining(Cause::Interrupted)));
        }
        attempt.held();
        Ok(Admitted { session, credential, attempt })
    }

    /// The right to one connection, after a check of the limits.
    async fn permit(
        &self,
        key: &Presented,
        address: IpAddr,
        credential: &GatewayCredential,
        attempt: &mut Attempt,
        transport: &'static str,
    ) -> Result<(Permit, Admission), Box<Refusal>> {
        let refuse = |cause| Refusal::of_gateway(cause, key, credential);
        self.check_connections(attempt, credential).await.map_err(refuse)?;
        let permit = self
            .dispatcher
            .try_admit()
            .ok_or_else(|| refuse(self.unless_draining(Cause::ConnectionLimit)))?;
        let admission = Admission {
            gateway: credential.gateway,
            gateway_id: credential.gateway_id,
            gateway_name: credential.gateway_name.as_str().into(),
            organisation: credential.organisation,
            token: key.id().to_owned(),
            token_expires_at: credential.expires_at,
            transport,
            remote_address: address.to_string(),
        };
        Ok((permit, admission))
    }

    /// Counts the connection as open, unless its gateway has as many as it may have: the
    /// configured number or twice its replicas, whichever is more. Twice, because the
    /// connections of replicas whose hosts vanished count until that is noticed, and the
    /// replicas that take their place must not wait for it.
    async fn check_connections(
        &self,
        attempt: &mut Attempt,
        credential: &GatewayCredential,
    ) -> Result<(), Cause> {
        let configured = self.dispatcher.max_connections_per_gateway();
        if attempt.open(configured) {
            return Ok(());
        }
        // Rare, so it is acceptable that the lookup of the replicas delays this connection.
        let replicas = attempt.replicas(self.store.as_ref(), credential).await;
        let replicas = replicas.map_err(|error| self.unless_draining(Cause::Store(error)))?;
        let limit = configured.max(replicas.saturating_mul(2));
        if attempt.open(limit) {
            return Ok(());
        }
        Err(self.unless_draining(Cause::GatewayConnectionLimit(limit)))
    }

    /// The cause of a refusal; [`Cause::Draining`] if a drain has begun meanwhile.
    fn unless_draining(&self, cause: Cause) -> Cause {
        if self.dispatcher.is_draining() { Cause::Draining } else { cause }
    }

    /// Counts an invalid key for the client's address.
    fn charge(&self, address: IpAddr) -> Cause {
        match self.attempts.charge(&address.into()) {
            Ok(()) => Cause::InvalidKey,
            Err(wait) => Cause::TooManyAttempts(wait),
        }
    }

    /// The refusal of a gateway that was disabled or deleted after its key was
    /// checked: the same as if it had come a moment later.
    async fn not_found(&self, key: &Presented) -> Box<Refusal> {
        match check_key(self.store.as_ref(), key).await {
            Ok(KeyCheck::Valid(credential)) => {
                let cause = if credential.disabled { Cause::Disabled } else { Cause::Interrupted };
                Refusal::of_gateway(cause, key, &credential)
            }
            Ok(KeyCheck::Invalid(gateway)) => {
                Refusal::invalid_key(Cause::InvalidKey, Some(key), gateway)
            }
            Err(error) => Cause::Store(error).into(),
        }
    }

    /// Frees memory that is no longer needed. Called every minute.
    pub fn remove_unused(&self) {
        self.attempts.remove_unused();
        self.reconnects.remove_unused();
    }
}

#[cfg(test)]
mod tests;
