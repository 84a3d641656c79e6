//! Connection attempts per minute: a bucket per address for those who do not
//! authenticate, and one per gateway for those who do. So one stranger behind a
//! shared address can be slowed down without locking out a fleet.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::HeaderMap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::Network;
use crate::event::GatewayKey;

/// Buckets with one quota.
pub(super) struct Buckets<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
}

/// Both kinds of buckets.
pub(super) struct Attempts {
    /// Failed attempts by address.
    pub(super) addresses: Buckets<Source>,
    /// Authenticated attempts by gateway.
    pub(super) gateways: Buckets<GatewayKey>,
}

/// What counts as one place of origin: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(six) => {
                Self(IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & !u128::from(u64::MAX))))
            }
            four @ IpAddr::V4(_) => Self(four),
        }
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(per_minute: NonZeroU32) -> Self {
        Self {
            limiter: RateLimiter::dashmap(Quota::per_minute(per_minute)),
            clock: DefaultClock::default(),
        }
    }

    /// Takes one; an error says how long to wait for the next.
    pub(super) fn charge(&self, key: &K) -> Result<(), Duration> {
        self.limiter.check_key(key).map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    fn forget_full(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

impl Attempts {
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        Self { addresses: Buckets::new(per_minute), gateways: Buckets::new(per_minute) }
    }

    /// Forgets buckets that are full again, so that memory stays bounded.
    pub(super) fn forget_full(&self) {
        self.addresses.forget_full();
        self.gateways.forget_full();
    }
}

/// The client's address: the peer's, or, if the peer is a trusted proxy, the
/// right-most hop of `X-Forwarded-For` that is none. What stands left of it may
/// be invented and is not looked at.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    if !is_trusted(client) {
        return client;
    }
    let values: Vec<&str> =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    for hop in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        let Ok(address) = hop.trim().parse::<IpAddr>() else {
            break;
        };
        client = address.to_canonical();
        if !is_trusted(client) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn the_eleventh_attempt_in_a_minute_waits_and_others_do_not() {
        let attempts = Attempts::new(NonZeroU32::new(10).unwrap());
        for _ in 0..10 {
            assert!(attempts.addresses.charge(&source("192.0.2.1")).is_ok());
        }
        let wait = attempts.addresses.charge(&source("192.0.2.1")).unwrap_err();
        assert!(wait <= Duration::from_secs(6));
        assert!(attempts.addresses.charge(&source("192.0.2.2")).is_ok());
        assert!(attempts.gateways.charge(&GatewayKey(1)).is_ok());
    }

    #[test]
    fn mapped_addresses_and_neighbours_in_a_64_share_a_bucket() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8::1"));
    }

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
}
