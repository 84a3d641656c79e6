//! A limit of attempts to sign in, so that no client can fill the log with failed ones or keep the
//! database busy. A token can't be guessed in any case.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::super::problem::Problem;
use crate::admission::{Buckets, Source};
use crate::api::Code;

/// Attempts per minute of an address, successful ones included: an IPv4 address or an IPv6 /64.
const PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();
/// Attempts of the last minute that are kept apart by address, at most. Additional addresses share a
/// limit, so that the memory is bounded.
const MAX_TRACKED_ADDRESSES: usize = 100_000;

/// The attempts of the last minute.
pub(in crate::http) struct SignIns {
    by_address: Buckets<Source>,
    others: Buckets<()>,
}

impl Default for SignIns {
    fn default() -> Self {
        Self { by_address: Buckets::new(PER_MINUTE), others: Buckets::new(PER_MINUTE) }
    }
}

impl SignIns {
    /// Counts an attempt, or refuses it.
    pub(super) fn charge(&self, address: Option<IpAddr>) -> Result<(), Problem> {
        let charged = match address {
            Some(address) if self.by_address.len() < MAX_TRACKED_ADDRESSES => {
                self.by_address.charge(&address.into())
            }
            _ => self.others.charge(&()),
        };
        charged.map_err(refused)
    }

    /// Frees the memory of attempts that no longer count.
    pub(in crate::http) fn remove_unused(&self) {
        self.by_address.remove_unused();
        self.others.remove_unused();
    }
}

fn refused(wait: Duration) -> Problem {
    let secs = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let detail = format!(
        "There were too many attempts to sign in from your address in the last minute. Try again in {secs} s."
    );
    Problem::new(Code::TooManyAttempts, detail).retry_after(secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_thirty_attempts_a_minute_and_another_one_its_own() {
        let sign_ins = SignIns::default();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for _ in 0..30 {
            assert!(sign_ins.charge(address("192.0.2.1")).is_ok());
        }
        let refused = sign_ins.charge(address("192.0.2.1")).unwrap_err().into_document();
        assert_eq!((refused.status, refused.code.as_ref()), (429, "too_many_attempts"));
        assert!(refused.retry_after_secs.is_some_and(|secs| (1..=60).contains(&secs)));
        assert!(sign_ins.charge(address("192.0.2.2")).is_ok());
        for _ in 0..30 {
            assert!(sign_ins.charge(None).is_ok());
        }
        assert!(sign_ins.charge(None).is_err());
    }

    #[test]
    fn memory_is_bounded_and_freed() {
        let sign_ins = SignIns::default();
        let attempts = u32::try_from(MAX_TRACKED_ADDRESSES).unwrap() + 40;
        let refused = (0..attempts).filter(|nth| {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(*nth));
            sign_ins.charge(Some(address)).is_err()
        });
        assert_eq!(refused.count(), 10, "those beyond the bound share a limit");
        assert_eq!(sign_ins.by_address.len(), MAX_TRACKED_ADDRESSES);
    }
}
