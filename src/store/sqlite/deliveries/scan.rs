//! The walk along the index of failed attempts, newest first, in bounded rounds.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::newest::newest_only;
use super::{Candidate, Key, Keys, Matching, Place, as_json};
use crate::store::Result;

/// Ledger rows per round. Most do not match when a filter is narrow, so that
/// rounds are not small; most do when it is wide, so that they are not large.
const ROUND: usize = 256;

/// Deliveries expanded per round at the most.
const EXPANDED: usize = 2_000;

/// A failed attempt on the way.
struct Failed {
    attempt: i64,
    gateway: i64,
    first: i64,
    last: i64,
    finished_at: i64,
    matches: bool,
}

pub(super) async fn keys(
    connection: &mut SqliteConnection,
    matching: &Matching,
    as_of: i64,
    start: Place,
    limit: usize,
    work: usize,
) -> Result<Keys> {
    let mut keys = Vec::new();
    let mut at = start;
    let mut left = work;
    while left > 0 {
        let attempts = round(connection, matching, as_of, at).await?;
        let was_last = attempts.len() < ROUND;
        let (candidates, examined, all) = expand(&attempts, at, left.min(EXPANDED));
        let fresh = newest_only(connection, matching, as_of, candidates).await?;
        for candidate in of_type(connection, matching, fresh).await? {
            keys.push(candidate.key);
            at = candidate.place;
            if keys.len() == limit {
                // Whether anything follows is the next call's to find out.
                return Ok(Keys { keys, next: Some(at) });
            }
        }
        if all && was_last {
            return Ok(Keys { keys, next: None });
        }
        left = left.saturating_sub(examined.cost);
        at = examined.up_to;
    }
    Ok(Keys { keys, next: Some(at) })
}

/// How far a round came and what it cost.
struct Examined {
    up_to: Place,
    cost: usize,
}

/// The next failed attempts of the window, those of others included and marked:
/// passing them over here keeps the work of a call bounded.
async fn round(
    connection: &mut SqliteConnection,
    matching: &Matching,
    as_of: i64,
    at: Place,
) -> Result<Vec<Failed>> {
    let limit = i64::try_from(ROUND).unwrap_or(i64::MAX);
    // One upper bound, not two: the planner would be free to enter the index at
    // the window's end each time, and pages would cost ever more. The instant of
    // the bound is asked for apart, because many attempts may share it and only
    // an equation enters the index in their midst.
    let window_end = (matching.to.saturating_sub(1), i64::MAX);
    let (finished_at, attempt) = (at.finished_at, at.attempt).min(window_end);
    let attempt = attempt.min(as_of);
    Ok(sqlx::query_as!(
        Failed,
        r#"
        with page as materialized (
            select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
            from attempts a indexed by attempts_failed
            where a.outcome = 'failed' and a.finished_at = $4 and a.finished_at >= $6 and a.attempt <= $5
            union all
            select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
            from attempts a indexed by attempts_failed
            where a.outcome = 'failed' and a.finished_at < $4 and a.finished_at >= $6 and a.attempt <= $7
            order by 5 desc, 1 desc
            limit $8
        )
        select p.attempt as "attempt!: i64", p.gateway as "gateway!: i64",
            p.first_sequence as "first!: i64", p.last_sequence as "last!: i64",
            p.finished_at as "finished_at!: i64",
            (g.organisation = $1 and ($2 is null or p.gateway = $2)
             and ($3 is null or p.reason = $3)) as "matches!: bool"
        from page p cross join gateways g on g.gateway = p.gateway
        order by p.finished_at desc, p.attempt desc
        "#,
        matching.organisation,
        matching.gateway,
        matching.reason,
        finished_at,
        attempt,
        matching.from,
        as_of,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Expands ranges from their ends, behind `at`, until `most` is reached; says
/// how far that was, and whether it was all.
fn expand(attempts: &[Failed], at: Place, most: usize) -> (Vec<Candidate>, Examined, bool) {
    let mut candidates = Vec::new();
    let mut examined = Examined { up_to: at, cost: 0 };
    for failed in attempts {
        examined.cost += 1;
        let place =
            |sequence| Place { finished_at: failed.finished_at, attempt: failed.attempt, sequence };
        let mut sequence = failed.last;
        if place(sequence) >= at {
            sequence = at.sequence - 1;
        }
        while failed.matches && sequence >= failed.first {
            if candidates.len() == most {
                examined.cost += candidates.len();
                return (candidates, examined, false);
            }
            candidates.push(Candidate { key: (failed.gateway, sequence), place: place(sequence) });
            examined.up_to = place(sequence);
            sequence -= 1;
        }
        examined.up_to = examined.up_to.min(place(failed.first));
    }
    examined.cost += candidates.len();
    (candidates, examined, true)
}

/// Leaves out deliveries of other event types, and those whose event is gone.
async fn of_type(
    connection: &mut SqliteConnection,
    matching: &Matching,
    candidates: Vec<Candidate>,
) -> Result<Vec<Candidate>> {
    let Some(event_type) = &matching.event_type else {
        return Ok(candidates);
    };
    let keys: Vec<Key> = candidates.iter().map(|candidate| candidate.key).collect();
    let keys = as_json(&keys)?;
    let found: HashSet<Key> = sqlx::query!(
        r#"
        select o.gateway as "gateway!: i64", o.sequence as "sequence!: i64"
        from json_each($1) k
        cross join outbox o on o.gateway = k.value ->> 0 and o.sequence = k.value ->> 1
        cross join events e on e.event = o.event
        where e.type = $2
        "#,
        keys,
        event_type
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| (row.gateway, row.sequence))
    .collect();
    Ok(candidates.into_iter().filter(|candidate| found.contains(&candidate.key)).collect())
}
