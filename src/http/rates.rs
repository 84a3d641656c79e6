//! Connection attempts per minute and address that do not authenticate; those
//! that do are limited per gateway, by [`reconnects`](super::reconnects). So one
//! peer behind a shared address is slowed down without locking out a fleet.
//!
//! The limit binds in whatever minute one looks at. A bucket that is refilled
//! while it is emptied does not do that: full at first, it lets twice as many
//! through. So a bucket here has a slot for each attempt, and a slot that was
//! taken is free again after a minute.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use axum::http::HeaderMap;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::config::Network;

const MINUTE: Duration = Duration::from_mins(1);

/// A cell for each slot of each key.
type Slots<K, C> =
    RateLimiter<(K, u32), DashMapStateStore<(K, u32)>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Buckets of one size.
pub(super) struct Buckets<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    slots: Slots<K, C>,
    per_minute: u32,
    clock: C,
}

/// What counts as one place of origin: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Source(IpAddr);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

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
    /// By the machine's clock.
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        Self::with_clock(per_minute, DefaultClock::default())
    }
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Buckets<K, C> {
    fn with_clock(per_minute: NonZeroU32, clock: C) -> Self {
        let once_a_minute =
            Quota::with_period(MINUTE).unwrap_or(Quota::per_minute(NonZeroU32::MIN));
        Self {
            slots: RateLimiter::dashmap_with_clock(once_a_minute, clock.clone()),
            per_minute: per_minute.get(),
            clock,
        }
    }

    /// Takes a slot; an error says when the next one is free.
    pub(super) fn charge(&self, key: &K) -> Result<(), Duration> {
        let mut shortest = MINUTE;
        for slot in 0..self.per_minute {
            match self.slots.check_key(&(key.clone(), slot)) {
                Ok(()) => return Ok(()),
                Err(taken) => shortest = shortest.min(taken.wait_time_from(self.clock.now())),
            }
        }
        Err(shortest)
    }

    /// Forgets buckets that are full again, so that memory stays bounded.
    pub(super) fn forget_full(&self) {
        self.slots.retain_recent();
        self.slots.shrink_to_fit();
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

/// A hop's address, with or without a port; IPv6 with or without brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    hop.parse().ok().or_else(with_port).or_else(in_brackets)
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn the_eleventh_attempt_in_a_minute_waits_and_others_do_not() {
        let addresses = Buckets::new(NonZeroU32::new(10).unwrap());
        for _ in 0..10 {
            assert!(addresses.charge(&source("192.0.2.1")).is_ok());
        }
        let wait = addresses.charge(&source("192.0.2.1")).unwrap_err();
        assert!(wait <= MINUTE && wait > MINUTE / 2, "{wait:?}");
        assert!(addresses.charge(&source("192.0.2.2")).is_ok());
    }

    /// Whoever tries at random, or comes back exactly when told to, never gets
    /// more through than the limit in any minute.
    #[test]
    fn no_minute_has_more_attempts_than_allowed() {
        const LIMIT: usize = 10;
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let clock = FakeRelativeClock::default();
        let buckets = Buckets::with_clock(NonZeroU32::new(10).unwrap(), clock.clone());
        let (mut now, mut passed) = (Duration::ZERO, Vec::new());
        while passed.len() < 500 {
            let step = match buckets.charge(&()) {
                Ok(()) => {
                    passed.push(now);
                    Duration::from_millis(random.u64(..3) * random.u64(..4000))
                }
                Err(wait) => {
                    assert!(wait <= MINUTE, "seed {seed}");
                    clock.advance(wait.saturating_sub(Duration::from_millis(1)));
                    assert!(buckets.charge(&()).is_err(), "told to wait too long; seed {seed}");
                    now += wait.saturating_sub(Duration::from_millis(1));
                    Duration::from_millis(1)
                }
            };
            clock.advance(step);
            now += step;
        }
        for attempts in passed.windows(LIMIT + 1) {
            assert!(attempts[0] + MINUTE <= attempts[LIMIT], "seed {seed}: {attempts:?}");
        }
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
