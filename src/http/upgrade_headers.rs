//! An upgrade's headers in the form that the WebSocket library looks for. It
//! reads one `Connection` line, and an `Upgrade` that names one protocol;
//! proxies on the way write several, and lists (RFC 9110, sections 5.3 and 7.8).

use axum::http::header::{CONNECTION, HeaderName, UPGRADE};
use axum::http::{HeaderMap, HeaderValue};

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
