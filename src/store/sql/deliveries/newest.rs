//! Each delivery once: at the newest of its failures that match.

use std::collections::BTreeMap;

use super::super::dialect::{self, Connection};

use super::{Candidate, Key, LONGEST_RANGE, Matching};
use crate::clock::Timestamp;
use crate::store::Result;

/// Sequences `first..=last` of a gateway, and the lowest first sequence of an
/// attempt that may reach into them.
#[derive(Clone, Copy)]
pub(crate) struct Within {
    pub(crate) gateway: i64,
    pub(crate) lowest: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// A failed attempt that matches.
pub(crate) struct Covering {
    pub(crate) attempt: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) finished_at: Timestamp,
}

/// Leaves out deliveries that a newer matching failure shows already.
pub(super) async fn newest_only(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>> {
    let mut newest: BTreeMap<Key, (Timestamp, i64)> = BTreeMap::new();
    for (gateway, first, last) in neighbourhoods(&candidates) {
        let wanted: Vec<i64> = {
            let mut wanted: Vec<i64> = candidates
                .iter()
                .filter(|candidate| {
                    candidate.key.0 == gateway && (first..=last).contains(&candidate.key.1)
                })
                .map(|candidate| candidate.key.1)
                .collect();
            wanted.sort_unstable();
            wanted.dedup();
            wanted
        };
        let lowest = first - LONGEST_RANGE + 1;
        let within = Within { gateway, lowest, first, last };
        let rows = dialect::failures_within(connection, matching, as_of, within).await?;
        for row in rows {
            let begin = wanted.partition_point(|sequence| *sequence < row.first);
            let covered = wanted[begin..].iter().take_while(|sequence| **sequence <= row.last);
            for sequence in covered {
                let newest = newest
                    .entry((gateway, *sequence))
                    .or_insert((Timestamp::from_micros(i64::MIN), 0));
                *newest = (*newest).max((row.finished_at, row.attempt));
            }
        }
    }
    let is_newest = |candidate: &Candidate| {
        let own = (candidate.place.finished_at, candidate.place.attempt);
        newest.get(&candidate.key).is_none_or(|newest| *newest <= own)
    };
    Ok(candidates.into_iter().filter(is_newest).collect())
}

/// The candidates' sequences as few intervals, so that neighbours share one search.
fn neighbourhoods(candidates: &[Candidate]) -> Vec<(i64, i64, i64)> {
    let mut keys: Vec<Key> = candidates.iter().map(|candidate| candidate.key).collect();
    keys.sort_unstable();
    let mut intervals: Vec<(i64, i64, i64)> = Vec::new();
    for (gateway, sequence) in keys {
        match intervals.last_mut() {
            Some((of, _, last)) if *of == gateway && sequence - *last <= LONGEST_RANGE => {
                *last = sequence;
            }
            _ => intervals.push((gateway, sequence, sequence)),
        }
    }
    intervals
}
