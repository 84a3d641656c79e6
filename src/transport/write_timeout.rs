//! Write timeouts. Time in which this process did not run, because it was stopped or starved of CPU
//! time, does not count against the peer.

use std::pin::pin;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

/// A deadline that is noticed later than this has passed while the process did not run.
const STALL: Duration = Duration::from_secs(1);

/// Waits for `work` for at most `limit`, and for that long again after a stall.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    loop {
        let deadline = Instant::now() + limit;
        match timeout_at(deadline, work.as_mut()).await {
            Err(_) if deadline.elapsed() > STALL => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn time_in_which_the_process_did_not_run_does_not_count() {
        const LIMIT: Duration = Duration::from_millis(100);
        let began = Instant::now();
        let never = within(LIMIT, std::future::pending::<()>());
        let stall = async {
            // Blocks the only thread, as a stopped process would.
            let (_sender, receiver) = std::sync::mpsc::channel::<()>();
            assert!(receiver.recv_timeout(STALL + LIMIT * 2).is_err());
        };
        let (ended, ()) = tokio::join!(never, stall);
        assert!(ended.is_err());
        assert!(began.elapsed() >= STALL + LIMIT * 3);
    }
}
