//! States as a word and a colour.

use maud::{Markup, html};

use super::text::short;
use crate::api::{
    AlertNotificationState, AlertSeverity, AlertState, DeliveryState, EventState, JobState,
    KeyState, NodeStatus, Outcome, RolloutState, VerdictState,
};

/// How a state is to be taken. Its word says so, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warning,
    Bad,
    Quiet,
}

impl Tone {
    const fn class(self) -> &'static str {
        match self {
            Self::Good => "state good",
            Self::Warning => "state warning",
            Self::Bad => "state bad",
            Self::Quiet => "state quiet",
        }
    }
}

/// A state as a word and a colour.
pub(super) fn state(word: &str, tone: Tone) -> Markup {
    html! { span class=(tone.class()) { (short(word, 40)) } }
}

/// The state of a gateway.
pub(super) fn verdict(verdict: VerdictState) -> Markup {
    let tone = match verdict {
        VerdictState::Ok => Tone::Good,
        VerdictState::Behind | VerdictState::Paused => Tone::Warning,
        VerdictState::Failing | VerdictState::Away => Tone::Bad,
        VerdictState::Deleted | VerdictState::Disabled => Tone::Quiet,
    };
    state(verdict.as_str(), tone)
}

/// The state of an event over all gateways.
pub(super) fn event_state(of: EventState) -> Markup {
    let tone = match of {
        EventState::Delivered => Tone::Good,
        EventState::Pending | EventState::Unmatched => Tone::Warning,
        EventState::Failed => Tone::Bad,
        EventState::Superseded | EventState::Filtered => Tone::Quiet,
    };
    state(of.as_str(), tone)
}

/// The state of a delivery.
pub(super) fn delivery_state(of: DeliveryState) -> Markup {
    let tone = match of {
        DeliveryState::Delivered => Tone::Good,
        DeliveryState::Pending => Tone::Warning,
        DeliveryState::Failed => Tone::Bad,
        DeliveryState::Filtered | DeliveryState::Superseded => Tone::Quiet,
    };
    state(of.as_str(), tone)
}

/// How far an event has come at a gateway.
pub(super) fn rollout_state(of: RolloutState) -> Markup {
    let (word, tone) = match of {
        RolloutState::Applied => ("applied", Tone::Good),
        RolloutState::Received => ("received", Tone::Good),
        RolloutState::Pending => ("pending", Tone::Warning),
        RolloutState::NotConnected => ("not connected", Tone::Bad),
        RolloutState::Failed => ("failed", Tone::Bad),
        RolloutState::Filtered => ("filtered", Tone::Quiet),
        RolloutState::Superseded => ("superseded", Tone::Quiet),
    };
    state(word, tone)
}

/// The outcome of an attempt.
pub(super) fn outcome(of: Outcome) -> Markup {
    let tone = match of {
        Outcome::Received | Outcome::Applied => Tone::Good,
        Outcome::Failed => Tone::Bad,
        Outcome::Filtered | Outcome::Snapshot | Outcome::Superseded | Outcome::Unknown => {
            Tone::Quiet
        }
    };
    state(of.as_str(), tone)
}

/// The state of a job.
pub(super) fn job_state(of: JobState) -> Markup {
    let tone = match of {
        JobState::Done => Tone::Good,
        JobState::Running => Tone::Warning,
        JobState::Failed => Tone::Bad,
        JobState::Aborted => Tone::Quiet,
    };
    state(of.as_str(), tone)
}

/// The state of a node.
pub(super) fn node_status(of: NodeStatus) -> Markup {
    let tone = match of {
        NodeStatus::Live => Tone::Good,
        NodeStatus::Lost => Tone::Bad,
        NodeStatus::Stopped => Tone::Quiet,
    };
    state(of.as_str(), tone)
}

/// The state of an alert.
pub(super) fn alert_state(of: AlertState) -> Markup {
    let tone = match of {
        AlertState::Firing => Tone::Bad,
        AlertState::Pending => Tone::Warning,
        AlertState::Resolved => Tone::Good,
    };
    state(of.as_str(), tone)
}

/// How urgent an alert is.
pub(super) fn severity(of: AlertSeverity) -> Markup {
    let tone = match of {
        AlertSeverity::Critical => Tone::Bad,
        AlertSeverity::Warning => Tone::Warning,
        AlertSeverity::Info => Tone::Quiet,
    };
    state(of.as_str(), tone)
}

/// The state of a notification.
pub(super) fn notification_state(of: AlertNotificationState) -> Markup {
    let tone = match of {
        AlertNotificationState::Delivered => Tone::Good,
        AlertNotificationState::Pending => Tone::Warning,
        AlertNotificationState::Failed => Tone::Bad,
        AlertNotificationState::Superseded => Tone::Quiet,
    };
    state(of.as_str(), tone)
}

/// The state of a key.
pub(super) fn key_state(of: KeyState) -> Markup {
    let tone = match of {
        KeyState::Valid => Tone::Good,
        KeyState::Expiring => Tone::Warning,
        KeyState::Expired | KeyState::Revoked => Tone::Quiet,
    };
    state(of.as_str(), tone)
}
