//! Each delivery once: at the newest of its failures that match.

use std::collections::BTreeMap;

use sqlx::SqliteConnection;

use super::{Candidate, Key, LONGEST_RANGE, Matching};
use crate::store::Result;

/// Leaves out deliveries that a newer matching failure shows already.
pub(super) async fn newest_only(
    connection: &mut SqliteConnection,
    matching: &Matching,
    as_of: i64,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>> {
    let mut newest: BTreeMap<Key, (i64, i64)> = BTreeMap::new();
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
        let rows = sqlx::query!(
            r#"
            select attempt as "attempt!: i64", first_sequence as "first!: i64",
                last_sequence as "last!: i64", finished_at as "finished_at!: i64"
            from attempts indexed by attempts_by_sequence
            where gateway = $1 and first_sequence between $2 and $3 and last_sequence >= $4
              and outcome = 'failed' and finished_at >= $5 and finished_at < $6
              and ($7 is null or reason = $7) and attempt <= $8
            "#,
            gateway,
            lowest,
            last,
            first,
            matching.from,
            matching.to,
            matching.reason,
            as_of
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            let begin = wanted.partition_point(|sequence| *sequence < row.first);
            let covered = wanted[begin..].iter().take_while(|sequence| **sequence <= row.last);
            for sequence in covered {
                let newest = newest.entry((gateway, *sequence)).or_insert((i64::MIN, 0));
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
