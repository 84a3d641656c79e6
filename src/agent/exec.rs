//! Runs a program for each event: the event as JSON on standard input, its main members in the
//! environment. The exit status is the answer.
//!
//! Each run is a process group of its own, which is ended at the time limit. A run may outlive an agent
//! that was killed; it inherits a locked file, and the next agent waits for it, or ends it at the time
//! limit, so that two programs never handle events of one position file at the same time.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};

use super::delivery::Delivery;
use super::outcome::{Answer, Reply};

mod group;
mod output;
mod running;

use group::Group;
use output::Output;
use running::Running;

/// How long output is awaited after the program has ended: a child that it left behind may keep the
/// pipes open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// How long a killed program may take to end. One that waits for a broken disk can't be killed.
const END_OF_KILLED: Duration = Duration::from_secs(5);
/// Variables with this prefix configure the agent, and may contain its key.
const PREFIX: &str = "GATEWAY_EVENTS";

/// Why a program can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such file.
    #[error("{} was not found{}", name.display(), if *.searched { " in the folders of PATH" } else { "" })]
    Missing {
        /// Its path or name on the command line.
        name: PathBuf,
        /// Whether it was searched in PATH.
        searched: bool,
    },
    /// It is not a file.
    #[error("{} is a directory; name a program in it", .0.display())]
    Directory(PathBuf),
    /// It can't be executed.
    #[error("{} is not an executable file; run `chmod +x` on it", .0.display())]
    NotExecutable(PathBuf),
}

/// A program, and how it is run.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    limit: Duration,
    grace: Duration,
    running: Running,
}

/// How a run ended.
enum End {
    /// The program exited.
    Status(io::Result<ExitStatus>),
    /// It exceeded the time limit and was killed.
    TimedOut,
}

impl Program {
    /// A program in this file, or by this name in PATH. Each run may take `limit`, and `grace` to end
    /// after SIGTERM. `lock` is the file that runs inherit.
    pub fn new(
        name: &Path,
        arguments: Vec<OsString>,
        limit: Duration,
        grace: Duration,
        lock: PathBuf,
    ) -> Result<Self, ProgramError> {
        let path = find(name)?;
        Ok(Self { path, arguments, limit, grace, running: Running::new(lock) })
    }

    /// Waits for a program of an agent that was killed, as long as it may take, and then ends it.
    pub async fn wait_for_previous(&self) {
        self.running.wait(self.limit, self.grace).await;
    }

    pub(super) async fn run(&self, delivery: &Delivery<'_>) -> Reply {
        let (mut child, group) = match self.spawn(delivery) {
            Ok(started) => started,
            Err(error) => {
                let path = self.path.display();
                let why = self.unrunnable(&error);
                return Reply::Unavailable(format!("failed to run {path}: {error}{why}"));
            }
        };
        let (mut said, mut complained) = (Output::default(), Output::default());
        let (input, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let end = {
            let pipes = async {
                tokio::join!(feed(input, &delivery.frame), said.read(out), complained.read(err));
            };
            let mut pipes = std::pin::pin!(pipes.fuse());
            let end = tokio::select! {
                end = self.end(&mut child, group) => end,
                never = async { pipes.as_mut().await; std::future::pending().await } => never,
            };
            if !pipes.is_terminated() {
                let _ = timeout(LAST_OUTPUT, pipes).await;
            }
            end
        };
        tracing::debug!(
            event = delivery.id.as_ref(),
            stdout = said.text().as_ref(),
            stderr = complained.text().as_ref(),
            "the program has ended"
        );
        match end {
            End::Status(Ok(status)) => Reply::Answered(Answer::of_exit(status, complained.bytes())),
            End::Status(Err(error)) => {
                Reply::Unavailable(format!("failed to wait for it: {error}"))
            }
            End::TimedOut => Reply::Answered(Answer::of_timeout(self.limit, complained.bytes())),
        }
    }

    /// What the error of a program that can't be run means, if it misleads.
    fn unrunnable(&self, error: &io::Error) -> &'static str {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) if self.path.exists() => {
                "; the file exists, but the interpreter that its first line names does not: look at the \
                 path after #! and for Windows line endings"
            }
            Some(Errno::NOEXEC) => {
                "; it is neither a binary of this machine, nor does it begin with #!, such as #!/bin/sh"
            }
            _ => "",
        }
    }

    fn spawn(&self, delivery: &Delivery<'_>) -> io::Result<(Child, Group)> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(PREFIX) {
                command.env_remove(name);
            }
        }
        command
            .env("GATEWAY_EVENTS_ID", delivery.id.as_ref())
            .env("GATEWAY_EVENTS_TYPE", delivery.kind)
            .env("GATEWAY_EVENTS_SEQUENCE", delivery.sequence.to_string());
        if let Some(id) = delivery.correlation_id {
            command.env("GATEWAY_EVENTS_CORRELATION_ID", id);
        }
        if let Some(attempt) = delivery.attempt {
            command.env("GATEWAY_EVENTS_ATTEMPT", attempt.to_string());
        }
        // Held by the child alone from here on.
        let inherited = self.running.begin();
        let child = command.spawn()?;
        if let Some(file) = inherited {
            Running::note(&file, &child);
        }
        let group = Group::of_leader(&child);
        Ok((child, group))
    }

    /// Waits for the end of a program. At the time limit, ends it and all of its group.
    async fn end(&self, child: &mut Child, mut group: Group) -> End {
        tokio::select! {
            biased;
            status = child.wait() => {
                group.leave();
                return End::Status(status);
            }
            () = sleep(self.limit) => {}
        }
        group.signal(Signal::TERM);
        // Its status does not count any more: it may have been ended in the middle of its work.
        let _ = timeout(self.grace, child.wait()).await;
        // Its children, too, which may have ignored the first signal.
        group.signal(Signal::KILL);
        group.leave();
        if timeout(END_OF_KILLED, child.wait()).await.is_err() {
            tracing::error!(pid = child.id(), "the program can't be killed");
        }
        End::TimedOut
    }
}

/// Writes the event. A program that does not read it has closed the pipe or leaves it full.
async fn feed(input: Option<ChildStdin>, text: &str) {
    let Some(mut input) = input else { return };
    let _ = input.write_all(text.as_bytes()).await;
}

/// The absolute path of an executable file.
fn find(name: &Path) -> Result<PathBuf, ProgramError> {
    let is_path = name.components().count() > 1 || name.is_absolute();
    if is_path {
        let path = std::path::absolute(name).unwrap_or_else(|_| name.to_owned());
        return match std::fs::metadata(&path) {
            Ok(_) if is_executable(&path) => Ok(path),
            Ok(found) if found.is_dir() => Err(ProgramError::Directory(path)),
            Ok(_) => Err(ProgramError::NotExecutable(path)),
            Err(_) => Err(ProgramError::Missing { name: path, searched: false }),
        };
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(name));
    let found =
        found.filter_map(|path| std::path::absolute(path).ok()).find(|it| is_executable(it));
    found.ok_or_else(|| ProgramError::Missing { name: name.to_owned(), searched: true })
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}
