//! The accept loop. It never waits for a peer: each stage that an unauthenticated peer can reach
//! has a timeout and a limit. At a limit, the [table] of connections closes one that is not in use.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::proxy_protocol;
use super::request_head_timer::{self, Limits};
use crate::admission::rates::Source;
use crate::config::{self, Network};
use crate::log_limit::{Bounds, LogLimit};
use crate::metric;

mod descriptors;
mod http2;
mod request_body;
mod slots;
mod table;

use request_body::RequestBody;
use slots::{Evicted, Slot, Slots};

pub(super) use slots::{Peer, StreamSlot};

/// How much unsent data the kernel buffers for a peer. A larger buffer would hide that the peer
/// does not read: a megabyte in the buffer looks as if it had been sent.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 16 * 1024;
/// The pause after an accept that failed for another reason than a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// The pause after connections were closed because of a lack of descriptors.
const EVICTION_PAUSE: Duration = Duration::from_millis(10);
/// How many connections are closed at a time for lack of descriptors.
const EVICTED: usize = 64;
/// Connections that the kernel queues until they are accepted; limited by `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// Connections in excess of `server.max_http_connections`, for probes and admins.
const RESERVED: usize = 64;
/// Descriptors reserved for the database, files and the runtime.
const OTHER_DESCRIPTORS: usize = 128;

/// How long peers may do nothing. Besides these, `[server]` limits handshakes, heads and idle time.
#[derive(Clone, Copy, Debug)]
pub struct PeerTimeouts {
    /// The interval between pings on connections that use HTTP/2.
    pub ping_interval: Duration,
    /// For how long a peer's host may leave sent data, and a ping of HTTP/2, unacknowledged.
    pub unacknowledged: Duration,
    /// For how long a peer may read nothing of a response over HTTP/2.
    pub write: Duration,
}

/// A bound port: accepts connections, performs their handshakes, and limits how many are open.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    handshake_timeout: Duration,
    timeouts: PeerTimeouts,
    balancers: Vec<Network>,
    slots: Arc<Slots>,
    log: LogLimit<&'static str>,
}

impl Listener {
    /// Binds the port; must be called inside a runtime. Without TLS, only loopback addresses are
    /// allowed.
    pub fn bind(
        server: &config::Server,
        tls: Option<rustls::ServerConfig>,
        timeouts: PeerTimeouts,
    ) -> io::Result<Self> {
        if tls.is_none() && !server.listen.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "listening without TLS requires a loopback address",
            ));
        }
        check_descriptors(server);
        Ok(Self {
            tcp: listen(server.listen)?,
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
            limits: Limits { head: server.header_timeout, idle: server.idle_timeout },
            handshake_timeout: server.handshake_timeout,
            timeouts,
            balancers: server.proxy_protocol_from.clone(),
            slots: Slots::new(table::Limits {
                handshakes: server.max_pending_handshakes,
                connections: server.max_http_connections,
                reserved: RESERVED,
            }),
            log: LogLimit::new(Bounds { per_key: 5, in_all: 20, keys: 8 }),
        })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts connections until it is cancelled. Each connection is a task of `connections`;
    /// `wind_down` makes them end after their current request.
    pub async fn run(
        self,
        router: Router,
        stop: CancellationToken,
        wind_down: CancellationToken,
        connections: TaskTracker,
    ) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = self.tcp.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tokio::time::sleep(self.recover(&error)).await;
                    continue;
                }
            };
            let is_balancer = self.balancers.iter().any(|network| network.contains(address.ip()));
            let Some(slot) = self.admit(address, is_balancer) else { continue };
            prepare(&stream, self.timeouts.unacknowledged);
            let connection = Connection {
                peer: Peer::new(address, Arc::clone(&slot)),
                tls: self.tls.clone(),
                limits: self.limits,
                timeouts: self.timeouts,
                is_balancer,
                deadline: Instant::now() + self.handshake_timeout,
                router: router.clone(),
                // Each poll locks the token, so connections don't share one.
                wind_down: wind_down.child_token(),
                tasks: connections.clone(),
            };
            connections.spawn(async move { slot.run(connection.run(stream)).await });
        }
    }

    /// A slot for a new connection; `None` if all slots are in use.
    fn admit(&self, peer: SocketAddr, is_balancer: bool) -> Option<Arc<Slot>> {
        let (slot, evicted) = self.slots.admit(peer.ip().into(), is_balancer);
        if evicted > 0 {
            count_evicted(evicted);
            if let Some(suppressed) = self.log.admit(&"evicted") {
                tracing::warn!(
                    suppressed,
                    "server.max_http_connections or server.max_pending_handshakes has been reached; closing the connections that have waited longest, of the address that holds most"
                );
            }
        }
        if slot.is_none() {
            metrics::counter!(metric::HTTP_CONNECTIONS_REFUSED).increment(1);
            if let Some(suppressed) = self.log.admit(&"full") {
                tracing::warn!(
                    %peer,
                    suppressed,
                    "server.max_http_connections has been reached, and all connections are in use; closing a new one"
                );
            }
        }
        slot
    }

    /// Handles a failed accept; returns how long to pause. For a lack of descriptors it closes idle
    /// connections, because otherwise none would be free until a peer ends a connection.
    fn recover(&self, error: &io::Error) -> Duration {
        let evicted = if descriptors::is_exhausted(error) { self.slots.evict(EVICTED) } else { 0 };
        count_evicted(evicted);
        if let Some(suppressed) = self.log.admit(&"accept") {
            tracing::warn!(%error, closed = evicted, suppressed, "failed to accept a connection");
        }
        if evicted > 0 { EVICTION_PAUSE } else { PAUSE }
    }
}

