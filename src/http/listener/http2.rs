//! HTTP/2, which clients choose by ALPN. hyper serves it; this module adds what hyper leaves to its
//! users: timeouts for peers that send no request or read no response, and an end for connections
//! that open streams only to reset them.
//!
//! A proxy may carry several clients over one connection, so a stream whose response is not read is
//! reset alone.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, copy, sink};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::request_body::RequestBody;
use super::slots::{Evicted, Peer};
use super::{Limits, PeerTimeouts};

mod requests;
mod streams;

use requests::{InProgress, Next, Requests};
use streams::{Sending, Streams};

/// The protocol's name in ALPN.
pub(super) const ALPN: &[u8] = b"h2";

/// The maximum number of open streams. A proxy or a client with more opens another connection.
const STREAMS: u32 = 256;
/// Request data that a peer may send on one stream before it is read, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Request data that a peer may send on all streams of a connection before it is read, in bytes.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Response data of one stream that may wait for the peer's flow control, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// The largest frame that a peer may send, in bytes: the protocol's minimum.
const FRAME: u32 = 16 * 1024;
/// The maximum size of a request's headers, in bytes, as the protocol counts them.
const HEADERS: u32 = 16 * 1024;
/// The maximum number of streams that were reset before they were accepted.
const PENDING_RESETS: usize = 20;
/// The maximum number of streams with protocol errors over a connection's lifetime.
const STREAM_ERRORS: usize = 256;

/// For how long the rest of what a peer sends is read after the last response.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// How much of it is read, in bytes: twice what flow control lets a peer send of bodies.
const MAX_REST: u64 = 2 * CONNECTION_WINDOW as u64;

/// What a connection needs.
pub(super) struct Settings {
    pub(super) limits: Limits,
    pub(super) timeouts: PeerTimeouts,
    pub(super) router: Router,
    /// When cancelled, the connection ends after its current requests.
    pub(super) wind_down: CancellationToken,
    /// The tasks of its streams.
    pub(super) tasks: TaskTracker,
}

/// Serves a connection until it ends.
pub(super) async fn serve<S>(mut stream: S, peer: Peer, settings: Settings)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let address = peer.address;
    let wind_down = settings.wind_down.clone();
    match serve_requests(&mut stream, peer, settings).await {
        Ok(()) => {
            wind_down.run_until_cancelled(discard_rest(stream)).await;
        }
        Err(error) => {
            tracing::debug!(peer = %address, %error, "a connection ended with an error");
        }
    }
}

/// Reads and discards what the peer still sends after the last response. If the socket were closed
/// before, the kernel would reset it, and the peer could see that instead of the response (as in
/// RFC 9112, section 9.6).
async fn discard_rest(stream: impl AsyncRead + Unpin) {
    let mut rest = stream.take(MAX_REST);
    // However it ends, the connection is closed next.
    let _ = timeout(TIME_LIMIT, copy(&mut rest, &mut sink())).await;
}

async fn serve_requests<S>(
    stream: &mut S,
    peer: Peer,
    settings: Settings,
) -> Result<(), Box<dyn Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Settings { limits, timeouts, router, wind_down, tasks } = settings;
    let (requests, mut watchdog) = Requests::watched(limits, wind_down);
    let service = service_fn(move |request| {
        answer(request, peer.for_request(), router.clone(), requests.begin())
    });
    let connection = http2::Builder::new(Streams { tasks, write_timeout: timeouts.write })
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(STREAM_ERRORS)
        .keep_alive_interval(timeouts.ping_interval)
        .keep_alive_timeout(timeouts.unacknowledged)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    loop {
        let next = tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            next = watchdog.next() => next,
        };
        match next {
            Next::WindDown => connection.as_mut().graceful_shutdown(),
            Next::Close(why) => return Err(why.into()),
        }
    }
}

async fn answer(
    mut request: hyper::Request<Incoming>,
    peer: Peer,
    router: Router,
    in_progress: InProgress,
) -> Result<hyper::Response<Sending>, Evicted> {
    let busy = peer.slot.begin()?;
    let slot = Arc::clone(&peer.slot);
    request.extensions_mut().insert(peer);
    let Ok(mut response) = router.oneshot(RequestBody::of(request)).await;
    // These headers belong to HTTP/1.1. Here, a connection is closed by GOAWAY, unless it is the
    // one of a gateway's stream and its confirmations, or a proxy's for several clients.
    let headers = response.headers_mut();
    headers.remove(header::UPGRADE);
    if headers.remove(header::CONNECTION).is_some_and(|value| value == "close")
        && !slot.is_authenticated()
    {
        in_progress.is_last();
    }
    Ok(busy.until_sent(response).map(|body| Sending::new(body, in_progress)))
}
