//! The schedule of an open-loop load: when each request is due, whether or not the
//! previous one was answered. Latencies are counted from that instant, so that a stall
//! counts for every request that was due during it. A thread keeps the schedule, because
//! the runtime's timers have a resolution of a millisecond.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Starts the schedule at `start`. The publishers receive the instants in turn. All
/// channels are closed when `time` is over or a receiver was dropped.
pub(crate) fn start(
    start: Instant,
    requests_per_second: f64,
    time: Duration,
    publishers: usize,
) -> Vec<UnboundedReceiver<Instant>> {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..publishers).map(|_| unbounded_channel()).unzip();
    // The thread is not joined: it ends when a channel is closed.
    std::thread::spawn(move || send(start, requests_per_second, time, &senders));
    receivers
}

fn send(
    start: Instant,
    requests_per_second: f64,
    time: Duration,
    senders: &[UnboundedSender<Instant>],
) {
    for (number, sender) in (0_u32..).zip(senders.iter().cycle()) {
        let after = Duration::from_secs_f64(f64::from(number) / requests_per_second);
        if after >= time {
            return;
        }
        let due = start + after;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|it| !it.is_zero())
        {
            std::thread::park_timeout(left);
        }
        if sender.send(due).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_are_due_at_the_rate_and_in_turn() {
        let begin = Instant::now();
        let mut receivers = start(begin, 1000.0, Duration::from_millis(50), 2);
        let mut due = [Vec::new(), Vec::new()];
        for (receiver, due) in receivers.iter_mut().zip(&mut due) {
            while let Some(instant) = receiver.recv().await {
                assert!(instant <= Instant::now(), "never early");
                due.push(instant - begin);
            }
        }
        assert_eq!((due[0].len(), due[1].len()), (25, 25));
        assert_eq!(due[1][0], Duration::from_millis(1));
        assert_eq!(due[0][24], Duration::from_millis(48));
    }
}
