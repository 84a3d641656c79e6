//! What an object is or was: named values, which are stored as a small JSON object.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::storable;
use crate::clock::Timestamp;

/// Longer texts are cut to this many characters.
const MAX_TEXT_CHARS: usize = 256;
/// A list of numbers may be longer: a hundred sequences fit.
const MAX_NUMBERS_CHARS: usize = 2048;
/// Longer lists are cut to this many elements.
const MAX_LIST_ELEMENTS: usize = 32;
/// The largest JSON object, in bytes. Members that don't fit are only counted.
const MAX_OBJECT_BYTES: usize = 8 * 1024;
/// The member that counts the ones that don't fit.
const OMITTED: &str = "omitted";

/// A value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// Whether something is so.
    Flag(bool),
    /// Texts.
    List(Vec<String>),
}

/// Named values, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<String, Fact>);

impl Facts {
    /// No values.
    pub fn none() -> Self {
        Self::default()
    }

    /// These values and one more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Fact>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// These values, and one more if there is one.
    #[must_use]
    pub fn with_some(self, name: impl Into<String>, value: Option<impl Into<Fact>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes values that both have.
    pub fn without_equal(mut before: Self, mut after: Self) -> (Self, Self) {
        before.0.retain(|name, value| {
            let is_equal = after.0.get(name) == Some(value);
            if is_equal {
                after.0.remove(name);
            }
            !is_equal
        });
        (before, after)
    }

    /// A JSON object with sorted members and without whitespace, of at most 8 KiB.
    pub fn to_json(&self) -> String {
        let mut text = String::from("{");
        let mut omitted = 0;
        // Room for the member that counts the omitted ones.
        let most = MAX_OBJECT_BYTES - OMITTED.len() - 32;
        for (name, value) in &self.0 {
            let member = member(name, value);
            if text.len() + member.len() + 1 > most {
                omitted += 1;
                continue;
            }
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&member);
        }
        if omitted > 0 {
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&member(OMITTED, &Fact::Number(omitted)));
        }
        text.push('}');
        text
    }
}

fn member(name: &str, value: &Fact) -> String {
    // Neither can fail: they are texts and numbers.
    let name = serde_json::to_string(name).unwrap_or_default();
    let value = serde_json::to_string(value).unwrap_or_default();
    format!("{name}:{value}")
}

/// The text as it is stored: cut, and without U+0000.
pub(super) fn bounded(text: &str) -> String {
    cut(&storable(text), MAX_TEXT_CHARS)
}

/// The text, or its first characters and an ellipsis.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

impl Fact {
    /// A list of numbers as text.
    pub(super) fn numbers(text: &str) -> Self {
        Self::Text(cut(text, MAX_NUMBERS_CHARS))
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(bounded(text))
    }
}

impl From<i64> for Fact {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Fact {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Fact {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Timestamp> for Fact {
    fn from(at: Timestamp) -> Self {
        Self::Text(at.to_string())
    }
}

impl FromIterator<String> for Fact {
    fn from_iter<T: IntoIterator<Item = String>>(texts: T) -> Self {
        Self::List(texts.into_iter().take(MAX_LIST_ELEMENTS).map(|text| bounded(&text)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_and_those_that_both_have_are_removed() {
        let before = Facts::none().with("b", 1_i64).with("a", "x").with("c", true);
        let after = Facts::none().with("b", 2_i64).with("c", true).with("d", "new");
        let (before, after) = Facts::without_equal(before, after);
        assert_eq!(before.to_json(), r#"{"a":"x","b":1}"#);
        assert_eq!(after.to_json(), r#"{"b":2,"d":"new"}"#);
        assert_eq!(Facts::none().to_json(), "{}");
    }

    #[test]
    fn sizes_are_bounded() {
        let mut facts = Facts::none();
        for nth in 0..64 {
            facts = facts.with(format!("labels.{nth:02}"), "\u{1F600}".repeat(1000).as_str());
        }
        let text = facts.to_json();
        assert!(text.len() <= MAX_OBJECT_BYTES, "{}", text.len());
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let members = read.as_object().unwrap();
        let omitted = members[OMITTED].as_u64().unwrap();
        assert_eq!(members.len() as u64 - 1 + omitted, 64);
        let value = members["labels.00"].as_str().unwrap();
        assert_eq!(value.chars().count(), MAX_TEXT_CHARS);
        assert!(value.ends_with('…'));
        assert_eq!(bounded("a\0b"), "a\u{fffd}b");
    }
}
