//! What commands print: text for people, JSON for programs. Control and format characters
//! are replaced in text from other sources, so that it can't control the terminal or change
//! the order of what is shown. A closed pipe (`| head`) is not an error.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

pub use super::text::clean;
use super::text::prose;
use crate::clock::Timestamp;

/// Prints a text and a line break on standard output.
pub fn say(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a text like [`say`]; on a terminal, lines that are too long are wrapped.
pub fn say_prose(text: impl std::fmt::Display) -> io::Result<()> {
    say(prose(&text.to_string(), io::stdout()))
}

/// Prints a remark on standard error; on a terminal, lines that are too long are wrapped.
pub fn remark(text: impl std::fmt::Display) {
    let text = prose(&text.to_string(), io::stderr());
    // If standard error is closed, nothing can be reported.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints indented JSON on standard output.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(say(serde_json::to_string_pretty(value)?)?)
}

/// Prints a response, as JSON or in the form that `shown` gives it.
pub fn answer<T: Serialize>(
    as_json: bool,
    value: &T,
    shown: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    if as_json {
        json(value)?;
    } else {
        say(shown(value).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A value as the text of a table's cell; `-` for an empty one.
pub fn cell(value: impl Display) -> String {
    match value.to_string() {
        text if text.is_empty() => "-".to_owned(),
        text => clean(&text),
    }
}

/// The same of a value that may be missing.
pub fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), cell)
}

/// An instant as the text of a table's cell: in UTC, truncated to milliseconds, in a form
/// that `--from` accepts.
pub fn time(at: impl Into<Option<Timestamp>>) -> String {
    let Some(at) = at.into() else {
        return "-".to_owned();
    };
    let text = at.to_string();
    text.get(..23).map_or_else(|| text.clone(), |shown| format!("{shown}Z"))
}

/// Labels as `name=value`, separated by spaces.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    let shown: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    cell(shown.join(" "))
}

/// The exit code of a command: its own, or 1 for an error, which is printed with its
/// causes on standard error after the name of the program.
pub fn exit_code(program: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            remark(format_args!("{program}: {}", described(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without causes that the text contains already.
fn described(error: &anyhow::Error) -> String {
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
    fn times_are_truncated_to_milliseconds() {
        let shown = time(Timestamp::parse("2026-01-31T09:30:00.123456Z").ok());
        assert_eq!(shown, "2026-01-31T09:30:00.123Z");
        assert_eq!(time(None::<Timestamp>), "-");
    }

    #[test]
    fn control_and_format_characters_are_replaced() {
        assert_eq!(cell("a\u{1b}[31m"), "a\u{fffd}[31m");
        assert_eq!(cell("a\u{202e}b"), "a\u{fffd}b");
    }

    #[test]
    fn a_cause_is_described_once() {
        let cause = || io::Error::other("the disk is gone");
        let repeating = anyhow::Error::new(cause()).context("no start: the disk is gone");
        assert_eq!(described(&repeating), "no start: the disk is gone");
        let plain = anyhow::Error::new(cause()).context("no start");
        assert_eq!(described(&plain), "no start: the disk is gone");
    }
}
