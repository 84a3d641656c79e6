//! The requests of a connection in progress, and when the connection must end because of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Limits;

/// Requests that a peer may reset early in excess of those that it did not.
const EARLY_RESETS: u64 = 200;
/// The age from which the reset of a request is not early: clients give up, too.
const EARLY: Duration = Duration::from_secs(1);

/// The requests of one connection.
#[derive(Clone)]
pub(super) struct Requests(Arc<watch::Sender<Counts>>);

#[derive(Clone, Copy, Debug)]
struct Counts {
    active: usize,
    /// When `active` became zero.
    idle_since: Instant,
    completed: u64,
    reset_early: u64,
    /// Whether new requests are refused.
    is_last: bool,
}

/// A request in progress, until it is dropped with its response.
pub(super) struct InProgress {
    requests: Requests,
    began: Instant,
    is_complete: bool,
}

/// Waits for the next thing to do with a connection because of its requests.
pub(super) struct Watchdog {
    changes: watch::Receiver<Counts>,
    limits: Limits,
    wind_down: CancellationToken,
    /// When the connection began to wind down.
    winding_down: Option<Instant>,
}

/// What to do with a connection.
#[derive(Debug)]
pub(super) enum Next {
    /// Accept no more requests, and end it after the current ones. Returned once.
    WindDown,
    /// Close it now, for this reason.
    Close(&'static str),
}

impl Requests {
    /// No requests yet.
    pub(super) fn watched(limits: Limits, wind_down: CancellationToken) -> (Self, Watchdog) {
        let (sender, changes) = watch::channel(Counts {
            active: 0,
            idle_since: Instant::now(),
            completed: 0,
            reset_early: 0,
            is_last: false,
        });
        (Self(Arc::new(sender)), Watchdog { changes, limits, wind_down, winding_down: None })
    }

    /// Begins a request.
    pub(super) fn begin(&self) -> InProgress {
        self.0.send_modify(|counts| counts.active += 1);
        InProgress { requests: self.clone(), began: Instant::now(), is_complete: false }
    }
}

impl InProgress {
    /// Ends the connection after the requests in progress.
    pub(super) fn is_last(&self) {
        self.requests.0.send_modify(|counts| counts.is_last = true);
    }

    /// The whole response has been passed on.
    pub(super) const fn complete(&mut self) {
        self.is_complete = true;
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        let now = Instant::now();
        let is_early = !self.is_complete && now - self.began < EARLY;
        self.requests.0.send_modify(|counts| {
            counts.active -= 1;
            if counts.active == 0 {
                counts.idle_since = now;
            }
            if is_early {
                counts.reset_early += 1;
            } else {
                counts.completed += 1;
            }
        });
    }
}

impl Watchdog {
    /// Waits. May be dropped and called again at any time.
    pub(super) async fn next(&mut self) -> Next {
        loop {
            let counts = *self.changes.borrow_and_update();
            if counts.reset_early > counts.completed + EARLY_RESETS {
                return Next::Close("too many requests were reset");
            }
            if counts.is_last && self.winding_down.is_none() {
                return self.wind_down();
            }
            let deadline = (counts.active == 0).then(|| self.deadline(&counts));
            let due = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives as long as the connection.
                _ = self.changes.changed() => {}
                () = self.wind_down.cancelled(), if self.winding_down.is_none() => {
                    return self.wind_down();
                }
                () = due => {
                    return match self.winding_down {
                        Some(_) => Next::Close("the peer kept it open"),
                        None => self.wind_down(),
                    };
                }
            }
        }
    }

    /// When a connection without requests ends: the first request is due like a head of HTTP/1.1.
    fn deadline(&self, counts: &Counts) -> Instant {
        let is_first = counts.completed + counts.reset_early == 0;
        match self.winding_down {
            Some(since) => since.max(counts.idle_since) + self.limits.head,
            None if is_first => counts.idle_since + self.limits.head,
            None => counts.idle_since + self.limits.idle,
        }
    }

    fn wind_down(&mut self) -> Next {
        self.winding_down = Some(Instant::now());
        Next::WindDown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { head: Duration::from_millis(50), idle: Duration::from_millis(300) };

    #[tokio::test]
    async fn a_connection_without_requests_winds_down_and_is_closed() {
        let (_requests, mut watchdog) = Requests::watched(LIMITS, CancellationToken::new());
        let began = Instant::now();
        assert!(matches!(watchdog.next().await, Next::WindDown));
        assert!(began.elapsed() >= LIMITS.head);
        assert!(matches!(watchdog.next().await, Next::Close(_)));
        assert!(began.elapsed() >= LIMITS.head * 2);
    }

    #[tokio::test]
    async fn a_connection_may_be_idle_after_a_request() {
        let (requests, mut watchdog) = Requests::watched(LIMITS, CancellationToken::new());
        let began = Instant::now();
        requests.begin().complete();
        assert!(matches!(watchdog.next().await, Next::WindDown));
        assert!(began.elapsed() >= LIMITS.idle);
    }

    #[tokio::test]
    async fn a_peer_that_resets_its_requests_at_once_is_disconnected() {
        let (requests, mut watchdog) = Requests::watched(LIMITS, CancellationToken::new());
        let mut served = requests.begin();
        served.complete();
        drop(served);
        for _ in 0..=EARLY_RESETS {
            drop(requests.begin());
        }
        let open = requests.begin();
        let waiting = futures_util::FutureExt::now_or_never(watchdog.next());
        assert!(waiting.is_none(), "as many as are allowed");
        drop(open);
        assert!(matches!(watchdog.next().await, Next::Close(_)));
    }

    #[tokio::test]
    async fn a_request_in_progress_is_waited_for() {
        let stop = CancellationToken::new();
        let (requests, mut watchdog) = Requests::watched(LIMITS, stop.clone());
        let open = requests.begin();
        stop.cancel();
        assert!(matches!(watchdog.next().await, Next::WindDown));
        let ended = tokio::time::timeout(LIMITS.idle, watchdog.next()).await;
        assert!(ended.is_err());
        drop(open);
        assert!(matches!(watchdog.next().await, Next::Close(_)));
    }
}
