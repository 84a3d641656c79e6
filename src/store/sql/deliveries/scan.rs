//! Scans an index of attempts, newest first, in bounded rounds.

use std::collections::HashSet;

use super::super::dialect::delivery_filter::{Failed, Outcomes};
use super::super::dialect::{Connection, DeliveryFilterStatements};

use super::details;
use super::newest::newest_only;
use super::{Candidate, Keys, Matching, ScanPosition};
use crate::clock::Timestamp;
use crate::store::{DeliveryKey, Result, TimedKey};

/// Ledger rows per round. With a narrow filter most do not match, so rounds must not be small; with
/// a wide one most do, so they must not be large.
const ROUND: usize = 256;

/// Deliveries expanded in excess of the limit in the first round. Later rounds expand more, up to
/// `EXPANDED`: a wide filter needs one round, a narrow one many.
const SPARE: usize = 32;
const EXPANDED: usize = 1_000;

pub(super) async fn keys(
    conn: &mut Connection,
    matching: &Matching,
    as_of: i64,
    start: ScanPosition,
    limit: usize,
    work: usize,
) -> Result<Keys> {
    let mut keys = Vec::new();
    let mut at = start;
    let mut left = work;
    let mut most = limit + SPARE;
    while left > 0 {
        let attempts = round(conn, matching, as_of, at).await?;
        let was_last = attempts.len() < ROUND;
        let (candidates, examined, all) = expand(&attempts, at, most.min(EXPANDED).min(left));
        most = most.saturating_mul(2);
        left = left.saturating_sub(examined.cost);
        let (selected, read) = with_events(conn, matching, candidates).await?;
        left = left.saturating_sub(read);
        let (fresh, read) = newest_only(conn, matching, as_of, selected).await?;
        left = left.saturating_sub(read);
        let (wanted, read) = in_state(conn, matching, &fresh).await?;
        left = left.saturating_sub(read);
        for candidate in fresh {
            at = candidate.position;
            if !wanted.contains(&candidate.key) {
                continue;
            }
            keys.push(candidate.key);
            if keys.len() == limit {
                // The next call finds out whether anything follows.
                return Ok(Keys { keys, next: Some(at) });
            }
        }
        if all && was_last {
            return Ok(Keys { keys, next: None });
        }
        at = examined.up_to;
    }
    Ok(Keys { keys, next: Some(at) })
}

/// Those of these deliveries that are in the state that is asked for. Also returns how many rows were
/// read.
async fn in_state(
    conn: &mut Connection,
    matching: &Matching,
    candidates: &[Candidate],
) -> Result<(HashSet<DeliveryKey>, usize)> {
    let keys: Vec<DeliveryKey> = candidates.iter().map(|candidate| candidate.key).collect();
    let Outcomes::Any(Some(state)) = matching.outcomes else {
        return Ok((keys.into_iter().collect(), 0));
    };
    let read = keys.len();
    let standings = details::standings(conn, &keys).await?.into_iter();
    let found = standings.filter(|one| one.delivery.state == state).map(|one| one.key);
    Ok((found.collect(), read))
}

/// How far a round came, and what it cost.
struct Examined {
    up_to: ScanPosition,
    cost: usize,
}

/// The next failed attempts in the time window. Rows that do not match are included and marked as
/// such, which bounds the work of a call.
async fn round(
    conn: &mut Connection,
    matching: &Matching,
    as_of: i64,
    at: ScanPosition,
) -> Result<Vec<Failed>> {
    let limit = i64::try_from(ROUND).unwrap_or(i64::MAX);
    let end = matching.filter.window.to().micros().saturating_sub(1);
    let window_end = TimedKey { at: Timestamp::from_micros(end), key: i64::MAX };
    let start = at.attempt().min(window_end);
    let before = TimedKey { key: start.key.min(as_of), ..start };
    conn.failed_attempts(matching, as_of, before, limit).await
}

/// Expands ranges from their ends, after `at`, until there are `most` candidates. Also returns how
/// far that was, and whether it was everything.
fn expand(attempts: &[Failed], at: ScanPosition, most: usize) -> (Vec<Candidate>, Examined, bool) {
    let mut candidates = Vec::new();
    let mut examined = Examined { up_to: at, cost: 0 };
    for failed in attempts {
        examined.cost += 1;
        let position = |sequence| ScanPosition {
            finished_at: failed.finished_at,
            attempt: failed.attempt,
            sequence,
        };
        let mut sequence = failed.last;
        if position(sequence) >= at {
            sequence = at.sequence - 1;
        }
        while failed.matches && sequence >= failed.first {
            if candidates.len() == most {
                examined.cost += candidates.len();
                return (candidates, examined, false);
            }
            let key = DeliveryKey::new(failed.gateway, sequence);
            candidates.push(Candidate { key, position: position(sequence) });
            examined.up_to = position(sequence);
            sequence -= 1;
        }
        examined.up_to = examined.up_to.min(position(failed.first));
    }
    examined.cost += candidates.len();
    (candidates, examined, true)
}

/// If the filter selects events, removes deliveries of other events, and those whose event was removed.
/// Also returns how many rows were read.
async fn with_events(
    conn: &mut Connection,
    matching: &Matching,
    candidates: Vec<Candidate>,
) -> Result<(Vec<Candidate>, usize)> {
    if !matching.filter.selects_events() {
        return Ok((candidates, 0));
    }
    let keys: Vec<DeliveryKey> = candidates.iter().map(|candidate| candidate.key).collect();
    let found = conn.deliveries_with_events(matching, &keys).await?;
    let found: HashSet<DeliveryKey> = found.into_iter().collect();
    let selected = candidates.into_iter().filter(|candidate| found.contains(&candidate.key));
    Ok((selected.collect(), keys.len()))
}
