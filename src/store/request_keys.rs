//! Corrective actions with an `Idempotency-Key`: the transaction of an action keeps its result under
//! the key, and a repeat of the request returns that result instead of appending again.
//!
//! Results are kept in the table of the answers of publishes, under names that no publish can use,
//! and as long ([`IDEMPOTENCY_WINDOW`](super::limits::IDEMPOTENCY_WINDOW)). As for publishes, a
//! result that appended nothing is not kept: a repeat may do more.

use serde::{Deserialize, Serialize};

use super::{BulkCounts, BulkJob, Range, Redriven, Replayed, Resent, Result, StoreError};
use crate::event::JobId;

/// The `Idempotency-Key` of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The key, which the client has chosen.
    pub key: String,
    /// The SHA-256 of what the request does: its path and its body.
    pub digest: [u8; 32],
}

impl RequestKey {
    /// The name under which the result is kept. A key from a header contains no line break, so it
    /// differs from the name of every publish.
    pub fn name(&self) -> String {
        format!("action\n{}", self.key)
    }
}

/// The result of an earlier request with the same key. A job is as it is now.
#[derive(Clone, Debug)]
pub enum EarlierResult {
    /// Of a replay.
    Replayed(Replayed),
    /// Of a resend.
    Resent(Resent),
    /// Of a redrive that was done at once.
    Redriven(Redriven),
    /// Of a redrive that a job does.
    RedriveStarted(BulkJob),
}

/// A result as it is kept: of a job only its id.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum KeptResult {
    /// Of a replay.
    Replayed {
        /// The replayed part of the log.
        range: Option<Range>,
        /// What was appended and skipped.
        counts: BulkCounts,
        /// The new sequences.
        appended: Option<Range>,
        /// The job that replays it.
        job: Option<JobId>,
    },
    /// Of a resend.
    Resent(Resent),
    /// Of a redrive that was done at once.
    Redriven(Redriven),
    /// Of a redrive that a job does.
    RedriveStarted(JobId),
}

impl KeptResult {
    /// Whether it is kept: it has appended something, or started a job.
    pub fn is_kept(&self) -> bool {
        match self {
            Self::Replayed { appended, job, .. } => appended.is_some() || job.is_some(),
            Self::Resent(resent) => resent.deliveries.iter().any(|(_, new)| new.is_some()),
            Self::Redriven(redriven) => {
                redriven.redriven.iter().any(|one| one.new_sequence.is_some())
            }
            Self::RedriveStarted(_) => true,
        }
    }

    /// The job that it started.
    pub const fn job(&self) -> Option<JobId> {
        match self {
            Self::Replayed { job, .. } => *job,
            Self::RedriveStarted(job) => Some(*job),
            Self::Resent(_) | Self::Redriven(_) => None,
        }
    }

    /// As it is stored: JSON, which only this service reads.
    pub fn to_stored(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| StoreError::Corrupt(format!("a result can't be stored: {error}")))
    }

    /// Reads a result that was stored.
    pub fn stored(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| StoreError::Corrupt(format!("a stored result: {error}")))
    }

    /// The result for a repeat, with the job that it started.
    pub fn earlier(self, started: Option<BulkJob>) -> Result<EarlierResult> {
        // Retention keeps jobs longer than results, unless their records were removed by hand.
        const GONE: StoreError = StoreError::NotFound("job");
        Ok(match self {
            Self::Replayed { job: Some(_), .. } if started.is_none() => return Err(GONE),
            Self::Replayed { range, counts, appended, job: _ } => {
                EarlierResult::Replayed(Replayed { range, counts, appended, job: started })
            }
            Self::Resent(resent) => EarlierResult::Resent(resent),
            Self::Redriven(redriven) => EarlierResult::Redriven(redriven),
            Self::RedriveStarted(_) => EarlierResult::RedriveStarted(started.ok_or(GONE)?),
        })
    }
}

impl From<&Replayed> for KeptResult {
    fn from(replayed: &Replayed) -> Self {
        let Replayed { range, counts, appended, job } = replayed;
        let job = job.as_ref().map(|job| job.id);
        Self::Replayed { range: *range, counts: *counts, appended: *appended, job }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{GatewayId, Sequence};
    use crate::store::{AppendedDelivery, DeliveryKey, RedriveCursor, RedrivenDelivery};

    #[test]
    fn a_result_is_read_as_it_was_stored() {
        let range = Range { first: Sequence(3), last: Sequence(9) };
        let gateway_id = GatewayId::new();
        let present = vec![AppendedDelivery { gateway_id, sequence: Sequence(4) }];
        let redriven = RedrivenDelivery {
            gateway_id,
            event_id: "e1".parse().unwrap(),
            sequence: Sequence(1),
            new_sequence: Some(Sequence(2)),
        };
        let next = Some(RedriveCursor::DeadLetters(DeliveryKey::new(1, 2)));
        for kept in [
            KeptResult::Replayed {
                range: Some(range),
                counts: BulkCounts { appended: 7, ..BulkCounts::default() },
                appended: Some(range),
                job: None,
            },
            KeptResult::Resent(Resent {
                deliveries: vec![(gateway_id, Some(Sequence(5)))],
                present,
            }),
            KeptResult::Redriven(Redriven {
                redriven: vec![redriven],
                next,
                more: true,
                ..Redriven::default()
            }),
            KeptResult::RedriveStarted(JobId::new()),
        ] {
            assert!(kept.is_kept());
            let stored = kept.to_stored().unwrap();
            let read = KeptResult::stored(&stored).unwrap();
            assert_eq!(read.to_stored().unwrap(), stored);
        }
        assert!(!KeptResult::Redriven(Redriven::default()).is_kept());
        assert!(KeptResult::stored("{}").is_err());
    }
}
