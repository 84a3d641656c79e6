//! File descriptors: each connection needs one. The process raises its own limit as far as
//! permitted, and closes idle connections if the limit is reached nevertheless.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit. Returns the limit; `None` if it is unlimited.
pub(super) fn raise_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "failed to raise the limit of open files");
            soft
        }
    }
}

/// Whether an accept failed because the process or the system has no descriptor or memory left.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| lacking.contains(&errno))
}
