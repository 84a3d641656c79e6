//! The deadline for the head of a request: it starts with the first byte or, for the first request,
//! when the peer can send it. A connection that is kept open for the next request may be idle for
//! longer.
//!
//! hyper has one timer for both, which it starts when it begins to wait for a head. This module
//! gives it a timer that watches the socket: until a byte arrives it uses the longer time, and from
//! then on the shorter one. If the beginning of a head arrived together with the previous request,
//! it counts as idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The two timeouts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// For a head that has begun, and for the first one.
    pub(super) head: Duration,
    /// For idle time between two requests.
    pub(super) idle: Duration,
}

/// A stream that counts the bytes that are read from it.
pub(super) struct Watched<S> {
    stream: S,
    reads: Arc<AtomicU64>,
}

/// The timer of one connection, for hyper.
pub(super) struct HeadTimer {
    limits: Limits,
    reads: Arc<AtomicU64>,
    is_first: AtomicBool,
}

/// Watches a connection.
pub(super) fn watch<S>(stream: S, limits: Limits) -> (Watched<S>, HeadTimer) {
    let reads = Arc::<AtomicU64>::default();
    let timer = HeadTimer { limits, reads: Arc::clone(&reads), is_first: AtomicBool::new(true) };
    (Watched { stream, reads }, timer)
}

/// A timer that waits for a head.
struct HeadSleep {
    sleep: Pin<Box<tokio::time::Sleep>>,
    head: Duration,
    reads: Arc<AtomicU64>,
    /// The number of bytes read when the wait began; `None` once the head has begun.
    before: Option<u64>,
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now())
    }

    /// hyper only uses this timer for heads, and the deadline is known here.
    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        let Limits { head, idle } = self.limits;
        let is_first = self.is_first.swap(false, Ordering::Relaxed);
        Box::pin(HeadSleep {
            sleep: Box::pin(tokio::time::sleep(if is_first { head } else { idle })),
            head,
            reads: Arc::clone(&self.reads),
            before: (!is_first).then(|| self.reads.load(Ordering::Relaxed)),
        })
    }
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    /// hyper reads before it polls the timer, in the same task.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.before.is_some_and(|before| self.reads.load(Ordering::Relaxed) != before) {
            self.before = None;
            let deadline = tokio::time::Instant::now() + self.head;
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
