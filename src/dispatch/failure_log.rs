//! Log lines about failed deliveries: one per event that is listed, up to a limit per minute and
//! gateway, because a gateway decides how often it fails. The ledger has every failure, whether it
//! was logged or not.

use crate::event::{ConnectionId, EventType, GatewayId, Reason};
use crate::event_types;
use crate::log_limit::{Bounds, LogLimit};
use crate::metric::{self, TypeCounters};
use crate::store::{LoggedEvent, Range, UndeliveredRange};

const BOUNDS: Bounds = Bounds { per_key: 10, in_all: 600, keys: 4096 };

/// Failed deliveries of one range.
#[derive(Debug)]
pub(super) struct Failed<'a> {
    pub(super) gateway_id: GatewayId,
    pub(super) gateway_name: &'a str,
    pub(super) connection: Option<ConnectionId>,
    pub(super) range: Range,
    pub(super) reason: Reason,
    pub(super) detail: &'a str,
    /// The events in the range that are known without a query.
    pub(super) events: &'a [LoggedEvent],
}

/// The rate-limited log, and the counts of all failures.
#[derive(Debug)]
pub(super) struct FailureLog {
    limit: LogLimit<GatewayId>,
    types: TypeCounters,
}

impl Default for FailureLog {
    fn default() -> Self {
        let built_ins = event_types::built_ins().map(|info| info.name.as_str());
        let types = TypeCounters::new(metric::DELIVERY_FAILURES_BY_TYPE, built_ins);
        Self { limit: LogLimit::new(BOUNDS), types }
    }
}

impl FailureLog {
    pub(super) fn log(&self, failed: &Failed<'_>) {
        if failed.events.is_empty() {
            self.line(failed, None);
        }
        for event in failed.events {
            self.line(failed, Some(event));
        }
    }

    /// Counts failed deliveries by reason and by type.
    pub(super) fn count<'a>(
        &self,
        range: Range,
        reason: Reason,
        types: impl IntoIterator<Item = (&'a EventType, u64)>,
    ) {
        let mut left = u64::try_from(range.last.0 - range.first.0 + 1).unwrap_or(0);
        metrics::counter!(metric::DELIVERY_FAILURES, "reason" => reason.as_str()).increment(left);
        for (event_type, count) in types {
            let count = count.min(left);
            self.types.add(event_type.as_str(), count);
            left -= count;
        }
        self.types.add_others(left);
    }

    /// Counts and logs failed deliveries without an attempt.
    pub(super) fn count_and_log(&self, failed: &UndeliveredRange, reason: Reason, detail: &str) {
        let UndeliveredRange { gateway_id, gateway_name, range, events, types } = failed;
        self.count(*range, reason, types.iter().map(|(event_type, count)| (event_type, *count)));
        self.log(&Failed {
            gateway_id: *gateway_id,
            gateway_name,
            connection: None,
            range: *range,
            reason,
            detail,
            events,
        });
    }

    /// Whether another line about this gateway may be logged; if so, how many were suppressed.
    pub(super) fn admit(&self, gateway: GatewayId) -> Option<u64> {
        self.limit.admit(&gateway)
    }

    fn line(&self, failed: &Failed<'_>, event: Option<&LoggedEvent>) {
        let Some(suppressed) = self.admit(failed.gateway_id) else { return };
        tracing::warn!(
            target: "delivery",
            gateway = %failed.gateway_id,
            gateway_name = failed.gateway_name,
            connection = failed.connection.map(tracing::field::display),
            event_id = event.map(|event| tracing::field::display(&event.id)),
            event_type = event.map(|event| tracing::field::display(&event.event_type)),
            sequence = event.map(|event| event.sequence.0),
            first = failed.range.first.0,
            last = failed.range.last.0,
            outcome = "failed",
            reason = %failed.reason,
            detail = failed.detail,
            suppressed,
            "not delivered"
        );
    }

    /// Logs the number of suppressed lines of gateways that have been quiet since.
    pub(super) fn log_suppressed(&self) {
        let (gateways, others) = self.limit.take_suppressed();
        for (gateway, suppressed) in gateways {
            tracing::warn!(
                target: "delivery",
                %gateway,
                suppressed,
                "suppressed log lines about failed deliveries; all are in the ledger"
            );
        }
        if others > 0 {
            tracing::warn!(
                target: "delivery",
                suppressed = others,
                "suppressed log lines about failed deliveries of more gateways; all are in the ledger"
            );
        }
    }
}
