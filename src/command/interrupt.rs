//! The signals that ask a command to end: SIGINT, SIGTERM and SIGHUP.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for one of the signals.
pub async fn interrupted() {
    match Interrupt::listen() {
        Ok(mut interrupt) => interrupt.received().await,
        // Without a handler, each of them ends the process.
        Err(_) => std::future::pending().await,
    }
}

/// Handlers of the signals. Once they are installed, a signal does not end the process;
/// one that arrives before [`Interrupt::received`] is called is kept.
pub struct Interrupt {
    keyboard: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupt {
    /// Installs handlers of SIGINT, SIGTERM and SIGHUP; must be called inside a runtime.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            keyboard: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.keyboard.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
