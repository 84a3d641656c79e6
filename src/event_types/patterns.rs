//! Limits the cost of a schema's regular expressions. The engine never backtracks. Most expressions
//! become a small automaton that examines each byte once. For the others (such as
//! `[01]*1[01]{200}2`), the time per byte grows with the size of the compiled expression, so that
//! size is limited and a payload pays for it.

use std::collections::HashSet;

use regex_automata::dfa::dense;
use regex_automata::nfa::thompson;

/// The maximum number of characters of a pattern.
const MAX_CHARACTERS: usize = 1024;
/// The maximum size of a compiled pattern, in bytes.
const MAX_COMPILED: usize = 256 * 1024;
/// The maximum size of all compiled patterns of a schema, in bytes.
const MAX_ALL_COMPILED: usize = 1024 * 1024;
/// The maximum number of patterns of a schema. Each has its own caches while it is used.
const MAX_COUNT: usize = 64;

/// Up to this size, in bytes, the engine also builds a deterministic automaton.
const MAX_AUTOMATON: usize = 256 * 1024;

/// The cost of a byte of text in such an automaton, in 256ths of a unit.
const CHEAP: u64 = 64;
/// For other patterns, a byte of text costs one unit per this many bytes of the compiled pattern.
const BYTES_PER_UNIT: usize = 80;

/// The evaluator's limit for one pattern, which it compiles for both directions. Larger than
/// [`MAX_COMPILED`], so that a pattern accepted here is accepted there.
pub(super) const ENGINE_BYTES: usize = 8 * MAX_COMPILED;
/// The cache of one pattern per thread: room for an automaton of [`MAX_AUTOMATON`].
pub(super) const ENGINE_CACHE_BYTES: usize = 2 * MAX_AUTOMATON;

/// The patterns of a schema, with their sizes and their cost per byte of text.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    known: HashSet<String>,
    compiled: usize,
    costliest: u64,
    all: u64,
}

impl Patterns {
    /// Adds a pattern. The error says what to change.
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
                "has a pattern that is not a supported regular expression (look-around and back-references are not supported): {shown}"
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

    /// The number of patterns.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// The cost of matching a byte against the costliest pattern, in 256ths of a unit.
    pub(super) const fn costliest(&self) -> u64 {
        self.costliest
    }

    /// The cost of matching a byte against all patterns, in 256ths of a unit.
    pub(super) const fn all(&self) -> u64 {
        self.all
    }
}

enum Unusable {
    Syntax,
    TooLarge,
}

/// The size of a compiled pattern, and its cost per byte of text.
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

/// Whether a string is a regular expression within the limits of a pattern, for the format `regex`.
pub(super) fn is_regex(text: &str) -> bool {
    text.len() <= MAX_CHARACTERS && jsonschema_regex::to_rust_regex(text).is_ok()
}

/// Decodes a URI fragment; `None` if the result is not UTF-8.
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
