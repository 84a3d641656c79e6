//! Pages: their size, and the opaque texts that say where the next one begins.
//! A cursor carries a digest of the question that it belongs to, so that one
//! taken from another question is refused instead of skipping rows.

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::problem::{Answer, Problem};
use crate::event::quoted;

const DIGEST_BYTES: usize = 8;
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// The page's size.
pub(super) fn limit(asked: Option<&str>) -> Answer<usize> {
    let Some(text) = asked else {
        return Ok(DEFAULT_LIMIT);
    };
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| not_allowed("limit", text, "1 to 1000"))
}

/// A parameter that has another value than those allowed.
pub(super) fn not_allowed(parameter: &str, value: &str, allowed: &str) -> Problem {
    Problem::invalid(parameter, format!("must be {allowed}, not {}", quoted(value)))
}

/// A list as every route shows it.
pub(super) fn page(list: &[Value], limit: usize, next: Option<&str>) -> Value {
    json!({
        "count": list.len(),
        "list": list,
        "pagination": { "limit": limit, "next": next },
    })
}

/// Makes a cursor for a question.
pub(super) fn encode<T: Serialize, Q: Serialize>(position: &T, question: &Q) -> String {
    let mut bytes = digest(question).to_vec();
    bytes.extend(serde_json::to_vec(position).unwrap_or_default());
    BASE64URL_NOPAD.encode(&bytes)
}

/// Reads a cursor that was made for the same question.
pub(super) fn decode<T: DeserializeOwned>(text: &str, question: &impl Serialize) -> Answer<T> {
    let refuse =
        || Problem::invalid("cursor", "is no cursor of this service; take it from pagination.next");
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| refuse())?;
    let (mark, position) = bytes.split_at_checked(DIGEST_BYTES).ok_or_else(refuse)?;
    let position = serde_json::from_slice(position).map_err(|_| refuse())?;
    if mark != digest(question) {
        return Err(Problem::invalid(
            "cursor",
            "belongs to a question with other filters; repeat the filters of the first page",
        ));
    }
    Ok(position)
}

fn digest(question: &impl Serialize) -> [u8; DIGEST_BYTES] {
    let whole: [u8; 32] = Sha256::digest(serde_json::to_vec(question).unwrap_or_default()).into();
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&whole[..DIGEST_BYTES]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_its_own_question_only() {
        let text = encode(&7_i64, &"one");
        assert_eq!(decode::<i64>(&text, &"one").unwrap(), 7);
        for (text, question) in
            [(text.as_str(), "other"), ("", "one"), ("!!", "one"), ("AAAA", "one")]
        {
            let problem = decode::<i64>(text, &question).unwrap_err();
            assert_eq!(problem.status().as_u16(), 422);
        }
    }

    #[test]
    fn limits_have_limits() {
        assert_eq!(limit(None).unwrap(), 100);
        assert_eq!(limit(Some("1000")).unwrap(), 1000);
        for bad in ["0", "1001", "-1", "", "1e2", "99999999999999999999"] {
            assert!(limit(Some(bad)).is_err(), "{bad}");
        }
    }
}
