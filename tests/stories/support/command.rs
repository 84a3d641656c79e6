//! Runs the command line as a person or a script would.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;

use super::{Service, TEST_TIMEOUT};

/// The output and exit code of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// `gateway-events` with these arguments, separated by spaces, and an empty environment.
pub(crate) fn command(arguments: &str) -> Command {
    program(env!("CARGO_BIN_EXE_gateway-events"), arguments)
}

/// `gateway-events-bench` with these arguments and an empty environment.
pub(crate) fn bench_command(arguments: &str) -> Command {
    program(env!("CARGO_BIN_EXE_gateway-events-bench"), arguments)
}

fn program(path: &str, arguments: &str) -> Command {
    let mut command = Command::new(path);
    command.args(arguments.split_whitespace()).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub(crate) async fn run(command: &mut Command) -> CommandOutput {
    let running = command.spawn().expect("the binary starts");
    let ended = tokio::time::timeout(TEST_TIMEOUT, running.wait_with_output()).await;
    ended.expect("it ends in time").expect("it ends").into()
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl CommandOutput {
    /// Asserts that it succeeded without remarks, and returns its output.
    #[track_caller]
    pub(crate) fn well(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.err, "", "{self:?}");
        &self.out
    }

    /// Asserts that it succeeded and printed JSON only, and returns that.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.well()).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Asserts that it failed with this exit code, printed nothing on standard output, and each of
    /// these on standard error.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        for text in says {
            assert!(self.err.contains(text), "{text:?} is missing: {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}

impl Service {
    /// A client command for this service, with the first admin token.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        self.client(command(arguments))
    }

    /// The load generator with the address and the first admin token of this service.
    pub(crate) fn bench_command(&self, arguments: &str) -> Command {
        self.client(bench_command(arguments))
    }

    fn client(&self, mut command: Command) -> Command {
        command
            .env("GATEWAY_EVENTS_URL", format!("https://localhost:{}", self.port))
            .env("GATEWAY_EVENTS_TOKEN", &self.token)
            .env("GATEWAY_EVENTS_CA_FILE", self.certificate());
        command
    }

    /// Runs a client command.
    pub(crate) async fn run(&self, arguments: &str) -> CommandOutput {
        run(&mut self.command(arguments)).await
    }
}
