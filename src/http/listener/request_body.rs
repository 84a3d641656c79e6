//! The bodies of requests. A request may be refused before its body was read, for example because it
//! has no valid token. Dropping the body would then reset the stream (HTTP/2) or close the connection
//! (HTTP/1.1) while the client is still sending, and some clients report that instead of the response:
//! curl 7.88, for example. So a small rest is read and discarded while the response is sent.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The maximum size in bytes of a rest that is read. A client that announces more gets the response and
/// is cut off, and so is one that sends more.
const MAX_REST: u64 = 64 * 1024;
/// For how long a rest is read.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The body of a request.
pub(super) struct RequestBody {
    /// `None` only while it is dropped.
    incoming: Option<Incoming>,
    /// Whether it was read to its end, or to an error.
    is_over: bool,
}

impl RequestBody {
    /// The request as the router takes it. A request without a body has no overhead.
    pub(super) fn of(request: hyper::Request<Incoming>) -> hyper::Request<Body> {
        // A client that waits for 100 (Continue) has sent nothing yet, and reading would request the
        // body.
        let is_awaited = request.headers().contains_key(header::EXPECT);
        request.map(|incoming| {
            if is_awaited || incoming.is_end_stream() {
                Body::new(incoming)
            } else {
                Body::new(Self { incoming: Some(incoming), is_over: false })
            }
        })
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let next = ready!(Pin::new(incoming).poll_frame(context));
        self.is_over = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(rest) = self.incoming.take() else { return };
        if self.is_over || rest.is_end_stream() || rest.size_hint().lower() > MAX_REST {
            return;
        }
        // There is no runtime when this is dropped because the runtime ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(TIME_LIMIT, discard(rest)));
        }
    }
}

async fn discard(mut rest: Incoming) {
    let mut length = 0;
    while length <= MAX_REST
        && let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut rest).poll_frame(context)).await
    {
        let data = frame.data_ref().map_or(0, Bytes::len);
        length += u64::try_from(data).unwrap_or(u64::MAX);
    }
}
