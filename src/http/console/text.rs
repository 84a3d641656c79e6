//! Texts that someone else wrote, and instants. Control and format characters, which could change
//! how the text around them is displayed, are replaced; long texts are shortened.

use std::fmt::Write as _;

use maud::{Markup, html};
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::names;

/// Characters of a text that are shown at once; the whole is one click away.
const SHOWN: usize = 160;

/// A name or another short text in a line.
pub(super) fn said(text: &str) -> Markup {
    shortened(text, SHOWN)
}

/// Sentences, which may name what others wrote.
pub(super) fn sentences(text: &str) -> Markup {
    shortened(text, 5 * SHOWN)
}

fn shortened(text: &str, most: usize) -> Markup {
    let inert = names::inert(text);
    if inert.chars().count() <= most {
        return html! { bdi { (inert) } };
    }
    let start: String = inert.chars().take(SHOWN / 2).collect();
    html! {
        details.long {
            summary { bdi { (start) "…" } }
            bdi { (inert) }
        }
    }
}

/// The start of a text, where there is no room for the whole.
pub(super) fn short(text: &str, most: usize) -> String {
    let inert = names::inert(text);
    if inert.chars().count() <= most {
        return inert;
    }
    let start: String = inert.chars().take(most).collect();
    format!("{start}…")
}

/// A text of several lines: line breaks and tabs stay.
pub(super) fn lines(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' => c,
        c if names::is_invisible(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(visible).collect()
}

/// JSON with its invisible characters as escapes: the same value, which can be displayed and copied
/// without loss. Outside of strings, the only invisible characters of JSON are white space.
pub(super) fn visible_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' => {}
            c if names::is_invisible(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a string does not fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Says that [`visible_json`] shows some characters as escapes, if it does.
pub(super) fn escapes(text: &str) -> &'static str {
    let is_escaped = |c: char| !matches!(c, '\n' | '\t' | '\r') && names::is_invisible(c);
    if text.chars().any(is_escaped) { "; invisible characters are shown as escapes" } else { "" }
}

/// JSON with indentation. The text of each value stays as it is: numbers keep their digits and
/// objects their order.
pub(super) fn pretty(json: &RawValue) -> String {
    let (mut out, mut depth, mut is_string, mut is_escaped) =
        (String::new(), 0_usize, false, false);
    let mut characters = json.get().chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = characters.next() {
        if is_string {
            out.push(c);
            is_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
            continue;
        }
        match c {
            '"' => {
                is_string = true;
                out.push(c);
            }
            '{' | '[' => {
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                out.push(c);
                if let Some(end) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => out.push(c),
        }
    }
    visible_json(&out)
}

/// An instant: how long ago it is, with the exact instant for programs and on hover.
pub(super) fn when(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) title=(exact(at)) { (ago(at, now)) } }
}

/// An instant that may be missing.
pub(super) fn when_any(at: Option<Timestamp>, now: Timestamp) -> Markup {
    at.map_or_else(none, |at| when(at, now))
}

/// In place of a missing value.
pub(super) fn none() -> Markup {
    html! { span.none { "–" } }
}

/// An instant to the second, in UTC.
pub(super) fn exact(at: Timestamp) -> String {
    let text = at.to_string();
    match text.get(..19) {
        Some(start) => format!("{} UTC", start.replacen('T', " ", 1)),
        None => text,
    }
}

/// How long ago an instant is, or how far in the future.
fn ago(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        return format!("in {}", span(at.since(now).as_secs()));
    }
    match now.since(at).as_secs() {
        0..5 => "just now".to_owned(),
        secs => format!("{} ago", span(secs)),
    }
}

/// A duration in its largest unit.
pub(super) fn span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min", secs / 60),
        3600..86_400 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// A number with its thousands apart.
pub(super) fn number(number: impl TryInto<i64>) -> String {
    let number = number.try_into().unwrap_or(i64::MAX);
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    if number < 0 { format!("−{grouped}") } else { grouped }
}

/// How many there are of something.
pub(super) fn count(number_of: impl TryInto<i64>, one: &str, many: &str) -> String {
    let count = number_of.try_into().unwrap_or(i64::MAX);
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_inert_and_shortened() {
        let hostile = said("<script>\u{202e}&\"\u{0}").into_string();
        assert_eq!(hostile, "<bdi>&lt;script&gt;\u{fffd}&amp;&quot;\u{fffd}</bdi>");
        let long = said(&"x".repeat(10_000)).into_string();
        assert!(long.starts_with("<details class=\"long\"><summary>") && long.len() < 11_000);
    }

    #[test]
    fn json_keeps_its_digits_and_its_order() {
        let text = r#"{"b":1.10, "a" : [ ],"s":"x,\"{:\\","n":{"z":[1e400,{ }]}}"#;
        let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
        let expected = "{\n  \"b\": 1.10,\n  \"a\": [],\n  \"s\": \"x,\\\"{:\\\\\",\n  \"n\": {\n    \"z\": [\n      1e400,\n      {}\n    ]\n  }\n}";
        assert_eq!(pretty(&raw), expected);
    }

    #[test]
    fn json_with_invisible_characters_is_shown_and_copied_whole() {
        let text = "{\r\n\t\"a\": \"x\u{200d}\u{202e}\u{e0041}é\"}";
        let shown = visible_json(text);
        assert_eq!(shown, "{\n\t\"a\": \"x\\u200d\\u202e\\udb40\\udc41é\"}");
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&shown), value(text));
        assert!(!escapes(text).is_empty() && escapes("{\"a\": 1}\n").is_empty());
    }

    #[test]
    fn numbers_and_ages_are_readable() {
        assert_eq!(number(1_234_567_i64), "1\u{202f}234\u{202f}567");
        assert_eq!((number(-12), number(100)), ("−12".to_owned(), "100".to_owned()));
        let at = Timestamp::from_micros(1_767_225_600_000_000);
        for (secs, text) in [(0, "just now"), (59, "59 s ago"), (7200, "2 h ago")] {
            let now = at.plus(std::time::Duration::from_secs(secs));
            assert_eq!(ago(at, now), text);
        }
        assert_eq!(ago(at.plus(std::time::Duration::from_mins(2)), at), "in 2 min");
        assert_eq!(exact(at), "2026-01-01 00:00:00 UTC");
    }
}
