//! Cursors: opaque strings that identify where the next page of a list begins. A cursor contains a
//! digest of the filters that it was issued for, so that a cursor of another list is refused
//! instead of skipping rows.

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::problem::{HandlerResult, Problem};
use crate::api::PageQuery;

const DIGEST_BYTES: usize = 8;

impl PageQuery {
    /// The size of the page.
    pub(super) fn size(&self) -> usize {
        self.limit.unwrap_or(Self::DEFAULT_LIMIT)
    }

    /// Where the page begins; `None` at the beginning of the list.
    pub(super) fn position<T: DeserializeOwned>(
        &self,
        filters: &impl Serialize,
    ) -> HandlerResult<Option<T>> {
        self.cursor.as_deref().map(|text| decode(text, filters)).transpose()
    }
}

/// Creates a cursor for these filters.
pub(super) fn encode(position: &impl Serialize, filters: &impl Serialize) -> String {
    let mut bytes = digest(filters).to_vec();
    bytes.extend(serde_json::to_vec(position).unwrap_or_default());
    BASE64URL_NOPAD.encode(&bytes)
}

/// Decodes a cursor that was issued for the same filters.
pub(super) fn decode<T: DeserializeOwned>(
    text: &str,
    filters: &impl Serialize,
) -> HandlerResult<T> {
    let refuse = || {
        Problem::invalid(
            "cursor",
            "is not a cursor of this service; use the value of pagination.next",
        )
    };
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| refuse())?;
    let (mark, position) = bytes.split_at_checked(DIGEST_BYTES).ok_or_else(refuse)?;
    let position = serde_json::from_slice(position).map_err(|_| refuse())?;
    if mark != digest(filters) {
        return Err(Problem::invalid(
            "cursor",
            "was issued for different filters; repeat the filters of the first page",
        ));
    }
    Ok(position)
}

fn digest(filters: &impl Serialize) -> [u8; DIGEST_BYTES] {
    let whole: [u8; 32] = Sha256::digest(serde_json::to_vec(filters).unwrap_or_default()).into();
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&whole[..DIGEST_BYTES]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_valid_with_its_own_filters_only() {
        let text = encode(&7_i64, &"one");
        assert_eq!(decode::<i64>(&text, &"one").unwrap(), 7);
        for (text, filters) in
            [(text.as_str(), "other"), ("", "one"), ("!!", "one"), ("AAAA", "one")]
        {
            let problem = decode::<i64>(text, &filters).unwrap_err();
            assert_eq!(problem.status().as_u16(), 422);
        }
    }
}
