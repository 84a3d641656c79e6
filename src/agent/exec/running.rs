//! A file that is locked while a program runs, even if the agent was killed meanwhile: the program
//! inherits the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::time::{Instant, sleep};

use crate::files::PRIVATE;

/// The interval of attempts to lock the file.
const POLL: Duration = Duration::from_millis(50);

/// The file. It stays, and is always empty.
#[derive(Debug)]
pub(super) struct Running {
    path: PathBuf,
}

impl Running {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The locked file, which the next program inherits; drop it after the start. `None` if the file
    /// can't be locked, because something that an earlier program left behind has it.
    pub(super) fn begin(&self) -> Option<File> {
        let inherited = self.lock().and_then(|file| {
            let Some(file) = file else { return Ok(None) };
            fcntl_setfd(&file, FdFlags::empty())?;
            Ok(Some(file))
        });
        inherited.unwrap_or_else(|error| {
            tracing::warn!(path = %self.path.display(), %error, "failed to lock the file of programs");
            None
        })
    }

    /// Waits until no program of an earlier agent runs, at most for `limit`.
    pub(super) async fn wait(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut is_waiting = false;
        while matches!(self.lock(), Ok(None)) {
            if !is_waiting {
                tracing::info!("waiting for the program of an agent that was killed");
                is_waiting = true;
            }
            if Instant::now() >= deadline {
                tracing::warn!("a program of an earlier agent is still running; continuing");
                return;
            }
            sleep(POLL).await;
        }
    }

    /// The locked file; `None` if it is locked already.
    fn lock(&self) -> io::Result<Option<File>> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(PRIVATE);
        let file = options.open(&self.path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
