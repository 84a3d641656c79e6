//! The part of the store that a handler needs, as its argument: `Part<dyn Gateways>`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request;

use crate::store::{self, Store};

/// One of the traits that make up the [`Store`]: an extractor.
pub(super) struct Part<T: ?Sized>(pub(super) Arc<T>);

/// The store, which is accessible only through its parts.
#[derive(Clone)]
pub(super) struct Parts(Arc<dyn Store>);

impl Parts {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    pub(super) fn share<T: OfStore + ?Sized>(&self) -> Part<T> {
        Part(T::shared(Arc::clone(&self.0)))
    }
}

/// A trait that is part of the [`Store`], such as `dyn Gateways`.
pub(super) trait OfStore {
    fn shared(store: Arc<dyn Store>) -> Arc<Self>;
}

macro_rules! parts {
    ($($part:ident)*) => {$(
        impl OfStore for dyn store::$part {
            fn shared(store: Arc<dyn Store>) -> Arc<Self> {
                store
            }
        }
    )*};
}

// All but `Maintenance`, which only background jobs use.
parts! {
    Actions Alerts Audit Bulk Connections ConsoleSessions Credentials Diagnosis EventTypes Feed
    Gateways Health Inbox Instances Ledger Log Nodes
}

impl<T: OfStore + ?Sized, S: Send + Sync> FromRequestParts<S> for Part<T>
where
    Parts: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut request::Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Parts::from_ref(state).share())
    }
}
