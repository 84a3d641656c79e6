//! What commands print: tables for people, JSON for programs. What came from
//! elsewhere is stripped of control characters, so that it can't drive the
//! terminal. A reader that goes away (`| head`) is no error.

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::Value;

use super::table::prose;

/// Prints a line, or a text of several.
pub(crate) fn say(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a line for people, broken between words if a terminal is too narrow.
pub(crate) fn say_prose(text: impl std::fmt::Display) -> io::Result<()> {
    say(prose(&text.to_string(), io::stdout()))
}

/// Prints a line on standard error, for what is no result.
pub(crate) fn remark(text: impl std::fmt::Display) {
    let text = prose(&text.to_string(), io::stderr());
    // A closed standard error is the reader's choice.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints JSON, indented.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    say(format_args!("{value:#}"))
}

/// Prints an answer as JSON, or as `shown` makes it readable.
pub(crate) fn answer(
    as_json: bool,
    value: &Value,
    shown: impl FnOnce(&Value) -> String,
) -> anyhow::Result<ExitCode> {
    if as_json {
        json(value)?;
    } else {
        say(shown(value).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A value as a table's cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => clean(text),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => clean(&other.to_string()),
    }
}

/// An instant as a table's cell: to the millisecond, in UTC, in a form that
/// `--from` accepts.
pub(crate) fn time(value: &Value) -> String {
    let Some(text) = value.as_str() else {
        return "-".to_owned();
    };
    match text.get(..23) {
        Some(shown) if text.ends_with('Z') => format!("{}Z", clean(shown)),
        _ => clean(text),
    }
}

/// Labels as `name=value`, one after the other.
pub(crate) fn labels(value: &Value) -> String {
    let shown: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    if shown.is_empty() { "-".to_owned() } else { clean(&shown.join(" ")) }
}

/// The elements of a list.
pub(crate) fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Text without control characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The process's end: 0, or 1 with the error and its causes on standard error.
pub(crate) fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            remark(format_args!("gateway-events: {}", told(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, but for those that it has told itself.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_milliseconds() {
        let shown = time(&Value::from("2026-01-31T09:30:00.123456Z"));
        assert_eq!(shown, "2026-01-31T09:30:00.123Z");
        assert_eq!(time(&Value::Null), "-");
    }

    #[test]
    fn nothing_from_elsewhere_drives_the_terminal() {
        assert_eq!(cell(&Value::from("a\u{1b}[31m")), "a\u{fffd}[31m");
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || io::Error::other("the disk is gone");
        let repeating = anyhow::Error::new(cause()).context("no start: the disk is gone");
        assert_eq!(told(&repeating), "no start: the disk is gone");
        let plain = anyhow::Error::new(cause()).context("no start");
        assert_eq!(told(&plain), "no start: the disk is gone");
    }
}
