//! The part of a web address that names a server: a host with an optional port.

use std::net::Ipv6Addr;

/// Whether it is a host, or a host and a port.
pub(super) fn is_authority(text: &str) -> bool {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || is_port(port))
        });
    }
    let end = text.find(':').unwrap_or(text.len());
    let (host, port) = text.split_at(end);
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && (port.is_empty() || is_port(port))
}

/// Whether it is a colon and a port.
fn is_port(text: &str) -> bool {
    let port = text.strip_prefix(':').filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether it can be the value of a browser's Origin header: a scheme and an authority in lower
/// case, without a path and without the scheme's default port (RFC 6454, section 6.2).
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let is_default_port = match scheme {
        "https" => authority.ends_with(":443"),
        "http" => authority.ends_with(":80"),
        _ => false,
    };
    scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
        && !is_default_port
        && is_authority(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_with_an_optional_port() {
        for good in ["localhost", "a-b.example:4318", "10.0.0.1:1", "[::1]", "[fd00::1]:65535"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in ["", ":1", "a:", "a:0", "a:65536", "a:b", "a b", "[::1", "[x]:1", "::1", "u@a"] {
            assert!(!is_authority(bad), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in ["https://example.com", "http://localhost:3000", "app://local"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/app",
            "https://Example.com",
            "https://example.com:443",
            "https://*.example.com",
            "*",
            "null",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
