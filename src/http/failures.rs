//! Log lines for refused and failed requests: one line each, up to a limit per minute, source and
//! kind, because any peer can cause them. Also limits how often refusals are recorded in the
//! database.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::problem::Problem;
use crate::admission::rates::Source;
use crate::event::GatewayKey;
use crate::log_limit::{Bounds, LogLimit};
use crate::metric;
use crate::store::{GatewayCredential, StoreError};
use crate::token::Kind;

const BOUNDS: Bounds = Bounds { per_key: 10, in_all: 600, keys: 4096 };
/// Sources that are logged with their counts; the others are summed up.
const NAMED: usize = 20;
/// How often a refusal of the same gateway is recorded, at most ...
const NOTED_EVERY: Duration = Duration::from_secs(10);
/// ... and how many refusals of all gateways in that time.
const NOTES: usize = 50;

/// The log of failures.
#[derive(Debug)]
pub(super) struct Failures {
    lines: LogLimit<(Option<Source>, Cow<'static, str>)>,
    noted: Mutex<HashMap<GatewayKey, Instant>>,
}

impl Default for Failures {
    fn default() -> Self {
        Self { lines: LogLimit::new(BOUNDS), noted: Mutex::default() }
    }
}

impl Failures {
    fn admit(&self, address: Option<IpAddr>, kind: Cow<'static, str>) -> Option<u64> {
        self.lines.admit(&(address.map(Source::from), kind))
    }

    /// Logs a refused credential, by its public part. A text that is not a key is not logged,
    /// because it may be another secret.
    pub(super) fn credential(
        &self,
        address: Option<IpAddr>,
        kind: Kind,
        token: Option<&str>,
        gateway: Option<&GatewayCredential>,
    ) {
        let kind = kind_name(kind);
        count_credential(kind);
        let Some(suppressed) = self.admit(address, kind.into()) else { return };
        let address = address.map(tracing::field::display);
        let gateway_name = gateway.map(|gateway| gateway.gateway_name.as_str());
        let gateway = gateway.map(|gateway| tracing::field::display(gateway.gateway_id));
        tracing::info!(
            address,
            kind,
            token,
            gateway,
            gateway_name,
            suppressed,
            "refused a credential"
        );
    }

    /// Logs a gateway that was refused, over whatever transport, and is not connected.
    pub(super) fn connection(
        &self,
        address: IpAddr,
        transport: &'static str,
        problem: &Problem,
        token: Option<&str>,
        gateway: Option<&GatewayCredential>,
    ) {
        let code = problem.code().to_owned();
        metrics::counter!(metric::CONNECTION_ATTEMPTS_REFUSED, "code" => code.clone()).increment(1);
        let Some(suppressed) =
            self.admit(Some(address), format!("{transport} connection {code}").into())
        else {
            return;
        };
        let status = problem.status().as_u16();
        let gateway_name = gateway.map(|gateway| gateway.gateway_name.as_str());
        let gateway = gateway.map(|gateway| tracing::field::display(gateway.gateway_id));
        tracing::warn!(
            %address,
            transport,
            status,
            code,
            token,
            gateway,
            gateway_name,
            suppressed,
            "refused a connection"
        );
    }

    /// Logs a request that failed because of the database.
    pub(super) fn store(&self, address: Option<IpAddr>, error: &StoreError) {
        let (kind, is_grave) = match error {
            StoreError::Unavailable(_) | StoreError::ConnectionLost(_) => {
                ("database unavailable", false)
            }
            StoreError::StatementFailed(_) => ("statement failed", true),
            StoreError::Disk(_) => ("disk", true),
            StoreError::Unknown(_) => ("commit outcome unknown", true),
            StoreError::Corrupt(_) => ("database damaged", true),
            _ => return,
        };
        let Some(suppressed) = self.admit(address, kind.into()) else { return };
        let address = address.map(tracing::field::display);
        if is_grave {
            tracing::error!(address, %error, suppressed, "a request failed");
        } else {
            tracing::warn!(address, %error, suppressed, "a request was refused");
        }
    }

    /// Logs the number of suppressed lines of sources that have been quiet since.
    pub(super) fn log_suppressed(&self) {
        let (mut keys, others) = self.lines.take_suppressed();
        keys.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rest: u64 = keys.iter().skip(NAMED).map(|(_, count)| count).sum();
        for ((source, kind), suppressed) in keys.iter().take(NAMED) {
            let address = source.map(tracing::field::display);
            tracing::info!(address, kind = %kind, suppressed, "suppressed log lines about failed requests");
        }
        if rest + others > 0 {
            let suppressed = rest + others;
            tracing::info!(
                suppressed,
                "suppressed log lines about failed requests of more addresses"
            );
        }
        let now = Instant::now();
        let mut noted = self.noted();
        noted.retain(|_, at| now.duration_since(*at) < NOTED_EVERY);
        noted.shrink_to_fit();
    }

    /// Whether a refusal of this gateway may be recorded in the database now. Each record is a
    /// write, and a peer can cause it with only the public part of a key.
    pub(super) fn may_note(&self, gateway: GatewayKey) -> bool {
        self.may_note_at(gateway, Instant::now())
    }

    fn may_note_at(&self, gateway: GatewayKey, now: Instant) -> bool {
        let mut noted = self.noted();
        if noted.len() >= NOTES {
            noted.retain(|_, at| now.duration_since(*at) < NOTED_EVERY);
        }
        let is_due = noted.get(&gateway).is_none_or(|at| now.duration_since(*at) >= NOTED_EVERY);
        let may = is_due && (noted.len() < NOTES || noted.contains_key(&gateway));
        if may {
            noted.insert(gateway, now);
        }
        may
    }

    /// Locked for a lookup, never across an await.
    fn noted(&self) -> MutexGuard<'_, HashMap<GatewayKey, Instant>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a refused credential without a log line: the refused upgrade has its own.
pub(super) fn count(kind: Kind) {
    count_credential(kind_name(kind));
}

fn count_credential(kind: &'static str) {
    metrics::counter!(metric::AUTHENTICATION_FAILURES, "kind" => kind).increment(1);
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "gateway_key",
        Kind::Access => "access_token",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded_per_gateway_and_in_all() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let failures = Failures::default();
        let mut now = Instant::now();
        let mut notes: Vec<(Instant, GatewayKey)> = Vec::new();
        for _ in 0..5000 {
            now += Duration::from_millis(random.u64(..20));
            let gateway = GatewayKey(random.i64(..200));
            if failures.may_note_at(gateway, now) {
                notes.push((now, gateway));
            }
            let lately = notes.iter().filter(|(at, _)| now.duration_since(*at) < NOTED_EVERY);
            let of = lately.clone().filter(|(_, other)| *other == gateway).count();
            assert!(of <= 1 && lately.count() <= NOTES, "seed {seed}");
            assert!(failures.noted().len() <= NOTES, "seed {seed}");
        }
        assert!(notes.len() > NOTES, "seed {seed}");
    }
}
