//! The second half of an admission in reliable mode: the hello of a gateway that was greeted.

use std::sync::Arc;

use super::{Attempt, KeyCheck, check_key};
use crate::dispatch::{self, Session};
use crate::event::Reason;
use crate::store::{Conflict, GatewayCredential, ResumeFrom, Store, StoreError};
use crate::token::Presented;
use crate::transport::ReliableGreeting;
use crate::transport::frames::{
    ConnectionError, ErrorCode, FrameError, FrameType as _, Hello, Position,
};
use crate::transport::reliable::{connection_error, violation};

/// A gateway that was admitted, and whose hello is awaited. Its connection is registered, and can be
/// closed. If this is dropped, it ends without a record.
pub struct Greeted {
    pub(super) connection: dispatch::Greeted,
    pub(super) key: Presented,
    pub(super) credential: GatewayCredential,
    pub(super) attempt: Attempt,
    pub(super) store: Arc<dyn Store>,
}

/// Why a gateway gets no events in spite of its hello.
#[derive(Debug)]
pub struct NotOpened {
    /// The reason with which its transport closes the connection.
    pub reason: Reason,
    /// The error that is sent to the gateway.
    pub error: Option<ConnectionError>,
    /// What stored data the hello conflicts with, if that is why.
    pub conflict: Option<Conflict>,
}

impl From<Reason> for NotOpened {
    fn from(reason: Reason) -> Self {
        Self::new(reason, connection_error(reason))
    }
}

impl From<Conflict> for NotOpened {
    fn from(conflict: Conflict) -> Self {
        let error = match conflict {
            Conflict::InstanceName { .. } => {
                let message = format!("{}: instance: {conflict}", Hello::TYPE);
                FrameError::new(ErrorCode::InvalidFrame, message)
            }
            _ => FrameError::new(ErrorCode::TooManyInstances, conflict.to_string()),
        };
        let error = Some(violation(&error));
        Self { conflict: Some(conflict), ..Self::new(Reason::ProtocolError, error) }
    }
}

impl NotOpened {
    /// Without a conflict.
    pub const fn new(reason: Reason, error: Option<ConnectionError>) -> Self {
        Self { reason, error, conflict: None }
    }
}

/// A position that a gateway states in place of that of its hello.
#[derive(Clone, Debug)]
pub enum Stated {
    /// It has received everything up to here, and may not have confirmed it.
    Received(Position),
    /// It has confirmed everything up to here, and may have confirmed more since.
    Confirmed(Position),
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
    pub async fn open(self, hello: Hello) -> Result<(Session, Attempt), NotOpened> {
        self.open_at(hello, None).await
    }

    /// Likewise, at the position that the gateway has `stated`, if any.
    pub async fn open_at(
        self,
        hello: Hello,
        stated: Option<Stated>,
    ) -> Result<(Session, Attempt), NotOpened> {
        let Self { connection, key, attempt, store, .. } = self;
        let opened = match stated {
            Some(Stated::Received(Position { epoch, sequence, .. })) => {
                connection.open_at(hello, ResumeFrom::Received { epoch, sequence }).await
            }
            Some(Stated::Confirmed(Position { epoch, sequence, .. })) => {
                connection.open_at(hello, ResumeFrom::Confirmed { epoch, sequence }).await
            }
            None => connection.open(hello).await,
        };
        let session = match opened {
            Ok(session) => session,
            Err(StoreError::NotFound(_)) => {
                // It was disabled or deleted since its key was checked.
                let reason = revoked(store.as_ref(), &key).await;
                return Err(reason.unwrap_or(Reason::GatewayDeleted).into());
            }
            Err(StoreError::Conflict(conflict)) => return Err(conflict.into()),
            Err(error) => {
                tracing::warn!(%error, "failed to open a connection after its hello");
                let message = "The service is not available; connect again.";
                let error = violation(&FrameError::new(ErrorCode::Unavailable, message));
                return Err(NotOpened::new(Reason::NodeLost, Some(error)));
            }
        };
        // A key that was revoked on another node before the connection was recorded did not close
        // this connection.
        match revoked(store.as_ref(), &key).await {
            Some(reason) => Err(reason.into()),
            None => Ok((session, attempt)),
        }
    }
}

/// Why a key is not valid any more. A key that can't be checked counts as valid, because connections
/// outlive an unavailable database.
async fn revoked(store: &dyn Store, key: &Presented) -> Option<Reason> {
    match check_key(store, key).await {
        Ok(KeyCheck::Valid(credential)) => credential.disabled.then_some(Reason::GatewayDisabled),
        Ok(KeyCheck::Invalid(_)) => Some(Reason::TokenRevoked),
        Err(_) => None,
    }
}
