//! The places of connections: the [table](super::table) behind a lock, and the notification of
//! connections that were evicted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use super::table::{Admission, Id, Limits, Phase, Table};
use crate::admission::rates::Source;

/// All places of a listener.
#[derive(Debug)]
pub(super) struct Places(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    table: Table,
    evictions: HashMap<Id, CancellationToken>,
}

/// The place of one connection, released when it is dropped.
#[derive(Debug)]
pub(in super::super) struct Place {
    places: Arc<Places>,
    id: Id,
    evicted: CancellationToken,
    is_authenticated: AtomicBool,
    /// Whether the connection may serve another request after this one.
    is_kept: AtomicBool,
}

/// The connection was evicted before its request began.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed to free its place")]
pub(super) struct Evicted;

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { table: Table::new(limits), evictions: HashMap::new() })))
    }

    /// Locked for a few operations on the table, never across an await.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, and how many others were evicted for it.
    pub(super) fn admit(
        self: &Arc<Self>,
        source: Source,
        is_balancer: bool,
    ) -> (Option<Arc<Place>>, usize) {
        let mut inner = self.lock();
        let Admission { id, evicted } = inner.table.admit(source, is_balancer);
        inner.evict(&evicted);
        let place = id.map(|id| {
            let token = CancellationToken::new();
            inner.evictions.insert(id, token.clone());
            Arc::new(Place {
                places: Arc::clone(self),
                id,
                evicted: token,
                is_authenticated: AtomicBool::new(false),
                is_kept: AtomicBool::new(false),
            })
        });
        (place, evicted.len())
    }

    /// Evicts up to `count` connections.
    pub(super) fn shed(&self, count: usize) -> usize {
        let mut inner = self.lock();
        let evicted = inner.table.shed(count);
        inner.evict(&evicted);
        evicted.len()
    }
}

impl Inner {
    fn evict(&mut self, ids: &[Id]) {
        for id in ids {
            if let Some(token) = self.evictions.remove(id) {
                token.cancel();
            }
        }
    }
}

impl Place {
    /// Runs a connection until it ends or is evicted. An evicted connection is dropped between two
    /// polls; a response that has begun is in the kernel's buffer by then.
    pub(super) async fn run(&self, connection: impl Future<Output = ()>) {
        self.evicted.run_until_cancelled(connection).await;
    }

    /// Sets the client that a balancer has named. Returns how many other connections were evicted.
    pub(super) fn name_client(&self, source: Source) -> usize {
        let mut inner = self.places.lock();
        let evicted = inner.table.name_client(self.id, source);
        inner.evict(&evicted);
        evicted.len()
    }

    /// The handshake is complete.
    pub(super) fn ready(&self) {
        self.places.lock().table.enter(self.id, Phase::Idle);
    }

    /// Begins a request. The connection is not evicted until the request ends.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Busy, Evicted> {
        self.is_kept.store(false, Ordering::Relaxed);
        let entered = self.places.lock().table.enter(self.id, Phase::Busy);
        if entered { Ok(Busy(Some(Arc::clone(self)))) } else { Err(Evicted) }
    }

    /// The request's credential is valid.
    pub(in super::super) fn authenticated(&self) {
        self.is_authenticated.store(true, Ordering::Relaxed);
    }

    /// Lets the connection stay open after this request.
    pub(in super::super) fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// Whether the connection may stay open after this request.
    pub(in super::super) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }

    /// Whether this place is of the reserve for probes and admins.
    pub(in super::super) fn is_reserve(&self) -> bool {
        self.places.lock().table.is_reserve(self.id)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.places.lock();
        inner.table.leave(self.id);
        inner.evictions.remove(&self.id);
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct Busy(Option<Arc<Place>>);

impl Busy {
    /// Continues until the body of the response has been read. After an upgrade it never ends: the
    /// connection is a gateway's socket, and releases its place itself.
    pub(super) fn until_sent(mut self, response: Response<Body>) -> Response<Answering> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.0 = None;
        }
        response.map(|body| Answering { body, _busy: self })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(place) = self.0.take() {
            let is_authenticated = place.is_authenticated.load(Ordering::Relaxed);
            let phase = if is_authenticated { Phase::Authenticated } else { Phase::Idle };
            place.places.lock().table.enter(place.id, phase);
        }
    }
}

/// The body of a response, which keeps its request in progress.
#[derive(Debug)]
pub(super) struct Answering {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The peer's address, or the client's address from a trusted balancer, and the place of the
/// connection. Attached to each request.
#[derive(Clone, Debug)]
pub(in super::super) struct Peer {
    pub(in super::super) address: SocketAddr,
    pub(in super::super) place: Arc<Place>,
}
