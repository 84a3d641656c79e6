//! Limits the attempts per minute and address that do not authenticate. Those that
//! do are limited per gateway, by [`reconnects`](super::reconnects). So one client
//! behind a shared address is slowed down without locking out the others.
//!
//! The limit holds in every interval of a minute. A token bucket, which is refilled
//! while it is emptied, allows twice as many in the first minute. So a bucket here
//! has a slot for each attempt, and a slot is free again a minute after it was taken.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

const MINUTE: Duration = Duration::from_mins(1);

/// A cell for each slot of each key.
type Slots<K, C> =
    RateLimiter<(K, u32), DashMapStateStore<(K, u32)>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The attempts of each key, with one limit for all.
pub(crate) struct Buckets<K: Hash + Eq + Clone, C: Clock = DefaultClock> {
    slots: Slots<K, C>,
    per_minute: u32,
    clock: C,
}

/// The unit in which clients are limited: an IPv4 address or an IPv6 /64 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Source(IpAddr);

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
    /// Uses the machine's clock.
    pub(crate) fn new(per_minute: NonZeroU32) -> Self {
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

    /// Takes a slot. The error is the time until one is free.
    pub(crate) fn charge(&self, key: &K) -> Result<(), Duration> {
        let mut shortest = MINUTE;
        for slot in 0..self.per_minute {
            match self.slots.check_key(&(key.clone(), slot)) {
                Ok(()) => return Ok(()),
                Err(taken) => shortest = shortest.min(taken.wait_time_from(self.clock.now())),
            }
        }
        Err(shortest)
    }

    /// The number of slots that are kept: those taken in the last minute, and older ones until they
    /// are removed.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Removes keys without recent attempts, so that memory stays bounded.
    pub(crate) fn remove_unused(&self) {
        self.slots.retain_recent();
        self.slots.shrink_to_fit();
    }
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

    /// Neither random attempts nor attempts at the earliest allowed moment exceed the
    /// limit in any minute.
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
                    assert!(buckets.charge(&()).is_err(), "the wait is too long; seed {seed}");
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
}
