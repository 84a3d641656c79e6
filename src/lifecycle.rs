//! From the outside in: signals, and what they ask for.

use std::io;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Graceful,
    /// A second signal cut it short.
    Interrupted,
    /// The store failed; a restart reads the truth again.
    StoreFailed,
    /// The listener accepts nothing more.
    ListenerFailed,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Graceful => Self::SUCCESS,
            Outcome::Interrupted => Self::from(130),
            Outcome::StoreFailed | Outcome::ListenerFailed => Self::FAILURE,
        }
    }
}

/// What the process is asked to do from outside; tests cancel them by hand.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// End in good order.
    pub graceful: CancellationToken,
    /// End at once.
    pub immediate: CancellationToken,
    /// Read the certificates again.
    pub reload: std::sync::Arc<tokio::sync::Notify>,
}

impl Signals {
    /// Listens to SIGTERM and SIGINT (the first: graceful, the second: at
    /// once), and to SIGHUP (reload).
    pub fn of_process() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let signals = Self::default();
        let ours = signals.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => ours.asked_to_end(),
                    _ = interrupt.recv() => ours.asked_to_end(),
                    _ = hang_up.recv() => ours.reload.notify_one(),
                }
            }
        });
        Ok(signals)
    }

    fn asked_to_end(&self) {
        if self.graceful.is_cancelled() {
            self.immediate.cancel();
        } else {
            self.graceful.cancel();
        }
    }
}
