//! Reads some members of a JSON object and checks that the rest is JSON that gateways can parse,
//! without building it in memory: one pass over the text.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The value of a member, as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member<'a> {
    Null,
    Bool,
    Number,
    Text(Cow<'a, str>),
    List,
    Object,
}

/// The wanted members of an object. If a member is repeated, the last one counts, as for gateways.
#[derive(Debug, Default)]
pub(super) struct Members<'a>(Vec<(&'a str, Member<'a>)>);

impl<'a> Members<'a> {
    /// Reads an object. Numbers out of range, unpaired surrogates, and nesting beyond the parser's
    /// limit are errors.
    pub(super) fn read(
        text: &'a str,
        is_wanted: impl Fn(&str) -> Option<&'a str>,
    ) -> serde_json::Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = deserializer.deserialize_map(Wanted(is_wanted))?;
        deserializer.end()?;
        Ok(members)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Member<'a>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, member)| member)
    }

    /// A member that is a string.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Member::Text(text) => Some(text),
            _ => None,
        }
    }

    fn put(&mut self, name: &'a str, member: Member<'a>) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, place)) => *place = member,
            None => self.0.push((name, member)),
        }
    }
}

struct Wanted<F>(F);

impl<'a, F: Fn(&str) -> Option<&'a str>> Visitor<'a> for Wanted<F> {
    type Value = Members<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some(Key(name)) = map.next_key()? {
            let member = map.next_value_seed(Kind)?;
            if let Some(wanted) = (self.0)(&name) {
                members.put(wanted, member);
            }
        }
        Ok(members)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads a value and returns its kind.
struct Kind;

impl<'a> DeserializeSeed<'a> for Kind {
    type Value = Member<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Kind {
    type Value = Member<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Member::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Member::Bool)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Member::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Member::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Member::Number)
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Member::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element_seed(Kind)?.is_some() {}
        Ok(Member::List)
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_key_seed(Kind)?.is_some() {
            map.next_value_seed(Kind)?;
        }
        Ok(Member::Object)
    }
}

/// Whether a text is a JSON object.
pub(super) fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_members_are_distinguished_by_kind_and_the_last_one_counts() {
        let text =
            r#"{"a":"x","b":[1,{"c":null}],"\u0061":"\ny","c":{},"d":1.5,"e":true,"f":null}"#;
        let wanted = ["a", "b", "c", "d", "e", "f", "g"];
        let find = |name: &str| wanted.into_iter().find(|wanted| *wanted == name);
        let members = Members::read(text, find).unwrap();
        assert_eq!(members.text("a"), Some("\ny"));
        for (name, kind) in [
            ("b", Member::List),
            ("c", Member::Object),
            ("d", Member::Number),
            ("e", Member::Bool),
            ("f", Member::Null),
        ] {
            assert_eq!(members.get(name), Some(&kind));
        }
        assert_eq!(members.get("g"), None);
    }

    #[test]
    fn json_that_gateways_can_not_parse_is_an_error_at_any_depth() {
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(127), "]".repeat(127));
        for text in [
            r#"{"n":[1e400]}"#,
            r#"{"t":{"t":"\ud800"}}"#,
            r#"{"\ud800":1}"#,
            r#"{"a":1} 2"#,
            "[1]",
            &nested,
        ] {
            assert!(Members::read(text, |_| None).is_err(), "{text}");
        }
    }
}
