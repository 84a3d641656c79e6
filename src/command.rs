//! What the two programs' command lines have in common: options of a client, output,
//! tables, confirmations, signals, and a service started as a child process.

use std::process::ExitCode;
use std::time::Duration;

pub mod access;
pub mod colour;
pub mod confirm;
pub mod context;
pub mod formats;
pub mod interrupt;
pub mod number;
pub mod output;
pub mod service;
pub mod table;
mod text;
pub mod time;

/// How long the process waits at its end for blocking calls, such as one to a disk that
/// does not respond.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs a command to its end on a new runtime. An error is printed on standard error
/// after the name of the program.
pub fn block_on(
    program: &str,
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> ExitCode {
    let result = tokio::runtime::Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let result = runtime.block_on(command);
        runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        result
    });
    output::exit_code(program, result)
}
