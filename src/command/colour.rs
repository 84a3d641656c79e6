//! Colours by meaning, on a terminal only, and not if `NO_COLOR` is set (no-color.org).

use std::io::{self, IsTerminal as _};

/// What a word says about a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Healthy or successful.
    Good,
    /// Needs attention, or is in progress.
    Attention,
    /// Failed.
    Bad,
    /// Ended or disabled.
    Quiet,
}

impl Meaning {
    /// The meaning of a state; of its first word, if it has several.
    pub fn of(state: &str) -> Option<Self> {
        let word = state.split([' ', ':', ',']).next()?;
        Some(match word {
            "ok" | "connected" | "live" | "delivered" | "received" | "applied" | "opened"
            | "published" | "valid" | "done" => Self::Good,
            "behind" | "away" | "pending" | "unknown" | "paused" | "warn" | "redriven"
            | "running" | "queued" | "expiring" | "unmatched" | "retry" => Self::Attention,
            "failing" | "failed" | "dead" | "lost" | "revoked" | "expired" | "refused"
            | "rejected" | "fail" | "gap" => Self::Bad,
            "disabled" | "deleted" | "closed" | "stopped" | "trimmed" | "filtered"
            | "superseded" | "skipped" | "purged" | "aborted" => Self::Quiet,
            _ => return None,
        })
    }

    /// The text in the colour of this meaning.
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Good => "32",
            Self::Attention => "33",
            Self::Bad => "31",
            Self::Quiet => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Whether standard output shows colours.
pub fn is_coloured() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// A state in its colour, if standard output shows colours.
pub fn state(text: &str) -> String {
    match Meaning::of(text) {
        Some(meaning) if is_coloured() => meaning.paint(text),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_the_meaning_of_its_first_word() {
        assert_eq!(Meaning::of("dead letter"), Some(Meaning::Bad));
        assert_eq!(Meaning::of("failing: 4 refused"), Some(Meaning::Bad));
        assert_eq!(Meaning::of("delivered since"), Some(Meaning::Good));
        assert_eq!(Meaning::of("berlin"), None);
        assert_eq!(Meaning::Bad.paint("x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
