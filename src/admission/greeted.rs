//! The second half of an admission in reliable mode: the hello of a gateway that was greeted.

use std::sync::Arc;

use super::{Attempt, KeyCheck, check_key};
use crate::dispatch::{self, Session};
use crate::event::Reason;
use crate::store::{Conflict, Credentials, GatewayCredential, StoreError};
use crate::token::Presented;
use crate::transport::{DeliveryRequest, ReliableGreeting};

/// A gateway that was admitted, and whose hello is awaited. Its connection is registered, and can be
/// closed. If this is dropped, it ends without a record.
pub struct Greeted {
    pub(super) connection: dispatch::Greeted,
    pub(super) key: Presented,
    pub(super) credential: GatewayCredential,
    pub(super) attempt: Attempt,
    pub(super) store: Arc<dyn Credentials>,
}

/// Why a gateway gets no events in spite of its hello.
#[derive(Debug)]
pub enum NotOpened {
    /// The connection is closed for this reason, such as a revoked key.
    Closed(Reason),
    /// The hello conflicts with stored data.
    Conflict(Conflict),
    /// The connection could not be recorded. A later attempt may succeed.
    Unavailable,
}

impl Greeted {
    /// What the first frame contains.
    pub const fn greeting(&self) -> ReliableGreeting {
        self.connection.greeting()
    }

    /// The key that the gateway authenticated with, and what is stored of the gateway.
    pub const fn credential(&self) -> &GatewayCredential {
        &self.credential
    }

    /// Waits until the connection is to be closed before its hello. Cancel safe.
    pub async fn stopped(&mut self) -> Reason {
        self.connection.stopped().await
    }

    /// Opens the connection as its hello asks. The attempt must be dropped when the connection has
    /// ended.
    pub async fn open(self, request: DeliveryRequest) -> Result<(Session, Attempt), NotOpened> {
        let Self { connection, key, attempt, store, .. } = self;
        let session = match connection.open(request).await {
            Ok(session) => session,
            Err(StoreError::NotFound(_)) => {
                // It was disabled or deleted since its key was checked.
                let reason = revoked(store.as_ref(), &key).await;
                return Err(NotOpened::Closed(reason.unwrap_or(Reason::GatewayDeleted)));
            }
            Err(StoreError::Conflict(conflict)) => return Err(NotOpened::Conflict(conflict)),
            Err(error) => {
                tracing::warn!(%error, "failed to open a connection after its hello");
                return Err(NotOpened::Unavailable);
            }
        };
        // A key that was revoked on another node before the connection was recorded did not close
        // this connection.
        match revoked(store.as_ref(), &key).await {
            Some(reason) => Err(NotOpened::Closed(reason)),
            None => Ok((session, attempt)),
        }
    }
}

/// Why a key is not valid any more. A key that can't be checked counts as valid, because connections
/// outlive an unavailable database.
async fn revoked(store: &dyn Credentials, key: &Presented) -> Option<Reason> {
    match check_key(store, key).await {
        Ok(KeyCheck::Valid(credential)) => credential.disabled.then_some(Reason::GatewayDisabled),
        Ok(KeyCheck::Invalid(_)) => Some(Reason::TokenRevoked),
        Err(_) => None,
    }
}
