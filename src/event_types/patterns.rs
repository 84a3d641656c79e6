//! The regular expressions of a schema, and what they may cost. They run on an
//! engine that never backtracks. Most of them become a small automaton that
//! looks at each byte once. For those that do not (such as `[01]*1[01]{200}2`)
//! the time for a byte grows with the size of the compiled expression: that
//! size is limited, and a payload pays for it.

use std::collections::HashSet;

use regex_automata::dfa::dense;
use regex_automata::nfa::thompson;

/// A pattern may have this many characters,
const MAX_CHARACTERS: usize = 1024;
/// this size compiled,
const MAX_COMPILED: usize = 256 * 1024;
/// and all of a schema together this one.
const MAX_ALL_COMPILED: usize = 1024 * 1024;
/// Each has caches of its own while it is used.
const MAX_COUNT: usize = 64;

/// A deterministic automaton up to this size is built by the engine as well.
const MAX_AUTOMATON: usize = 256 * 1024;

/// What a byte costs in such an automaton, in 256ths of a unit.
const CHEAP: u64 = 64;
/// Otherwise, one unit per byte of text for so many bytes of the compiled pattern.
const BYTES_PER_UNIT: usize = 80;

/// What the evaluator's engine may take for one pattern, which it compiles for
/// both directions: more than [`MAX_COMPILED`], so that what passed here passes there.
pub(super) const ENGINE_BYTES: usize = 8 * MAX_COMPILED;
/// Cache of one pattern for one thread: room for an automaton of [`MAX_AUTOMATON`].
pub(super) const ENGINE_CACHE_BYTES: usize = 2 * MAX_AUTOMATON;

/// The patterns of a schema: their sizes, and what they cost per byte of text.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    known: HashSet<String>,
    compiled: usize,
    costliest: u64,
    all: u64,
}

impl Patterns {
    /// Adds one; an error says what to change.
    pub(super) fn add(&mut self, pattern: &str) -> Result<(), String> {
        if !self.known.insert(pattern.to_owned()) {
            return Ok(());
        }
        let shown = crate::event::quoted(pattern);
        if self.known.len() > MAX_COUNT {
            return Err(format!("has more than {MAX_COUNT} patterns; use fewer"));
        }
        if pattern.chars().count() > MAX_CHARACTERS {
            return Err(format!(
                "has a pattern of more than {MAX_CHARACTERS} characters ({shown}); shorten it"
            ));
        }
        let too_large = || {
            format!(
                "has a pattern that compiles to more than {} KiB ({shown}); shorten its counted repetitions, for example with + and maxLength",
                MAX_COMPILED / 1024
            )
        };
        let (size, cost) = measure(pattern).map_err(|error| match error {
            Unusable::TooLarge => too_large(),
            Unusable::Syntax => format!(
                "has a pattern that is no regular expression of the supported kind, which has no look-around and no back-references: {shown}"
            ),
        })?;
        self.compiled += size;
        self.costliest = self.costliest.max(cost);
        self.all = self.all.saturating_add(cost);
        if self.compiled > MAX_ALL_COMPILED {
            return Err(format!(
                "has patterns that compile to more than {} KiB together; shorten their counted repetitions",
                MAX_ALL_COMPILED / 1024
            ));
        }
        Ok(())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// What matching a byte against the costliest one costs, in 256ths of a unit.
    pub(super) const fn costliest(&self) -> u64 {
        self.costliest
    }

    /// The same against all of them.
    pub(super) const fn all(&self) -> u64 {
        self.all
    }
}

enum Unusable {
    Syntax,
    TooLarge,
}

/// The size of a compiled pattern, and what a byte of text costs.
fn measure(pattern: &str) -> Result<(usize, u64), Unusable> {
    let translated = jsonschema_regex::to_rust_regex(pattern).map_err(|()| Unusable::Syntax)?;
    let limit = thompson::Config::new().nfa_size_limit(Some(MAX_COMPILED));
    let nfa =
        thompson::Compiler::new().configure(limit).build(&translated).map_err(
            |error| match error.size_limit() {
                Some(_) => Unusable::TooLarge,
                None => Unusable::Syntax,
            },
        )?;
    let limits = dense::Config::new()
        .dfa_size_limit(Some(MAX_AUTOMATON))
        .determinize_size_limit(Some(MAX_AUTOMATON));
    let size = nfa.memory_usage();
    let cost = match dense::Builder::new().configure(limits).build_from_nfa(&nfa) {
        Ok(_) => CHEAP,
        Err(_) => u64::try_from(size.div_ceil(BYTES_PER_UNIT)).unwrap_or(u64::MAX) * 256,
    };
    Ok((size, cost))
}

/// Checks the format `regex` of a payload's text, within the limits of a pattern.
pub(super) fn is_regex(text: &str) -> bool {
    text.len() <= MAX_CHARACTERS && jsonschema_regex::to_rust_regex(text).is_ok()
}

/// A URI fragment with its escapes resolved; `None` if that is no text.
pub(super) fn percent_decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, after @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let text = std::str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(text, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}
