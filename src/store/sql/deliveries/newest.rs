//! The failures of known deliveries: attempts at the single sequence, and ranges that cover it.
//! Each delivery counts once, at its newest failure that matches.

use std::collections::BTreeMap;

use super::super::dialect::delivery_filter::Within;
use super::super::dialect::{Connection, DeliveryFilterStatements};

use super::{Candidate, Matching};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{DeliveryKey, Result, TimedKey};

/// The newest matching failure of each delivery that has one.
pub(crate) struct Failures {
    /// When the attempt finished, and its key.
    pub(crate) newest: BTreeMap<DeliveryKey, TimedKey>,
    /// Rows read to find them.
    pub(crate) read: usize,
}

/// Looks up the failures of these deliveries, which must be sorted and distinct.
pub(crate) async fn failures(
    conn: &mut Connection,
    matching: &Matching,
    as_of: i64,
    keys: &[DeliveryKey],
) -> Result<Failures> {
    let mut found = Failures { newest: BTreeMap::new(), read: keys.len() };
    if keys.is_empty() {
        return Ok(found);
    }
    let mut rows = conn.failures_at(matching, as_of, keys).await?;
    let around = merge_ranges(keys);
    rows.append(&mut conn.failures_reaching(matching, as_of, &around).await?);
    found.read += rows.len();
    for row in rows {
        let (first, last) =
            (DeliveryKey::new(row.gateway, row.first), DeliveryKey::new(row.gateway, row.last));
        let failure = TimedKey { at: row.finished_at, key: row.attempt };
        let begin = keys.partition_point(|key| *key < first);
        for key in keys[begin..].iter().take_while(|key| **key <= last) {
            let newest = found.newest.entry(*key).or_insert(failure);
            *newest = failure.max(*newest);
        }
    }
    Ok(found)
}

/// Removes deliveries for which a newer failure matches. Also returns how many rows were read.
pub(super) async fn newest_only(
    conn: &mut Connection,
    matching: &Matching,
    as_of: i64,
    candidates: Vec<Candidate>,
) -> Result<(Vec<Candidate>, usize)> {
    let mut keys: Vec<DeliveryKey> = candidates.iter().map(|candidate| candidate.key).collect();
    keys.sort_unstable();
    keys.dedup();
    let found = failures(conn, matching, as_of, &keys).await?;
    let is_newest = |candidate: &Candidate| {
        let own = candidate.position.attempt();
        found.newest.get(&candidate.key).is_none_or(|newest| *newest <= own)
    };
    Ok((candidates.into_iter().filter(is_newest).collect(), found.read))
}

/// Groups sorted sequences into few intervals. Neighbours share one search for the ranges that
/// cover them, which starts a whole range's length below them anyway.
fn merge_ranges(keys: &[DeliveryKey]) -> Vec<Within> {
    let mut around: Vec<Within> = Vec::new();
    for key in keys {
        let (gateway, sequence) = (key.gateway.0, key.sequence.0);
        match around.last_mut() {
            Some(it) if it.gateway == gateway && sequence - it.last < MAX_RANGE_LENGTH => {
                it.last = sequence;
            }
            _ => around.push(Within {
                gateway,
                lowest: sequence - MAX_RANGE_LENGTH + 1,
                first: sequence,
                last: sequence,
            }),
        }
    }
    around
}
