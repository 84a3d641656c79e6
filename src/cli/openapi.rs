//! `openapi` and `asyncapi`: print the documents of the HTTP API and of the streams.

use std::process::ExitCode;

use gateway_events::http::{asyncapi, openapi};

use super::output::say;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    say(openapi::json().trim_end())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run_asyncapi() -> anyhow::Result<ExitCode> {
    say(asyncapi::json().trim_end())?;
    Ok(ExitCode::SUCCESS)
}
