//! Signals, and how a run of the service ends.

use std::fmt;
use std::io;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

/// How a run of the service ended. Decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A signal requested it.
    Graceful,
    /// A second signal ended the shutdown early.
    Interrupted,
    /// The store failed; a restart reads from disk what it kept.
    StoreFailed,
    /// The listener failed.
    ListenerFailed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Graceful => "a signal requested it",
            Self::Interrupted => "a second signal ended the shutdown early",
            Self::StoreFailed => "the store failed",
            Self::ListenerFailed => "the listener failed",
        })
    }
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

/// What signals request. Tests cancel the tokens directly.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// Shut down gracefully.
    pub graceful: CancellationToken,
    /// Exit immediately.
    pub immediate: CancellationToken,
    /// Reload the certificates.
    pub reload: std::sync::Arc<tokio::sync::Notify>,
}

impl Signals {
    /// Installs handlers for SIGTERM and SIGINT (the first signal shuts down gracefully, the
    /// second exits immediately) and SIGHUP (reload).
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
                    _ = terminate.recv() => ours.request_end(),
                    _ = interrupt.recv() => ours.request_end(),
                    _ = hang_up.recv() => ours.reload.notify_one(),
                }
            }
        });
        Ok(signals)
    }

    fn request_end(&self) {
        if self.graceful.is_cancelled() {
            self.immediate.cancel();
        } else {
            self.graceful.cancel();
        }
    }
}
