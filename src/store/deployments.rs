//! Finds the event that a gateway's report on a deployment answers.
//!
//! A report contains no event id. Of the sent events with its ids, it answers the one that was
//! performed at the same instant or, if there is none, the newest one. Gateways handle one event
//! after another, so a report also confirms what was sent before its event. If several events match
//! equally well, it confirms only what precedes all of them.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::Sequence;

/// The maximum number of sent events with the ids of a report that are compared with it, newest
/// first.
pub const CANDIDATES: usize = 1024;
/// The same for a report that is matched in the transaction that records it, which must be short.
pub const CANDIDATES_IN_WRITER: usize = 64;

/// The ids in a `deployment.ack`.
#[derive(Clone, Debug)]
pub struct DeploymentKey {
    /// `artifactId`.
    pub artifact_id: String,
    /// `deploymentId`.
    pub deployment_id: String,
    /// The last word of the event types: `deployed` or `undeployed`.
    pub suffix: &'static str,
    /// `performedAt`, if it is valid.
    pub performed_at: Option<Timestamp>,
    /// The last sequence that may have been sent.
    pub sent: Sequence,
}

/// The event that a report answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentMatch {
    /// Its sequence.
    pub sequence: Sequence,
    /// The report confirms everything up to here. Less than `sequence` if other events match as
    /// well; `None` if as many events have these ids as are compared, because older ones may match, too.
    pub confirms: Option<Sequence>,
}

impl DeploymentMatch {
    /// What a report confirms of its own connection, on which everything up to `sent_here`
    /// was sent, or else of its gateway alone.
    pub fn confirms_on(&self, sent_here: Sequence) -> (Option<Sequence>, Option<Sequence>) {
        match self.confirms {
            Some(through) if through > sent_here => (None, Some(through)),
            here => (here, None),
        }
    }
}

/// An event with the ids of a report, and its `performedAt`.
pub type Candidate = (Sequence, Option<Timestamp>);

/// The `performedAt` of a payload. If the member is repeated, the last one counts, as for gateways.
/// `None` if it is missing or invalid.
pub fn performed_at(payload: &str) -> Option<Timestamp> {
    // Other members are not decoded, because they may contain values that a database can't
    // represent.
    let members: HashMap<String, &RawValue> = serde_json::from_str(payload).ok()?;
    let text: String = serde_json::from_str(members.get("performedAt")?.get()).ok()?;
    Timestamp::parse(&text).ok()
}

/// Chooses among the candidates, newest first, of which at most `most` were read.
pub fn choose(
    candidates: &[Candidate],
    performed_at: Option<Timestamp>,
    most: usize,
) -> Option<DeploymentMatch> {
    let is_same = |candidate: &&Candidate| same_instant(candidate.1, performed_at);
    let mut fitting: Vec<&Candidate> = candidates.iter().filter(is_same).collect();
    if fitting.is_empty() {
        fitting = candidates.iter().collect();
    }
    let (newest, oldest) = (fitting.first()?.0, fitting.last()?.0);
    let are_all = candidates.len() < most;
    Some(DeploymentMatch { sequence: newest, confirms: are_all.then_some(oldest) })
}

/// Gateways keep times in milliseconds.
fn same_instant(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    let millis = |time: Timestamp| time.micros().div_euclid(1000);
    one.zip(other).is_some_and(|(one, other)| millis(one) == millis(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Option<Timestamp> {
        Timestamp::parse(text).ok()
    }

    #[test]
    fn times_are_compared_as_instants_to_the_millisecond() {
        let utc = time("2026-01-31T09:30:00.123456Z");
        assert!(same_instant(utc, time("2026-01-31T10:30:00.123+01:00")));
        assert!(!same_instant(utc, time("2026-01-31T09:30:00.124Z")));
        assert!(!same_instant(utc, None));
        assert!(!same_instant(None, None));
    }

    #[test]
    fn the_same_instant_wins_and_only_what_precedes_all_that_fit_is_confirmed() {
        let at = |secs: i64| Some(Timestamp::from_micros(secs * 1_000_000));
        let candidates = [(Sequence(9), at(3)), (Sequence(5), at(1)), (Sequence(2), at(1))];
        let chosen = |performed_at| {
            let chosen = choose(&candidates, performed_at, CANDIDATES).unwrap();
            (chosen.sequence.0, chosen.confirms.unwrap().0)
        };
        assert_eq!(chosen(at(3)), (9, 9));
        assert_eq!(chosen(at(1)), (5, 2));
        assert_eq!(chosen(at(7)), (9, 2));
        assert_eq!(chosen(None), (9, 2));
        assert_eq!(choose(&[], at(1), CANDIDATES), None);
    }
}
