//! The slots of connections: the [table](super::table) behind a lock, and the notification of
//! connections that were evicted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use super::table::{Admission, Id, Limits, Phase, Table};
use crate::admission::rates::Source;

/// All slots of a listener.
#[derive(Debug)]
pub(super) struct Slots(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    table: Table,
    evictions: HashMap<Id, CancellationToken>,
}

/// The slot of one connection, released when it is dropped.
#[derive(Debug)]
pub(in super::super) struct Slot {
    slots: Arc<Slots>,
    id: Id,
    evicted: CancellationToken,
    is_authenticated: AtomicBool,
    /// Requests in progress. Changed only while the slots are locked, together with the phase.
    requests: AtomicUsize,
    /// Gateways' streams in progress. Changed only while the slots are locked, together with the phase.
    streams: AtomicUsize,
}

/// The connection was evicted before its request began.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed to make room for another one")]
pub(super) struct Evicted;

impl Slots {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { table: Table::new(limits), evictions: HashMap::new() })))
    }

    /// Locked for a few operations on the table, never across an await.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for a new connection, and how many others were evicted for it.
    pub(super) fn admit(
        self: &Arc<Self>,
        source: Source,
        is_balancer: bool,
    ) -> (Option<Arc<Slot>>, usize) {
        let mut inner = self.lock();
        let Admission { id, evicted } = inner.table.admit(source, is_balancer);
        inner.notify(&evicted);
        let slot = id.map(|id| {
            let token = CancellationToken::new();
            inner.evictions.insert(id, token.clone());
            Arc::new(Slot {
                slots: Arc::clone(self),
                id,
                evicted: token,
                is_authenticated: AtomicBool::new(false),
                requests: AtomicUsize::new(0),
                streams: AtomicUsize::new(0),
            })
        });
        (slot, evicted.len())
    }

    /// Evicts up to `count` connections.
    pub(super) fn evict(&self, count: usize) -> usize {
        let mut inner = self.lock();
        let evicted = inner.table.evict(count);
        inner.notify(&evicted);
        evicted.len()
    }
}

impl Inner {
    /// Closes connections that were evicted.
    fn notify(&mut self, ids: &[Id]) {
        for id in ids {
            if let Some(token) = self.evictions.remove(id) {
                token.cancel();
            }
        }
    }
}

impl Slot {
    /// Runs a connection until it ends or is evicted. An evicted connection is dropped between two
    /// polls; a response that has begun is in the kernel's buffer by then.
    pub(super) async fn run(&self, connection: impl Future<Output = ()>) {
        self.evicted.run_until_cancelled(connection).await;
    }

    /// Sets the client that a balancer has named. Returns how many other connections were evicted.
    pub(super) fn name_client(&self, source: Source) -> usize {
        let mut inner = self.slots.lock();
        let evicted = inner.table.name_client(self.id, source);
        inner.notify(&evicted);
        evicted.len()
    }

    /// The handshake is complete.
    pub(super) fn ready(&self) {
        self.slots.lock().table.enter(self.id, Phase::Idle);
    }

    /// Begins a request. The connection is not evicted while it has any.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Busy, Evicted> {
        let mut inner = self.slots.lock();
        self.requests.fetch_add(1, Ordering::Relaxed);
        if !inner.table.enter(self.id, self.phase()) {
            return Err(Evicted);
        }
        Ok(Busy(Some(Arc::clone(self))))
    }

    /// Begins a gateway's stream.
    pub(in super::super) fn stream(self: &Arc<Self>) -> StreamSlot {
        let mut inner = self.slots.lock();
        self.streams.fetch_add(1, Ordering::Relaxed);
        inner.table.enter(self.id, self.phase());
        StreamSlot(Arc::clone(self))
    }

    fn phase(&self) -> Phase {
        if self.streams.load(Ordering::Relaxed) > 0 {
            Phase::Streaming
        } else if self.requests.load(Ordering::Relaxed) > 0 {
            Phase::Busy
        } else if self.is_authenticated.load(Ordering::Relaxed) {
            Phase::Authenticated
        } else {
            Phase::Idle
        }
    }

    /// Whether a request of this connection had a valid credential.
    pub(super) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Ordering::Relaxed)
    }

    /// The request's credential is valid.
    pub(in super::super) fn authenticated(&self) {
        self.is_authenticated.store(true, Ordering::Relaxed);
    }

    /// Whether this slot is of the reserve for probes and admins.
    pub(in super::super) fn is_reserve(&self) -> bool {
        self.slots.lock().table.is_reserve(self.id)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.slots.lock();
        inner.table.leave(self.id);
        inner.evictions.remove(&self.id);
    }
}

/// A gateway's stream of events in progress. Meanwhile its connection takes no slot.
#[derive(Debug)]
pub(in super::super) struct StreamSlot(Arc<Slot>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut inner = self.0.slots.lock();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
        inner.table.enter(self.0.id, self.0.phase());
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct Busy(Option<Arc<Slot>>);

impl Busy {
    /// Continues until the body of the response has been read. After an upgrade it never ends: the
    /// connection is a gateway's socket, and releases its slot itself.
    pub(super) fn until_sent(mut self, response: Response<Body>) -> Response<Answering> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.0 = None;
        }
        response.map(|body| Answering { body, _busy: self })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            let mut inner = slot.slots.lock();
            slot.requests.fetch_sub(1, Ordering::Relaxed);
            inner.table.enter(slot.id, slot.phase());
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

/// The peer's address, or the client's address from a trusted balancer, and the slot of the
/// connection. Attached to each request.
#[derive(Clone, Debug)]
pub(in super::super) struct Peer {
    pub(in super::super) address: SocketAddr,
    pub(in super::super) slot: Arc<Slot>,
    /// Whether the connection may stay open after this request.
    is_kept: Arc<AtomicBool>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, slot: Arc<Slot>) -> Self {
        Self { address, slot, is_kept: Arc::default() }
    }

    /// For a request of its own.
    pub(super) fn for_request(&self) -> Self {
        Self::new(self.address, Arc::clone(&self.slot))
    }

    /// Lets the connection stay open after this request.
    pub(in super::super) fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }

    /// Whether the connection may stay open after this request.
    pub(in super::super) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }
}
