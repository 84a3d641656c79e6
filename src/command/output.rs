//! What commands print: text for people, JSON for programs. Control and format characters
//! are replaced in text from other sources, so that it can't control the terminal or change
//! the order of what is shown. A closed pipe (`| head`) is not an error.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

use super::formats::Format;
use super::text::prose;
pub use super::text::{clean, width, wrapped_with};
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

/// Prints a note on standard error; on a terminal, lines that are too long are wrapped.
pub fn note(text: impl std::fmt::Display) {
    let text = prose(&text.to_string(), io::stderr());
    // If standard error is closed, nothing can be reported.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints indented JSON on standard output.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(say(Format::Json.text(value)?.unwrap_or_default())?)
}

/// Prints a response: as JSON, in the format that was [chosen](Format::choose), or in the form that
/// `shown` gives it.
pub fn answer<T: Serialize>(
    as_json: bool,
    value: &T,
    shown: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    let format = if as_json { Format::Json } else { Format::chosen() };
    match format.text(value)? {
        // A list of lines without elements.
        Some(text) if text.is_empty() => {}
        Some(text) => say(text)?,
        None => say(shown(value).trim_end())?,
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

/// A cell for a value that may be missing: `-` if it is.
pub fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), cell)
}

/// How long ago an instant was, for a table's cell: `3 m ago`, or `in 5 d`, in a form that `--from`
/// accepts. The [exact](time) instant unless tables have ages.
pub fn age(at: impl Into<Option<Timestamp>>) -> String {
    match at.into() {
        Some(at) if Format::chosen() == Format::Table => age_at(at, Timestamp::now()),
        at => time(at),
    }
}

fn age_at(at: Timestamp, now: Timestamp) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let is_past = at <= now;
    let seconds = if is_past { now.since(at) } else { at.since(now) }.as_secs();
    let text = match seconds {
        0..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} m", seconds / MINUTE),
        seconds if seconds < 2 * DAY => format!("{} h", seconds / HOUR),
        seconds => format!("{} d", seconds / DAY),
    };
    if is_past { format!("{text} ago") } else { format!("in {text}") }
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
            note(format_args!("{program}: {}", described(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, without causes that the text contains already.
pub fn described(error: &anyhow::Error) -> String {
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
    fn an_age_has_one_unit() {
        let now = Timestamp::from_micros(1_767_225_600_000_000);
        for (seconds, shown) in [
            (0, "0 s ago"),
            (59, "59 s ago"),
            (60, "1 m ago"),
            (3599, "59 m ago"),
            (3600, "1 h ago"),
            (172_799, "47 h ago"),
            (172_800, "2 d ago"),
        ] {
            let at = now.minus(std::time::Duration::from_secs(seconds));
            assert_eq!(age_at(at, now), shown);
        }
        assert_eq!(age_at(now.plus(std::time::Duration::from_secs(90)), now), "in 1 m");
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
