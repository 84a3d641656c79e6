//! Verdicts in sentences, for people: what the command line, the API and the console show.

use std::fmt;

use super::{
    EventState, EventVerdict, Gateway, GatewayEvidence, KeyFault, LastRefusal, Pause, Verdict,
    VerdictState,
};
use crate::clock::Timestamp;
use crate::event::Reason;

/// An instant to the second.
pub fn to_the_second(at: Timestamp) -> String {
    let text = at.to_string();
    text.get(.."2026-01-31T09:30:00".len()).map_or_else(|| text.clone(), |it| format!("{it}Z"))
}

/// A reason in a sentence: the code that a gateway reports, in its own spelling, or else its name.
pub fn reason_in_words(reason: &str) -> String {
    match reason {
        "gateway_processing_error" | "deployment_id_mismatch" => reason.to_uppercase(),
        "confirmation_timeout" => "it did not confirm an event in time".to_owned(),
        "write_timeout" => "it stopped reading".to_owned(),
        "protocol_error" => "it violated the protocol".to_owned(),
        "no_gateways_matched" => "no gateway matched its target".to_owned(),
        other => other.to_owned(),
    }
}

impl LastRefusal {
    /// The reason for the refusal, as words of a sentence.
    pub fn in_words(&self) -> String {
        match self.cause {
            Some(KeyFault::Revoked) => "key revoked".to_owned(),
            Some(KeyFault::Expired) => "key expired".to_owned(),
            Some(KeyFault::WrongSecret) => "wrong key".to_owned(),
            None => self.code.replace('_', " "),
        }
    }
}

impl Gateway {
    /// Its verdict in a sentence.
    pub fn summary(&self) -> String {
        sentence(self, self.verdict())
    }
}

impl GatewayEvidence {
    /// The gateway's verdict, also if it is deleted.
    pub fn verdict(&self) -> Verdict {
        match self.deleted_at {
            Some(since) => Verdict {
                state: VerdictState::Deleted,
                since,
                reason: Some(Reason::GatewayDeleted.as_str().into()),
                failures: 0,
            },
            None => self.gateway.verdict(),
        }
    }

    /// The verdict in a sentence.
    pub fn summary(&self) -> String {
        sentence(&self.gateway, self.verdict())
    }
}

/// Whether only the result of a deployment (`deployment.ack`) has this reason.
fn is_of_a_deployment(reason: Option<&str>) -> bool {
    let reasons = [Reason::GatewayProcessingError, Reason::DeploymentIdMismatch];
    reasons.iter().any(|it| Some(it.as_str()) == reason)
}

fn sentence(gateway: &Gateway, verdict: Verdict) -> String {
    let Verdict { state, since, reason, failures } = verdict;
    let at = to_the_second(since);
    let why = reason.as_deref().map(reason_in_words).unwrap_or_default();
    match state {
        VerdictState::Deleted => format!("deleted since {at}"),
        VerdictState::Disabled => format!("disabled since {at}"),
        VerdictState::Paused => paused(gateway, &at),
        VerdictState::Failing if failures > 0 => {
            let what = if is_of_a_deployment(reason.as_deref()) { "deployment" } else { "event" };
            let plural = if failures == 1 { "" } else { "s" };
            format!("failing: {failures} {what}{plural} failed since {at}, {why}")
        }
        VerdictState::Failing => format!("failing since {at}: {why}"),
        VerdictState::Away => {
            let refusal = gateway.last_refusal.as_ref().filter(|refusal| refusal.at >= since);
            let never = reason.as_deref() == Some("never_connected");
            match refusal {
                Some(refusal) if never => {
                    format!("away, never connected, last refusal: {}", refusal.in_words())
                }
                Some(refusal) => format!("away since {at}, last refusal: {}", refusal.in_words()),
                None if never => format!("away, never connected, registered {at}"),
                None => format!("away since {at}: {why}"),
            }
        }
        VerdictState::Behind => {
            let events = if gateway.pending == 1 { "event" } else { "events" };
            format!("behind since {at}: {} {events} pending", gateway.pending)
        }
        VerdictState::Ok => "ok".to_owned(),
    }
}

fn paused(gateway: &Gateway, at: &str) -> String {
    match &gateway.paused {
        Some(Pause { by, reason: Some(reason), .. }) => {
            format!("paused by {by} since {at}: {reason}")
        }
        Some(Pause { by, .. }) => format!("paused by {by} since {at}"),
        None => format!("paused since {at}"),
    }
}

impl fmt::Display for EventVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = to_the_second(self.since);
        let (gateways, targets) = (self.gateways, self.targets);
        let of = if targets == 1 { "1 gateway".to_owned() } else { format!("{targets} gateways") };
        match self.state {
            EventState::Unmatched => write!(f, "unmatched since {at}")?,
            EventState::Failed => write!(f, "failed at {gateways} of {of} since {at}")?,
            EventState::Pending => write!(f, "pending at {gateways} of {of} since {at}")?,
            EventState::Delivered if self.filtered + self.superseded == 0 => {
                return write!(f, "delivered to {of}, the last at {at}");
            }
            EventState::Delivered => {
                write!(f, "delivered to {gateways} of {of}, the last at {at}")?;
                if self.filtered > 0 {
                    write!(f, "; filtered by {}", self.filtered)?;
                }
                if self.superseded > 0 {
                    write!(f, "; superseded at {}", self.superseded)?;
                }
                return Ok(());
            }
            EventState::Superseded => {
                write!(
                    f,
                    "superseded by newer events at {} of {of}, the last at {at}",
                    self.superseded
                )?;
                if self.filtered > 0 {
                    write!(f, "; filtered by {}", self.filtered)?;
                }
                return Ok(());
            }
            EventState::Filtered => return write!(f, "filtered by {of}, the last at {at}"),
        }
        match self.reason {
            Some(reason) => write!(f, ": {}", reason_in_words(reason)),
            None => Ok(()),
        }
    }
}
