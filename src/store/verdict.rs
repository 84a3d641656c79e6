//! A gateway's verdict: the state that lists show first, since when it applies, and why.

use std::borrow::Cow;
use std::time::Duration;

use super::Gateway;
use crate::clock::Timestamp;
use crate::event::Reason;

/// A connected gateway is behind when its oldest pending event is older than this.
pub const BEHIND_AFTER: Duration = Duration::from_secs(30);

/// The state of a gateway: the first of these that applies.
///
/// | state | applies when | `since` | `reason` |
/// |---|---|---|---|
/// | `deleted` | it was deleted; only in a [diagnosis](super::diagnosis) | when it was deleted | `gateway_deleted` |
/// | `disabled` | an admin has disabled it | when it was disabled | `gateway_disabled` |
/// | `paused` | an admin has paused its delivery | when it was paused | who paused it, and why |
/// | `failing` | the gateway reported (`deployment.ack`, or a rejection) that it could not apply an event, has applied none of the same type since, and the failure was not redriven | the first failed report after the last success | that of the newest failed report |
/// | `failing` | a live gateway did not handle an event (`confirmation_timeout`, `write_timeout`, `protocol_error`, or the code of a negative acknowledgement), and no receipt or other failure came after that | that failure | its reason |
/// | `away` | it has no live connection on any node | the end of its last connection, or its registration | why that connection ended, or `never_connected` |
/// | `behind` | its oldest pending event is older than [`BEHIND_AFTER`] | when that event was appended | `confirmation_overdue` |
/// | `ok` | none of these | the oldest of its live connections | none |
///
/// Reports are ordered by their sequences. A report that arrives late changes nothing, and of
/// several for one sequence a success counts. If events of several types failed, one of the type that
/// failed last must be applied; once that type is not on record any more, any event. A verdict is computed from the database alone, so it
/// survives a restart and is the same on all nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The state.
    pub state: VerdictState,
    /// When the state began.
    pub since: Timestamp,
    /// Why; `None` for `ok`.
    pub reason: Option<Cow<'static, str>>,
    /// Failed reports since an event of the type that failed last was applied; 0 unless it is `failing` because of reports.
    pub failures: i64,
}

/// The states of a [`Verdict`], by decreasing precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictState {
    /// It was deleted. Only a diagnosis finds deleted gateways.
    Deleted,
    /// It was disabled.
    Disabled,
    /// Its delivery was paused.
    Paused,
    /// It does not handle what it receives.
    Failing,
    /// It has no live connection.
    Away,
    /// It is connected, and its oldest pending event is older than [`BEHIND_AFTER`].
    Behind,
    /// It is connected and up to date.
    Ok,
}

/// Failed reports of a gateway since it applied an event of the type that failed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// When the first of them arrived.
    pub since: Timestamp,
    /// Why the newest report failed.
    pub reason: Reason,
    /// The number of failed reports.
    pub count: i64,
}

impl Gateway {
    /// Its verdict as of [`Gateway::as_of`].
    pub fn verdict(&self) -> Verdict {
        let is = |state, since, reason: Option<&'static str>| Verdict {
            state,
            since,
            reason: reason.map(Cow::Borrowed),
            failures: 0,
        };
        if let Some(since) = self.disabled_at {
            return is(VerdictState::Disabled, since, Some(Reason::GatewayDisabled.as_str()));
        }
        if let Some(pause) = &self.paused {
            let reason = Some(Cow::Owned(pause.to_string()));
            return Verdict { reason, ..is(VerdictState::Paused, pause.at, None) };
        }
        if let Some(Failing { since, reason, count }) = self.failing {
            let reported = is(VerdictState::Failing, since, Some(reason.as_str()));
            return Verdict { failures: count, ..reported };
        }
        if let Some((at, reason)) = unhandled(self.last_failure, self.last_receipt_at) {
            return is(VerdictState::Failing, at, Some(reason.as_str()));
        }
        let Some(connected_since) = self.connected_since else {
            let never = (self.created_at, "never_connected");
            let (since, reason) = self.left.map_or(never, |(at, reason)| (at, reason.as_str()));
            return is(VerdictState::Away, since, Some(reason));
        };
        match self.oldest_pending_at {
            Some(oldest) if self.as_of.since(oldest) > BEHIND_AFTER => {
                is(VerdictState::Behind, oldest, Some("confirmation_overdue"))
            }
            _ => is(VerdictState::Ok, connected_since, None),
        }
    }
}

/// What a gateway's state of `failing` follows from, without the rest of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct Handling {
    /// Whether it is disabled or paused, which takes precedence.
    pub is_stopped: bool,
    /// Whether its newest reports are failures: [`Gateway::failing`].
    pub has_failed_reports: bool,
    /// Its last failed attempt.
    pub last_failure: Option<(Timestamp, Reason)>,
    /// Its last receipt.
    pub last_receipt_at: Option<Timestamp>,
}

impl Handling {
    /// Whether the gateway's verdict is `failing`.
    pub fn is_failing(&self) -> bool {
        let is_unhandled = || unhandled(self.last_failure, self.last_receipt_at).is_some();
        !self.is_stopped && (self.has_failed_reports || is_unhandled())
    }
}

