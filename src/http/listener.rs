//! The accept loop. Every stage that a stranger can reach has a deadline and a
//! bound: handshakes under way, the handshake, open connections, the headers,
//! unread data.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::keep_alive::{self, Limits};
use super::proxy_protocol;
use crate::config::{self, Network};

/// The peer's address, or what a trusted balancer says is its client's; kept
/// with each request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// How much the kernel takes for a peer before it has begun to send it. More
/// would hide from us that the peer does not read: a megabyte that lies in the
/// kernel looks written.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 16 * 1024;
/// After an accept that failed for lack of file descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound port.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    handshake_timeout: Duration,
    unacknowledged: Duration,
    handshakes: Arc<Semaphore>,
    balancers: Vec<Network>,
    /// Places of connections that are not (yet) sockets; those have their own limit.
    places: Arc<Semaphore>,
}

impl Listener {
    /// Binds the port. Without TLS only on loopback. A peer whose host
    /// acknowledges nothing for as long as `unacknowledged` is gone.
    pub async fn bind(
        server: &config::Server,
        tls: Option<rustls::ServerConfig>,
        unacknowledged: Duration,
    ) -> io::Result<Self> {
        if tls.is_none() && !server.listen.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "without TLS only a loopback address may be listened on",
            ));
        }
        Ok(Self {
            tcp: TcpListener::bind(server.listen).await?,
            tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))),
            limits: Limits { head: server.header_timeout, idle: server.idle_timeout },
            handshake_timeout: server.handshake_timeout,
            unacknowledged,
            handshakes: Arc::new(Semaphore::new(server.max_pending_handshakes)),
            balancers: server.proxy_protocol_from.clone(),
            places: Arc::new(Semaphore::new(
                server.max_http_connections.min(Semaphore::MAX_PERMITS),
            )),
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until told to stop. Each connection is a task of `connections`;
    /// `wind_down` asks those to end after the request that they are at.
    pub async fn run(
        self,
        router: Router,
        stop: CancellationToken,
        wind_down: CancellationToken,
        connections: TaskTracker,
    ) {
        let mut was_full = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = self.accept() => accepted,
            };
            let (mut stream, peer, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // One peer's reset and a lack of descriptors look alike
                    // here; a short pause is right for both.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // Whoever holds all places must not make others wait in silence: a
            // connection that ends at once is tried again somewhere else, or later.
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                metrics::counter!("gateway_events_http_connections_refused_total").increment(1);
                if !was_full {
                    tracing::warn!(%peer, "server.max_http_connections are open; further ones are closed at once");
                }
                was_full = true;
                continue;
            };
            was_full = false;
            prepare(&stream, self.unacknowledged);
            let tls = self.tls.clone();
            let (router, wind_down) = (router.clone(), wind_down.clone());
            let (deadline, limits) = (Instant::now() + self.handshake_timeout, self.limits);
            let is_balancer = self.balancers.iter().any(|network| network.contains(peer.ip()));
            connections.spawn(async move {
                // Given back when the connection ends, or becomes a socket.
                let _place = place;
                let peer = if is_balancer {
                    let client = proxy_protocol::client(&mut stream, peer, deadline).await;
                    let Some(client) = client else { return };
                    client
                } else {
                    peer
                };
                let Some(tls) = tls else {
                    drop(permit);
                    return serve(stream, peer, router, limits, wind_down).await;
                };
                let handshake = timeout_at(deadline, tls.accept(stream)).await;
                drop(permit);
                match handshake {
                    Ok(Ok(stream)) => {
                        serve(stream, peer, router, limits, wind_down).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                }
            });
        }
    }

    /// Waits for a free handshake first: what is beyond the bound stays with the kernel.
    async fn accept(
        &self,
    ) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
        let permit =
            Arc::clone(&self.handshakes).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, peer) = self.tcp.accept().await?;
        Ok((stream, peer, permit))
    }
}

fn prepare(stream: &TcpStream, unacknowledged: Duration) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        if let Err(error) = socket.set_tcp_user_timeout(Some(unacknowledged)) {
            tracing::debug!(%error, "TCP_USER_TIMEOUT was refused");
        }
        if let Err(error) = socket.set_tcp_notsent_lowat(UNSENT) {
            tracing::debug!(%error, "TCP_NOTSENT_LOWAT was refused");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
}

async fn serve<S>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    wind_down: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let router = router.clone();
        router.oneshot(request.map(Body::new))
    });
    let (stream, timer) = keep_alive::watch(stream, limits);
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
        tracing::debug!(%peer, %error, "a connection ended badly");
    }
}
