//! Normalises the headers of an upgrade for the WebSocket library, and checks what it leaves
//! unchecked (RFC 6455, section 4.2.1).
//!
//! The library reads a single `Connection` line, and an `Upgrade` header with a single protocol.
//! Proxies may send several lines, and lists (RFC 9110, sections 5.3 and 7.8).

use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue};

/// Why a request can't become a WebSocket; the text is for the client. Missing headers and other
/// versions than 13 are not errors here: a request without an upgrade, or with another one, is
/// refused with 426.
pub(super) fn check(headers: &HeaderMap) -> Result<(), &'static str> {
    let is_repeated = |name| headers.get_all(name).iter().nth(1).is_some();
    if is_repeated(&SEC_WEBSOCKET_KEY) {
        return Err("There is more than one Sec-WebSocket-Key.");
    }
    if is_repeated(&SEC_WEBSOCKET_VERSION) {
        return Err("There is more than one Sec-WebSocket-Version.");
    }
    if headers.get(SEC_WEBSOCKET_KEY).is_some_and(|key| !is_key(key.as_bytes())) {
        return Err("Sec-WebSocket-Key must be 16 bytes in base64.");
    }
    if headers.contains_key(TRANSFER_ENCODING)
        || headers.get_all(CONTENT_LENGTH).iter().any(|length| !is_zero(length.as_bytes()))
    {
        // The WebSocket would interpret the body as frames.
        return Err("An upgrade to WebSocket must not have a body.");
    }
    Ok(())
}

/// Whether it is the base64 encoding of 16 bytes: 22 characters, the last of which has four unused
/// bits, and the padding. Like other servers, this ignores the unused bits.
fn is_key(text: &[u8]) -> bool {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    text.strip_suffix(b"==").is_some_and(|key| key.len() == 22 && key.iter().all(is_base64))
}

fn is_zero(length: &[u8]) -> bool {
    !length.is_empty() && length.iter().all(|digit| *digit == b'0')
}

/// Reduces both headers to what they mean for an upgrade to WebSocket.
pub(super) fn normalise(headers: &mut HeaderMap) {
    for (name, wanted) in [(CONNECTION, "upgrade"), (UPGRADE, "websocket")] {
        if lists(headers, &name, wanted) {
            headers.insert(name, HeaderValue::from_static(wanted));
        }
    }
}

/// Whether one of the header's lines lists this token.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let mut tokens = lines.flat_map(|line| line.split(',')).map(str::trim);
    tokens.any(|token| token.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result for a valid request with these additional headers.
    fn checked(others: &[(&str, &str)]) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        for (name, value) in others {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        check(&headers)
    }

    #[test]
    fn repeated_headers_and_bodies_are_refused() {
        for others in [
            &[][..],
            &[("content-length", "0")],
            &[("sec-websocket-protocol", "a"), ("sec-websocket-protocol", "b")],
            &[("sec-websocket-extensions", "permessage-deflate")],
        ] {
            assert_eq!(checked(others), Ok(()), "{others:?}");
        }
        for (other, says) in [
            (("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), "Sec-WebSocket-Key"),
            (("sec-websocket-version", "13"), "Sec-WebSocket-Version"),
            (("content-length", "5"), "body"),
            (("content-length", ""), "body"),
            (("transfer-encoding", "chunked"), "body"),
        ] {
            assert!(checked(&[other]).unwrap_err().contains(says), "{other:?}");
        }
        assert_eq!(check(&HeaderMap::new()), Ok(()), "a request without an upgrade");
    }

    #[test]
    fn every_key_of_16_bytes_is_accepted_and_nothing_else() {
        for _ in 0..100 {
            let key: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
            assert!(is_key(data_encoding::BASE64.encode(&key).as_bytes()), "{key:?}");
        }
        for bad in [
            "",
            "abc",
            "AQIDBAUGBwgJCgsMDQ4PEA",
            "AQIDBAUGBwgJCgsMDQ4PEBE=",
            "AQ==",
            "AQIDBAUGBwgJCgsMDQ4P-_==",
            "AQIDBAUGBwgJCgsMDQ4PEBESExQV",
        ] {
            assert!(!is_key(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_token_is_found_in_any_line_and_any_place_of_a_list() {
        for (lines, means) in [
            (&["Upgrade"][..], "upgrade"),
            (&["keep-alive", "Upgrade"], "upgrade"),
            (&["keep-alive, UPGRADE"], "upgrade"),
            (&["keep-alive"], "keep-alive"),
            (&["not-upgrade"], "not-upgrade"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONNECTION, line.parse().unwrap());
            }
            headers.append(UPGRADE, "h2c, WebSocket".parse().unwrap());
            normalise(&mut headers);
            assert_eq!(headers[CONNECTION], means);
            assert_eq!(headers[UPGRADE], "websocket");
        }
    }
}
