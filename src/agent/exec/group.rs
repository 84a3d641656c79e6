//! The process group of a running program.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;

/// A group. Dropping it kills all of its processes, unless they were [left](Self::leave) alone.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

impl Group {
    /// The group of a program that was started as its leader.
    pub(super) fn of_leader(child: &Child) -> Self {
        child.id().map_or(Self(None), Self::of)
    }

    /// The group that this process leads.
    pub(super) fn of(leader: u32) -> Self {
        Self(i32::try_from(leader).ok().and_then(Pid::from_raw))
    }

    /// Sends all of its processes a signal.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(group) = self.0 else { return };
        match kill_process_group(group, signal) {
            // All of them have ended. Ids of processes are reused in turn, so not this soon.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => {
                tracing::warn!(group = group.as_raw_pid(), %error, "failed to signal the program");
            }
        }
    }

    /// Leaves what is still running alone.
    pub(super) fn leave(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
