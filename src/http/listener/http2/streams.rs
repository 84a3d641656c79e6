//! The streams of a connection: each is a task, which ends if its peer does not read the response.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::TaskTracker;

use super::super::slots::Answering;
use super::requests::InProgress;

/// The largest part of a response that is passed to hyper at once, in bytes.
const PIECE: usize = 16 * 1024;
/// A timeout that is noticed later than this has passed while the process did not run.
const LATE: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// The progress of the stream that the current task serves.
    static PROGRESS: Arc<Progress>;
}

/// How much of a response hyper has taken.
#[derive(Debug, Default)]
struct Progress {
    pieces: AtomicU64,
    /// Whether the last piece waits for the peer. Otherwise hyper waits for the next piece.
    is_blocked: AtomicBool,
}

impl Progress {
    /// The number of the piece that waits for the peer.
    fn blocked(&self) -> Option<u64> {
        let is_blocked = self.is_blocked.load(Ordering::Relaxed);
        is_blocked.then(|| self.pieces.load(Ordering::Relaxed))
    }
}

/// Spawns the tasks of streams.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: TaskTracker,
    /// For how long a peer may read nothing of a response.
    pub(super) write_timeout: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.tasks.spawn(until_stuck(stream, self.write_timeout));
    }
}

/// Runs a stream. If the peer does not read, the stream is dropped, which resets it.
async fn until_stuck(stream: impl Future<Output = ()>, write_timeout: Duration) {
    let progress = Arc::<Progress>::default();
    let mut stream = pin!(PROGRESS.scope(Arc::clone(&progress), stream));
    let mut timer: Option<(u64, Pin<Box<Sleep>>)> = None;
    poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let Some(piece) = progress.blocked() else {
            timer = None;
            return Poll::Pending;
        };
        loop {
            let (_, sleeping) = match &mut timer {
                Some(timer) if timer.0 == piece => timer,
                _ => timer.insert((piece, Box::pin(sleep(write_timeout)))),
            };
            ready!(sleeping.as_mut().poll(context));
            if Instant::now() - sleeping.deadline() < LATE {
                tracing::debug!("resetting a stream whose response is not read");
                return Poll::Ready(());
            }
            timer = None;
        }
    })
    .await;
}

/// The body of a response, in pieces, so that it can be seen whether the peer reads.
pub(super) struct Sending {
    body: Answering,
    rest: Bytes,
    in_progress: InProgress,
}

impl Sending {
    pub(super) fn new(body: Answering, mut in_progress: InProgress) -> Self {
        if body.is_end_stream() {
            in_progress.complete();
        }
        Self { body, rest: Bytes::new(), in_progress }
    }

    fn next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let data = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            self.rest = data;
        }
        let mut length = self.rest.len().min(PIECE);
        // The last byte is a piece of its own. hyper passes on a whole piece as soon as the peer has
        // room for a part of it, and is done with the last one then, but it accepts this one only if
        // there is room for everything before it.
        if length == self.rest.len() && length > 1 && self.body.is_end_stream() {
            length -= 1;
        }
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = self.next(context);
        let is_blocked = matches!(next, Poll::Ready(Some(Ok(_))));
        // Fails only outside of a stream's task, where nothing is timed.
        let _ = PROGRESS.try_with(|progress| {
            progress.is_blocked.store(is_blocked, Ordering::Relaxed);
            progress.pieces.fetch_add(u64::from(is_blocked), Ordering::Relaxed);
        });
        if matches!(next, Poll::Ready(None)) || is_blocked && self.is_end_stream() {
            self.in_progress.complete();
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(body.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_ends_only_while_its_peer_blocks_it() {
        const TIMEOUT: Duration = Duration::from_millis(200);
        let began = Instant::now();
        let stream = async {
            // Nothing to send: not the peer's fault.
            sleep(TIMEOUT * 5).await;
            // Slow, but reading.
            for _ in 0..20 {
                block(true);
                sleep(TIMEOUT / 10).await;
            }
            block(true);
            std::future::pending::<()>().await;
        };
        until_stuck(stream, TIMEOUT).await;
        assert!(began.elapsed() >= TIMEOUT * 8, "{:?}", began.elapsed());
    }

    fn block(is_blocked: bool) {
        PROGRESS.with(|progress| {
            progress.is_blocked.store(is_blocked, Ordering::Relaxed);
            progress.pieces.fetch_add(1, Ordering::Relaxed);
        });
    }
}
