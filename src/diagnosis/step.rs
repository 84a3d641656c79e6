//! What to do next.

use crate::event::GatewayId;
use crate::names::inert;
use crate::store::Labels;

/// Characters of a quotation, at most.
const MAX_QUOTE_CHARS: usize = 160;

/// Something to do, and the command that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Why, in a sentence.
    pub why: String,
    /// The arguments of `gateway-events`, quoted for a shell where needed.
    pub command: String,
}

impl Step {
    pub(super) fn new(why: impl Into<String>, command: impl Into<String>) -> Self {
        Self { why: why.into(), command: format!("gateway-events {}", command.into()) }
    }
}

/// A gateway in a command: its name if that is a plain word, otherwise its id.
pub(super) fn gateway_word(name: &str, id: GatewayId) -> String {
    if is_word(name) { name.to_owned() } else { id.to_string() }
}

/// A text as one argument of a shell.
pub(crate) fn argument(text: &str) -> String {
    if is_word(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Labels as options.
pub(super) fn label_options(labels: &Labels) -> String {
    let options = labels.iter().map(|(name, value)| {
        let text = format!("{name}={value}");
        format!("--label {}", argument(&text))
    });
    options.collect::<Vec<_>>().join(" ")
}

/// Whether a shell and the command line take a text for one plain argument.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:=/@+,".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain)
}

/// What another program said, in a sentence: one line without effect on a terminal, shortened.
pub(super) fn quoted(text: &str) -> String {
    let text = inert(text.trim());
    let mut quoted: String = text.chars().take(MAX_QUOTE_CHARS).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    format!("\"{quoted}\"")
}

/// Labels in a sentence.
pub(super) fn labels_in_words(labels: &Labels) -> String {
    let parts = labels.iter().map(|(name, value)| format!("{name}={value}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// A number with its noun.
pub(super) fn count(number: i64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_is_one_short_line() {
        assert_eq!(quoted(" no\u{1b}[31m\nway "), "\"no\u{fffd}[31m way\"");
        assert_eq!(quoted(&"é".repeat(MAX_QUOTE_CHARS)), format!("\"{}\"", "é".repeat(160)));
        assert_eq!(quoted(&"é".repeat(161)), format!("\"{}…\"", "é".repeat(160)));
    }

    #[test]
    fn an_argument_is_quoted_if_a_shell_would_split_or_expand_it() {
        assert_eq!(argument("region=eu-west"), "region=eu-west");
        assert_eq!(argument("it's $(here)"), r"'it'\''s $(here)'");
        for odd in ["", "-x", "a b", "a;b", "é", "a\u{202e}b"] {
            assert!(argument(odd).starts_with('\''), "{odd:?}");
        }
        let id = GatewayId::new();
        assert_eq!(gateway_word("berlin-1", id), "berlin-1");
        assert_eq!(gateway_word("a b", id), id.to_string());
    }
}
