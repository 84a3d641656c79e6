//! The validity of a certificate. One that has expired, or soon will, is still served, because a
//! client may be configured to trust it; but there is a warning and a metric.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use tokio::time::Instant;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::clock::Timestamp;
use crate::metric;

/// How long before the expiry the warnings begin.
const SOON: Duration = Duration::from_hours(14 * 24);
/// The interval between warnings.
const REPEATED: Duration = Duration::from_hours(24);

/// The period in which a certificate is valid.
#[derive(Debug)]
pub(super) struct Validity {
    /// `None` if it can't be parsed; clients will report why.
    period: Option<RangeInclusive<Timestamp>>,
    warned_at: Option<Instant>,
}

impl Validity {
    /// The period of the certificate or of its issuer, whichever ends first. A root certificate in
    /// the file does not count, because clients use their own copy.
    pub(super) fn of(key: &CertifiedKey) -> Self {
        let periods = key.cert.iter().enumerate().filter_map(|(number, certificate)| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            if number > 0 && certificate.subject().as_raw() == certificate.issuer().as_raw() {
                return None;
            }
            let validity = certificate.validity();
            let micros = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
            Some(micros(validity.not_before.timestamp())..=micros(validity.not_after.timestamp()))
        });
        Self { period: periods.min_by_key(|period| *period.end()), warned_at: None }
    }

    /// When the period ends.
    pub(super) fn end(&self) -> Option<Timestamp> {
        self.period.as_ref().map(|period| *period.end())
    }

    /// Sets the metric, and warns once a day if necessary.
    pub(super) fn check(&mut self, certificate: &Path) {
        let Some(period) = &self.period else {
            return;
        };
        let (begin, end) = (*period.start(), *period.end());
        #[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact")]
        metrics::gauge!(metric::CERTIFICATE_EXPIRES).set((end.micros() / 1_000_000) as f64);
        let now = Timestamp::now();
        let warning = if now >= end {
            "the certificate, or one that signed it, HAS EXPIRED: clients will refuse it"
        } else if now < begin {
            "the certificate is not valid yet: clients will refuse it; check this machine's clock"
        } else if end.since(now) < SOON {
            "the certificate, or one that signed it, expires soon"
        } else {
            return;
        };
        if self.warned_at.is_some_and(|at| at.elapsed() < REPEATED) {
            return;
        }
        self.warned_at = Some(Instant::now());
        tracing::warn!(
            certificate = %certificate.display(),
            valid_from = %begin,
            valid_until = %end,
            "{warning}"
        );
    }
}
