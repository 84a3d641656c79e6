//! Names and values in queries and forms (`application/x-www-form-urlencoded`).

use std::fmt;

use super::super::problem::{HandlerResult, Problem};
use super::super::query::{FromQuery, Parameters};

/// The maximum number of pairs. Additional ones in an address are ignored.
const MAX_PAIRS: usize = 200;

/// Names with their values, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Reads a query or the body of a form. What is not valid UTF-8 is replaced.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(MAX_PAIRS);
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// Reads the body of a form. One with more fields than are read is refused: none of them may be
    /// left out.
    pub(super) fn of_form(text: &str) -> HandlerResult<Self> {
        let count = text.split('&').filter(|pair| !pair.is_empty()).count();
        if count > MAX_PAIRS {
            let why = format!(
                "The form has {count} fields; the maximum is {MAX_PAIRS}. Submit it in parts."
            );
            return Err(Problem::bad_request(why));
        }
        Ok(Self::parse(text))
    }

    /// The value of a name, without whitespace at its ends; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// The value of a name as it is.
    pub(super) fn raw(&self, name: &str) -> &str {
        self.0.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }

    /// The values of a name, in order.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value)
    }

    /// With one more value for a name, unless it is empty.
    #[must_use]
    pub(super) fn and(mut self, name: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            self.0.push((name.to_owned(), value));
        }
        self
    }

    /// With another value for a name; an empty one removes the name.
    #[must_use]
    pub(super) fn with(&self, name: &str, value: impl Into<String>) -> Self {
        let mut pairs = self.0.clone();
        pairs.retain(|(other, _)| other != name);
        let value = value.into();
        if !value.is_empty() {
            pairs.push((name.to_owned(), value));
        }
        Self(pairs)
    }

    /// Those with one of these names and a value, the first of each name.
    pub(super) fn known(&self, names: &[String]) -> Self {
        let mut known: Vec<(String, String)> = Vec::new();
        for (name, value) in &self.0 {
            let is_first = known.iter().all(|(other, _)| other != name);
            if names.contains(name) && !value.trim().is_empty() && is_first {
                known.push((name.clone(), value.trim().to_owned()));
            }
        }
        Self(known)
    }

    /// The parameters of a request of the API. Others, and those without a value, are ignored.
    pub(super) fn query<T: FromQuery>(&self) -> HandlerResult<T> {
        let names = T::names();
        T::from_query(&Parameters::of(self.known(&names).0, &names)?)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A path with these pairs as its query.
    pub(super) fn after(&self, path: &str) -> String {
        if self.0.is_empty() { path.to_owned() } else { format!("{path}?{self}") }
    }
}

impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (name, value)) in self.0.iter().enumerate() {
            let separator = if nth == 0 { "" } else { "&" };
            write!(f, "{separator}{}={}", encode(name), encode(value))?;
        }
        Ok(())
    }
}

/// A text as a part of a path or a query.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    encoded
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => {
                let digits = [high.to_ascii_uppercase(), low.to_ascii_uppercase()];
                data_encoding::HEXUPPER.decode(&digits).ok()
            }
            _ => None,
        };
        match (first, escaped) {
            (_, Some(byte)) => {
                bytes.extend(byte);
                rest = &rest[2..];
            }
            (b'+', None) => bytes.push(b' '),
            (other, None) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_as_the_same() {
        let text = "a b&c=d+e%f/\u{202e}é\"'<>\n%2";
        let pairs = Pairs::default().with("näme&", text).with("empty", "");
        assert_eq!(Pairs::parse(&pairs.to_string()), pairs);
        assert_eq!(Pairs::parse("a=1&a=2&b=%zz+%2").get("b"), "%zz %2");
    }

    #[test]
    fn only_the_first_filled_value_of_known_names_is_kept() {
        let pairs = Pairs::parse("type=&type=a&type=b&other=c&limit= 5 ");
        let known = pairs.known(&["type".to_owned(), "limit".to_owned()]);
        assert_eq!(known.to_string(), "type=a&limit=5");
    }
}
