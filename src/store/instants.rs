//! Keeps recorded instants in order: the clock may have been set back since they were read.

use std::borrow::Cow;

use super::{InstanceOutcome, Record};
use crate::clock::Timestamp;

impl Record {
    /// The record with no instant after `now`, and with no end before its beginning.
    pub fn in_order(&self, now: Timestamp) -> Cow<'_, Self> {
        let mut changed = None;
        match self {
            Self::Confirmed { started_at, finished_at, .. } => {
                let finished = (*finished_at).min(now);
                let finished = finished.max((*started_at).min(now));
                let started = (*started_at).min(finished);
                if (started, finished) != (*started_at, *finished_at) {
                    changed = Some((started, finished));
                }
            }
            Self::Closed { unconfirmed, at, .. } => {
                let latest = unconfirmed.iter().map(|run| run.started_at).max();
                let ended = latest.map_or(*at, |latest| latest.max(*at)).min(now);
                if ended != *at || latest.is_some_and(|latest| latest > now) {
                    changed = Some((now, ended));
                }
            }
            Self::Instance { outcome, at, .. } => {
                let began = outcome.started_at().unwrap_or(*at).min(now);
                let ended = (*at).min(now).max(began);
                if ended != *at || outcome.started_at().is_some_and(|sent| sent != began) {
                    changed = Some((began, ended));
                }
            }
            Self::Reported { at, .. }
            | Self::ConfirmedElsewhere { at, .. }
            | Self::Unmatched { at, .. }
            | Self::Skipped { at, .. }
            | Self::Heartbeat { at, .. } => {
                if *at > now {
                    changed = Some((now, now));
                }
            }
        }
        let Some((began, ended)) = changed else { return Cow::Borrowed(self) };
        let mut record = self.clone();
        match &mut record {
            Self::Confirmed { started_at, finished_at, .. } => {
                (*started_at, *finished_at) = (began, ended);
            }
            Self::Closed { unconfirmed, at, .. } => {
                for run in unconfirmed {
                    run.started_at = run.started_at.min(began);
                }
                *at = ended;
            }
            Self::Instance { outcome, at, .. } => {
                if let Some(started_at) = outcome.started_at_mut() {
                    *started_at = began;
                }
                *at = ended;
            }
            Self::Reported { at, .. }
            | Self::ConfirmedElsewhere { at, .. }
            | Self::Unmatched { at, .. }
            | Self::Skipped { at, .. }
            | Self::Heartbeat { at, .. } => {
                *at = ended;
            }
        }
        Cow::Owned(record)
    }
}

impl InstanceOutcome {
    /// When what it is about was sent.
    const fn started_at(&self) -> Option<Timestamp> {
        match self {
            Self::Acknowledged { started_at, .. }
            | Self::Retried { started_at, .. }
            | Self::Rejected { started_at, .. } => Some(*started_at),
            Self::Filtered { .. } | Self::Covered { .. } => None,
        }
    }

    const fn started_at_mut(&mut self) -> Option<&mut Timestamp> {
        match self {
            Self::Acknowledged { started_at, .. }
            | Self::Retried { started_at, .. }
            | Self::Rejected { started_at, .. } => Some(started_at),
            Self::Filtered { .. } | Self::Covered { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ConnectionId, GatewayKey, Reason, Sequence};
    use crate::store::{Range, Unconfirmed};

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn whatever_the_clock_did_an_attempt_ends_after_it_began_and_not_in_the_future() {
        let (gateway, connection) = (GatewayKey(1), ConnectionId::new());
        let range = Range { first: Sequence(1), last: Sequence(2) };
        for (began, ended, now) in
            [(1, 2, 3), (2, 1, 3), (5, 6, 3), (2, 6, 3), (6, 2, 3), (3, 3, 3)]
        {
            let confirmed = Record::Confirmed {
                gateway,
                connection,
                instance: "".into(),
                range,
                started_at: at(began),
                finished_at: at(ended),
            };
            let closed = Record::Closed {
                gateway,
                connection,
                reason: Reason::ConnectionLost,
                detail: String::new(),
                unconfirmed: vec![Unconfirmed { range, started_at: at(began) }],
                is_in_progress: false,
                give_up_after: None,
                alive_at: None,
                at: at(ended),
            };
            for record in [confirmed, closed] {
                let (started, finished) = match record.in_order(at(now)).as_ref() {
                    Record::Confirmed { started_at, finished_at, .. } => {
                        (*started_at, *finished_at)
                    }
                    Record::Closed { unconfirmed, at, .. } => (unconfirmed[0].started_at, *at),
                    other => panic!("{other:?}"),
                };
                assert!(started <= finished && finished <= at(now), "{began}, {ended}, {now}");
                if began <= ended && ended <= now {
                    assert_eq!((started, finished), (at(began), at(ended)));
                }
            }
        }
    }
}
