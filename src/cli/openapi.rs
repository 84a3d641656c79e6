//! `openapi`: print the OpenAPI document of the HTTP API.

use std::process::ExitCode;

use gateway_events::http::openapi;

use super::output::say;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    say(openapi::json().trim_end())?;
    Ok(ExitCode::SUCCESS)
}
