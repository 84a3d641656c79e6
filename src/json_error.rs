//! Why a JSON text can't be read, for those who wrote it: which member is wrong, and what it must be.
//! serde names the types of this program instead ("invalid type: null, expected u32").

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, Unexpected, Visitor};
use serde_path_to_error::Segment;

/// The largest number that all JSON parsers represent exactly (RFC 8259, section 6).
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
/// The most characters of a wrong value that an error quotes.
const QUOTED: usize = 80;
/// The most characters of a member's name that an error quotes.
const NAME: usize = 64;

/// What is wrong with a value in a JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongValue {
    /// The members and indexes that lead to it; empty if it is the whole text.
    pub path: Vec<String>,
    /// What it must be.
    pub why: String,
}

impl WrongValue {
    /// Reads a text to find the value that can't be read. `None` if the text is not JSON, or can be
    /// read.
    pub fn find<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Option<Self> {
        // An error of the syntax has another meaning at each place where it is found.
        serde_json::from_slice::<IgnoredAny>(text).ok()?;
        let mut json = serde_json::Deserializer::from_slice(text);
        let error = serde_path_to_error::deserialize::<_, T>(&mut json).err()?;
        let mut path: Vec<String> = error.path().iter().filter_map(segment).collect();
        let text = error.into_inner().to_string();
        let why = without_position(&text);
        // That of an unknown member names it already.
        let member = member(why).map(shortened);
        path.extend(member.filter(|member| path.last() != Some(member)));
        Some(Self { path, why: in_words_of_json(why) })
    }
}

fn segment(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(shortened(key)),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(NAME).collect()
}

/// The text of an error without its line and column, which mean nothing in one line.
pub fn without_position(text: &str) -> &str {
    text.rsplit_once(" at line ").map_or(text, |(why, _)| why)
}

/// The member that is missing, unknown or duplicate. Its error has the path of the object.
fn member(why: &str) -> Option<&str> {
    let complaints = ["missing field `", "unknown field `", "duplicate field `"];
    let complaint = complaints.iter().find(|complaint| why.starts_with(**complaint))?;
    why[complaint.len()..].split('`').next()
}

/// The text of an error about a value, with the terms of JSON instead of those of Rust and serde.
pub fn in_words_of_json(why: &str) -> String {
    if why.starts_with("missing field `") {
        return "is required".to_owned();
    }
    if let Some(rest) = why.strip_prefix("unknown variant `")
        && let Some((found, allowed)) = rest.rsplit_once("`, expected ")
    {
        let found: String = found.chars().take(QUOTED).collect();
        return format!("must be {allowed}, not {found:?}");
    }
    let mismatch = ["invalid type: ", "invalid value: ", "invalid length "];
    let rest = mismatch.iter().find_map(|prefix| why.strip_prefix(prefix));
    match rest.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) if why.starts_with("invalid length") => {
            format!("must be {}, but has {found} elements", kind(expected))
        }
        Some((found, expected)) => format!("must be {}, not {}", kind(expected), value(found)),
        // From `deserialize_enum`, which reads texts and objects only.
        None if why == "expected value" => "must be a string".to_owned(),
        None if why.contains("untagged enum") => "must be of another kind".to_owned(),
        None => why.to_owned(),
    }
}

/// What was expected.
fn kind(expected: &str) -> String {
    let known = match expected {
        "u8" => return whole(u8::MAX.into()),
        "u16" => return whole(u16::MAX.into()),
        "u32" => return whole(u32::MAX.into()),
        "u64" | "usize" | "u128" => return whole(MAX_SAFE_INTEGER),
        "i8" | "i16" | "i32" | "i64" | "isize" | "i128" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a borrowed string" | "variant identifier" | "field identifier" => "a string",
        "a sequence" => "an array",
        "a map" => "an object",
        "unit" => "null",
        "string or map" => "a string or an object",
        _ if expected.starts_with("struct ") || expected.starts_with("internally tagged") => {
            "an object"
        }
        _ if expected.starts_with("a tuple") || expected.starts_with("tuple") => "an array",
        _ => expected,
    };
    known.to_owned()
}

fn whole(most: u64) -> String {
    format!("a whole number from 0 to {most}")
}

/// What was found, as [`Unexpected`] displays it.
fn value(found: &str) -> String {
    for kind in ["integer `", "floating point `", "boolean `", "character `"] {
        if let Some(number) = found.strip_prefix(kind).and_then(|rest| rest.strip_suffix('`')) {
            return number.to_owned();
        }
    }
    if let Some(text) = found.strip_prefix("string \"").and_then(|rest| rest.strip_suffix('"')) {
        let shown: String = text.chars().take(QUOTED).collect();
        return format!("\"{shown}\"");
    }
    match found {
        "sequence" | "tuple variant" => "an array".to_owned(),
        "map" | "struct variant" | "newtype variant" => "an object".to_owned(),
        _ => found.to_owned(),
    }
}

/// Reads a whole number from 0 to `MAX`, for `deserialize_with` of a member that may be missing.
pub fn at_most<'de, const MAX: u64, D>(deserializer: D) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(Option::<AtMost<MAX>>::deserialize(deserializer)?.map(|AtMost(number)| number))
}

struct AtMost<const MAX: u64>(u64);

impl<'de, const MAX: u64> Deserialize<'de> for AtMost<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<const MAX: u64>;

        impl<const MAX: u64> Visitor<'_> for Number<MAX> {
            type Value = u64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&whole(MAX))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
                if number > MAX {
                    return Err(E::invalid_value(Unexpected::Unsigned(number), &self));
                }
                Ok(number)
            }
        }

        deserializer.deserialize_u64(Number::<MAX>).map(Self)
    }
}

/// Reads one of a few words.
pub fn word<'de, D, T>(deserializer: D, words: &'static [(&'static str, T)]) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Copy,
{
    struct Word<T: 'static>(&'static [(&'static str, T)], PhantomData<T>);

    impl<T: Copy> Visitor<'_> for Word<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let words: Vec<String> = self.0.iter().map(|(word, _)| format!("`{word}`")).collect();
            match words.as_slice() {
                [one, other] => write!(f, "{one} or {other}"),
                _ => write!(f, "one of {}", words.join(", ")),
            }
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let found = self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            found.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_str(Word(words, PhantomData))
}
