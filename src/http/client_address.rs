//! The address of a client behind proxies.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::Network;

/// The client's address: the peer's or, if the peer is a trusted proxy, the right-most hop of
/// `X-Forwarded-For` that is not a trusted proxy. Hops to the left of it are ignored, because the
/// client may have invented them.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| is_trusted(address, trusted);
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let values: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    // RFC 9110, section 5.6.1: empty elements of a list don't count.
    let hops = values.iter().rev().flat_map(|value| value.rsplit(',')).map(str::trim);
    for hop in hops.filter(|hop| !hop.is_empty()) {
        let Some(address) = hop_address(hop) else {
            break;
        };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

/// Whether an address is that of a trusted proxy.
pub(super) fn is_trusted(address: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

/// A hop's address, with or without a port; IPv6 with or without brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_for_counts_only_behind_a_trusted_proxy() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.0.0.2".parse().unwrap());
        let proxy = "10.0.0.1".parse().unwrap();
        let stranger: IpAddr = "203.0.113.9".parse().unwrap();
        assert_eq!(
            client_address(proxy, &headers, &trusted),
            "198.51.100.7".parse::<IpAddr>().unwrap()
        );
        assert_eq!(client_address(stranger, &headers, &trusted), stranger);
        assert_eq!(client_address(proxy, &HeaderMap::new(), &trusted), proxy);
    }

    #[test]
    fn forwarded_for_is_read_in_each_form_that_proxies_write() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let proxy = "10.0.0.1".parse().unwrap();
        for (value, client) in [
            ("198.51.100.7:5555", "198.51.100.7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("198.51.100.8,", "198.51.100.8"),
            (" , 198.51.100.8:1 ,, 10.0.0.9:80 , ", "198.51.100.8"),
            ("1.1.1.1, unknown", "10.0.0.1"),
            ("1.1.1.1, _hidden, 10.0.0.2", "10.0.0.2"),
            ("198.51.100.7:99999", "10.0.0.1"),
            ("[198.51.100.7]", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", value.parse().unwrap());
            let expected: IpAddr = client.parse().unwrap();
            assert_eq!(client_address(proxy, &headers, &trusted), expected, "{value:?}");
        }
    }
}