fn count_evicted(count: usize) {
    metrics::counter!(metric::HTTP_CONNECTIONS_EVICTED)
        .increment(u64::try_from(count).unwrap_or(u64::MAX));
}

/// Raises the limit of open files, and warns if it is too low for the settings.
fn check_descriptors(server: &config::Server) {
    let wanted = server.max_http_connections.saturating_add(RESERVED + OTHER_DESCRIPTORS);
    let limit = descriptors::raise_limit();
    if let Some(limit) = limit.filter(|limit| *limit < u64::try_from(wanted).unwrap_or(u64::MAX)) {
        tracing::warn!(
            limit,
            wanted,
            "the limit of open files (ulimit -n) is lower than server.max_http_connections requires, not counting gateways' sockets"
        );
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// One accepted connection.
struct Connection {
    peer: Peer,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    timeouts: PeerTimeouts,
    is_balancer: bool,
    /// The deadline of the PROXY protocol header and the TLS handshake together.
    deadline: Instant,
    router: Router,
    wind_down: CancellationToken,
    /// For the streams of HTTP/2.
    tasks: TaskTracker,
}

impl Connection {
    async fn run(mut self, mut stream: TcpStream) {
        if self.is_balancer {
            let balancer = self.peer.address;
            let client = proxy_protocol::client(&mut stream, balancer, self.deadline).await;
            let Some(client) = client else { return };
            self.peer.address = client;
            count_evicted(self.peer.slot.name_client(Source::from(client.ip())));
        }
        let peer = self.peer.address;
        let Some(tls) = self.tls.take() else {
            return self.serve_http1(stream).await;
        };
        match timeout_at(self.deadline, tls.accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(http2::ALPN) => {
                self.serve_http2(stream).await;
            }
            Ok(Ok(stream)) => self.serve_http1(stream).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "a TLS handshake timed out"),
        }
    }

    async fn serve_http2<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { peer, limits, timeouts, router, wind_down, tasks, .. } = self;
        peer.slot.ready();
        let settings = http2::Settings { limits, timeouts, router, wind_down, tasks };
        // Boxed, because it is larger than a connection over HTTP/1.1, and most use that.
        Box::pin(http2::serve(stream, peer, settings)).await;
    }

    async fn serve_http1<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { peer, limits, router, wind_down, .. } = self;
        let address = peer.address;
        peer.slot.ready();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let (peer, router) = (peer.for_request(), router.clone());
            async move {
                let busy = peer.slot.begin()?;
                request.extensions_mut().insert(peer);
                let Ok(response) = router.oneshot(RequestBody::of(request)).await;
                Ok::<_, Evicted>(busy.until_sent(response))
            }
        });
        let (stream, timer) = request_head_timer::watch(stream, limits);
        let connection = http1::Builder::new()
            .timer(timer)
            .header_read_timeout(limits.head)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = wind_down.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %address, %error, "a connection ended with an error");
        }
    }
}

fn prepare(stream: &TcpStream, unacknowledged: Duration) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "failed to set TCP_NODELAY");
    }
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        if let Err(error) = socket.set_tcp_user_timeout(Some(unacknowledged)) {
            tracing::debug!(%error, "failed to set TCP_USER_TIMEOUT");
        }
        if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!(%error, "failed to set TCP_NOTSENT_LOWAT");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
}
