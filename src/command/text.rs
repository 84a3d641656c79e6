//! Text for the terminal: control and format characters replaced, and lines wrapped.

use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;
use unicode_width::UnicodeWidthStr as _;

use crate::names::is_invisible;

/// The width if standard output is not a terminal.
const DEFAULT_WIDTH: usize = 80;
/// The indentation of continuation lines.
pub(super) const INDENT: &str = "    ";

/// The text with control and format characters replaced by U+FFFD.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_invisible(c) { '\u{fffd}' } else { c }).collect()
}

/// Text whose lines are wrapped between words if `terminal` is one.
pub(super) fn prose(text: &str, terminal: impl AsFd) -> String {
    match terminal_width(terminal) {
        Some(width) => {
            let lines: Vec<String> = text.lines().map(|line| wrapped(line, width)).collect();
            lines.join("\n")
        }
        None => text.to_owned(),
    }
}

/// The width of standard output: that of the terminal, or 80 columns.
pub fn width() -> usize {
    terminal_width(std::io::stdout()).unwrap_or(DEFAULT_WIDTH)
}

/// The number of columns; `None` if it is not a terminal.
pub(super) fn terminal_width(terminal: impl AsFd) -> Option<usize> {
    let columns = usize::from(tcgetwinsize(terminal).ok()?.ws_col);
    (columns > 0).then_some(columns)
}

/// Wraps a line that is too wide between words; a word that is too wide is not broken.
pub(super) fn wrapped(line: &str, width: usize) -> String {
    wrapped_with(line, width, INDENT)
}

/// Wraps a line as `wrapped` does, with the given indentation of continuation lines.
pub fn wrapped_with(line: &str, width: usize, indent: &str) -> String {
    if line.width() <= width {
        return line.to_owned();
    }
    let mut text = String::new();
    let (mut used, mut has_word) = (0, false);
    for word in line.split_inclusive(' ') {
        if has_word && used + word.trim_end().width() > width {
            text.truncate(text.trim_end().len());
            text.push('\n');
            text.push_str(indent);
            (used, has_word) = (indent.width(), false);
        }
        text.push_str(word);
        used += word.width();
        has_word |= !word.trim_end().is_empty();
    }
    text
}
