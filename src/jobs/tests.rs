//! Jobs that fail, panic, hang and end.

use tokio::sync::mpsc;

use super::*;

const INTERVAL: Duration = Duration::from_millis(20);
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Behaves as each number says, and reports it.
struct Scripted {
    runs: mpsc::UnboundedSender<u32>,
    count: u32,
}

impl Job for Scripted {
    type Error = &'static str;

    async fn run_once(&mut self) -> Result<Next, Self::Error> {
        self.count += 1;
        let _ = self.runs.send(self.count);
        match self.count {
            1 => Err("failed"),
            2 => panic!("a job that panics, for a test"),
            3 => Ok(Next::Again),
            4 => Ok(Next::After(Duration::ZERO)),
            _ => Ok(Next::Wait),
        }
    }
}

#[tokio::test]
async fn a_job_that_fails_or_panics_goes_on_with_its_state() {
    let supervisor = Supervisor::default();
    let (runs, mut seen) = mpsc::unbounded_channel();
    supervisor.start("scripted", INTERVAL, Scripted { runs, count: 0 });
    for expected in 1..=7 {
        let run = timeout(TEST_TIMEOUT, seen.recv()).await.expect("it runs on");
        assert_eq!(run, Some(expected));
    }
    assert_eq!(supervisor.overdue(), None);
    timeout(TEST_TIMEOUT, supervisor.stop()).await.expect("it stops");
    while seen.recv().await.is_some() {}
}

/// Hangs until its turn is dropped.
struct Hanging;

impl Job for Hanging {
    type Error = std::convert::Infallible;

    async fn run_once(&mut self) -> Result<Next, Self::Error> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_job_that_hangs_is_overdue_and_can_be_stopped() {
    let supervisor = Supervisor::default();
    supervisor.start("idle", INTERVAL, Call(|| {}));
    // Started first, so that it would be overdue for longer.
    supervisor.start_housekeeping("housekeeping", INTERVAL, Hanging);
    supervisor.start("hanging", INTERVAL, Hanging);
    let overdue = timeout(2 * MIN_OVERDUE, async {
        loop {
            if let Some(overdue) = supervisor.overdue() {
                return overdue;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    });
    let overdue = overdue.await.expect("it is noticed");
    assert_eq!(overdue.job, "hanging");
    assert!(overdue.age >= MIN_OVERDUE);
    timeout(TEST_TIMEOUT, supervisor.stop()).await.expect("it stops");
}

/// Finishes when its sender is dropped.
struct Consumer(mpsc::Receiver<()>, bool);

impl Job for Consumer {
    type Error = std::convert::Infallible;

    async fn wait(&mut self) {
        self.1 = self.0.recv().await.is_none();
    }

    async fn run_once(&mut self) -> Result<Next, Self::Error> {
        Ok(if self.1 { Next::Finished } else { Next::Wait })
    }
}

#[tokio::test]
async fn a_job_that_has_finished_is_never_overdue() {
    let supervisor = Supervisor::default();
    let (sender, receiver) = mpsc::channel(1);
    supervisor.start_until_finished("consumer", INTERVAL, Consumer(receiver, false));
    supervisor.stop().await;
    sender.send(()).await.expect("it is not stopped by the others' end");
    drop(sender);
    let is_finished = || {
        let jobs = supervisor.0.jobs.lock().expect("no panic");
        jobs[0].is_finished.load(Ordering::Relaxed)
    };
    let finished = async {
        while !is_finished() {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    timeout(TEST_TIMEOUT, finished).await.expect("it ends");
    assert_eq!(supervisor.overdue(), None);
}
