//! Prevents server-side request forgery (SSRF): a destination is configured by admins of an
//! organisation, and must not make the service send requests to itself, its network or a cloud's
//! metadata service. The resolved addresses are checked, and only these are connected to, so a name
//! that resolves to another address a moment later (DNS rebinding) is no way around the check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::lookup_host;

use crate::config::Network;

/// Addresses of one name that are used, at most.
const MAX_ADDRESSES: usize = 16;

/// A host whose addresses were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// What may be connected to.
    pub(super) addresses: Vec<SocketAddr>,
    /// Whether all of them are in the allowed networks.
    pub(super) is_allowed: bool,
}

/// Why a host is not connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It has no address, at least not now.
    #[error("the host {0} can't be resolved: {1}")]
    Unresolved(String, String),
    /// One of its addresses is not public.
    #[error(
        "the host {0} has the address {1}, which is not a public one; an operator can allow it by alerts.allowed_networks"
    )]
    Private(String, IpAddr),
}

/// Resolves a host, and refuses it unless all its addresses may be connected to.
pub(super) async fn check(host: &str, port: u16, allowed: &[Network]) -> Result<Checked, Refused> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => lookup_host((bare, port))
            .await
            .map_err(|error| Refused::Unresolved(bare.to_owned(), error.to_string()))?
            .take(MAX_ADDRESSES)
            .collect(),
    };
    if found.is_empty() {
        return Err(Refused::Unresolved(bare.to_owned(), "it has no address".to_owned()));
    }
    let listed = |address: IpAddr| allowed.iter().any(|network| network.contains(address));
    if let Some(refused) = found.iter().find(|it| !is_public(it.ip()) && !listed(it.ip())) {
        return Err(Refused::Private(bare.to_owned(), refused.ip()));
    }
    let is_allowed = found.iter().all(|it| listed(it.ip()));
    Ok(Checked { addresses: found, is_allowed })
}

/// Whether an address is one of the public Internet: not of this host, a private or shared network,
/// a link, a group, documentation or a benchmark, and not one that leads to such an IPv4 address.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

const fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a >= 240
        || (a == 100 && b >= 64 && b <= 127)
        || (a == 198 && (b == 18 || b == 19))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    // Forms that contain an IPv4 address: mapped, compatible, NAT64 and 6to4.
    let [.., g, h] = parts;
    let tail = Ipv4Addr::from((u32::from(g) << 16) | u32::from(h));
    if parts[..6] == [0, 0, 0, 0, 0, 0xffff] {
        return is_public_v4(tail);
    }
    if parts[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        return is_public_v4(tail);
    }
    if parts[0] == 0x2002 {
        return is_public_v4(Ipv4Addr::from((u32::from(parts[1]) << 16) | u32::from(parts[2])));
    }
    // Everything else that is public lies in 2000::/3, without Teredo and documentation.
    let is_global = parts[0] & 0xe000 == 0x2000;
    is_global
        && !(parts[0] == 0x2001 && parts[1] < 0x200)
        && !(parts[0] == 0x2001 && parts[1] == 0xdb8)
        && !(parts[0] == 0x3fff && parts[1] < 0x1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for private in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2001:db8::1",
            "::127.0.0.1",
            "2001::1",
            "64:ff9b:1::1",
            "3fff::1",
            "fec0::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_host_is_refused_unless_its_network_is_allowed() {
        let refused = check("localhost", 80, &[]).await.unwrap_err().to_string();
        assert!(refused.contains("alerts.allowed_networks"), "{refused}");
        let allowed: Vec<Network> =
            ["127.0.0.0/8", "::1"].iter().map(|text| text.parse().unwrap()).collect();
        let checked = check("localhost", 80, &allowed).await.unwrap();
        assert!(checked.is_allowed && !checked.addresses.is_empty());
        let literal = check("[::1]", 80, &allowed).await.unwrap();
        assert_eq!(literal.addresses, ["[::1]:80".parse().unwrap()]);
        assert!(check("[::ffff:127.0.0.1]", 80, &allowed).await.unwrap().is_allowed);
        assert!(!check("1.1.1.1", 443, &allowed).await.unwrap().is_allowed);
    }
}