/// The last failure, if it means that a live gateway did not handle an event, and no receipt came
/// after it.
fn unhandled(
    last_failure: Option<(Timestamp, Reason)>,
    last_receipt_at: Option<Timestamp>,
) -> Option<(Timestamp, Reason)> {
    last_failure.filter(|(at, reason)| {
        is_of_a_live_gateway(*reason) && last_receipt_at.is_none_or(|receipt| receipt < *at)
    })
}

/// Whether a failure with this reason means that a connected gateway did not handle what it was
/// sent.
const fn is_of_a_live_gateway(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConfirmationTimeout
            | Reason::WriteTimeout
            | Reason::ProtocolError
            | Reason::Invalid
            | Reason::Unsupported
            | Reason::DependencyMissing
            | Reason::Timeout
            | Reason::Overloaded
            | Reason::Conflict
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Epoch, GatewayId, GatewayKey, Sequence};
    use crate::store::{Confirmation, Labels, Pause};

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    fn connected() -> Gateway {
        Gateway {
            key: GatewayKey(1),
            id: GatewayId::new(),
            name: "one".to_owned(),
            labels: Labels::new(),
            created_at: at(1),
            disabled_at: None,
            paused: None,
            manifest: None,
            epoch: Epoch::new(),
            head: Sequence(9),
            floor: Sequence::ZERO,
            confirmed: Sequence(9),
            pending: 0,
            live_connections: 1,
            connected_since: Some(at(100)),
            left: Some((at(90), Reason::Shutdown)),
            oldest_pending_at: None,
            failing: None,
            last_failure: None,
            last_receipt_at: Some(at(110)),
            last_refusal: None,
            replicas: 1,
            confirmation: Confirmation::Any,
            as_of: at(200),
        }
    }

    fn handling(gateway: &Gateway) -> Handling {
        Handling {
            is_stopped: gateway.disabled_at.is_some() || gateway.paused.is_some(),
            has_failed_reports: gateway.failing.is_some(),
            last_failure: gateway.last_failure,
            last_receipt_at: gateway.last_receipt_at,
        }
    }

    fn seen(gateway: &Gateway) -> (VerdictState, Timestamp, Option<String>) {
        let Verdict { state, since, reason, .. } = gateway.verdict();
        (state, since, reason.map(Cow::into_owned))
    }

    #[test]
    fn the_first_state_that_applies_wins() {
        let mut gateway = connected();
        assert_eq!(seen(&gateway), (VerdictState::Ok, at(100), None));
        gateway.oldest_pending_at = Some(at(170));
        assert_eq!(seen(&gateway).0, VerdictState::Ok, "not older than the limit");
        gateway.oldest_pending_at = Some(at(169));
        assert_eq!(
            seen(&gateway),
            (VerdictState::Behind, at(169), Some("confirmation_overdue".to_owned()))
        );
        gateway.connected_since = None;
        assert_eq!(seen(&gateway), (VerdictState::Away, at(90), Some("shutdown".to_owned())));
        let new = Gateway { left: None, ..gateway.clone() };
        assert_eq!(seen(&new), (VerdictState::Away, at(1), Some("never_connected".to_owned())));
        gateway.last_failure = Some((at(120), Reason::ConfirmationTimeout));
        assert_eq!(
            seen(&gateway),
            (VerdictState::Failing, at(120), Some("confirmation_timeout".to_owned()))
        );
        let reason = Reason::GatewayProcessingError;
        gateway.failing = Some(Failing { since: at(50), reason, count: 3 });
        assert_eq!(
            seen(&gateway),
            (VerdictState::Failing, at(50), Some("gateway_processing_error".to_owned()))
        );
        assert_eq!(gateway.verdict().failures, 3);
        assert!(handling(&gateway).is_failing());
        gateway.failing = None;
        assert!(handling(&gateway).is_failing(), "because of the timeout");
        let by = "ops".to_owned();
        gateway.paused = Some(Pause { at: at(125), by: by.clone(), reason: None });
        assert_eq!(
            seen(&gateway),
            (VerdictState::Paused, at(125), Some("paused by ops".to_owned()))
        );
        gateway.paused = Some(Pause { at: at(125), by, reason: Some("upgrade".to_owned()) });
        assert_eq!(seen(&gateway).2.as_deref(), Some("paused by ops: upgrade"));
        assert!(!handling(&gateway).is_failing());
        gateway.disabled_at = Some(at(130));
        assert_eq!(
            seen(&gateway),
            (VerdictState::Disabled, at(130), Some("gateway_disabled".to_owned()))
        );
    }

    #[test]
    fn a_receipt_after_the_failure_ends_it_and_other_reasons_begin_none() {
        let mut gateway = connected();
        gateway.last_failure = Some((at(105), Reason::ConfirmationTimeout));
        assert_eq!(seen(&gateway).0, VerdictState::Ok);
        gateway.last_failure = Some((at(120), Reason::NotConnected));
        assert_eq!(seen(&gateway).0, VerdictState::Ok);
    }
}
