//! Open loop: when each request is due, whether or not the one before it has
//! been answered. A thread keeps the time, because the runtime's timers are a
//! millisecond coarse; latencies are counted from the moment that was due, so
//! that a stall is charged to every request that should have been sent in it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Starts at `start`; who listens is given due moments in turn. All channels
/// close when the time is over, or when nobody listens any more.
pub(super) fn start(
    start: Instant,
    requests_per_second: f64,
    time: Duration,
    publishers: usize,
) -> Vec<UnboundedReceiver<Instant>> {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..publishers).map(|_| unbounded_channel()).unzip();
    // It ends by itself, and nobody waits for it.
    std::thread::spawn(move || keep(start, requests_per_second, time, &senders));
    receivers
}

fn keep(
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
    async fn as_many_are_due_as_the_rate_says_and_in_turn() {
        let begin = Instant::now();
        let mut receivers = start(begin, 1000.0, Duration::from_millis(50), 2);
        let mut due = [Vec::new(), Vec::new()];
        for (receiver, due) in receivers.iter_mut().zip(&mut due) {
            while let Some(moment) = receiver.recv().await {
                assert!(moment <= Instant::now(), "never early");
                due.push(moment - begin);
            }
        }
        assert_eq!((due[0].len(), due[1].len()), (25, 25));
        assert_eq!(due[1][0], Duration::from_millis(1));
        assert_eq!(due[0][24], Duration::from_millis(48));
    }
}
