//! A file that is locked while a program runs, even if the agent was killed meanwhile: the program
//! inherits the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::group::Group;
use crate::files::PRIVATE;

/// The interval of attempts to lock the file.
const POLL: Duration = Duration::from_millis(50);

/// How long the processes of a program may take to end after SIGKILL.
const END_OF_KILLED: Duration = Duration::from_secs(5);

/// The file. It stays, and contains the id and the start time of the last program.
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
            tracing::warn!(path = %self.path.display(), %error, "failed to lock the program lock file");
            None
        })
    }

    /// Notes the program that has inherited the file.
    pub(super) fn note(file: &File, child: &Child) {
        let Some((pid, started)) = child.id().and_then(|pid| Some((pid, start_time(pid)?))) else {
            return;
        };
        let text = format!("{pid} {started}\n");
        if let Err(error) = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0)) {
            tracing::warn!(%error, "failed to record the running program");
        }
    }

    /// Waits until no program of an earlier agent runs. One that runs for longer than `limit` is ended,
    /// as the earlier agent would have done, within `grace`.
    pub(super) async fn wait(&self, limit: Duration, grace: Duration) {
        if self.is_free_within(Duration::ZERO).await {
            return;
        }
        tracing::info!("waiting for the program of an agent that was killed");
        if self.is_free_within(limit).await {
            return;
        }
        if let Some(group) = self.group() {
            tracing::warn!("the program of an agent that was killed takes too long; ending it");
            group.signal(Signal::TERM);
            if self.is_free_within(grace).await {
                return;
            }
            group.signal(Signal::KILL);
            if self.is_free_within(END_OF_KILLED).await {
                return;
            }
        }
        tracing::warn!(
            "a process that a program of an earlier agent has left behind is still running; continuing"
        );
    }

    async fn is_free_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while matches!(self.lock(), Ok(None)) {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    /// The group of the last program, if that still runs.
    fn group(&self) -> Option<Group> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let pid: u32 = pid.parse().ok()?;
        // The id may be that of another process by now.
        (start_time(pid)?.to_string() == started).then(|| Group::of(pid))
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

/// When a process was started, in ticks since the boot (proc_pid_stat(5), field 22). Only Linux has it.
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which may contain anything.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}
