//! Redrive: a dead letter's event is appended again under the log's next sequence. The
//! dead letter stays under its own, marked as redriven, so that the history shows what
//! happened and nothing is redriven twice. A reader searches for what can be redriven; the
//! writer only checks again what was chosen.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::dialect::delivery_filter::Matching;
use super::dialect::log::Repeat;
use super::dialect::redrive::Candidate;
use super::dialect::{Connection, LogStatements, NodeStatements, RedriveStatements, query_scalar};

use super::deliveries::{WORK, any_key, begin, details, failed_keys};
use super::ledger;
use super::ledger::reports;
use super::log::append::raise_heads;
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::audit::entries;
use crate::store::{
    Audited, Conflict, DeliveryCursor, DeliveryKey, DeliveryState, RedriveCursor, RedriveSelection,
    Redriven, RedrivenDelivery, Result, StoreError,
};

pub(crate) mod candidates;
mod dead_letters;
mod run;

use candidates::Bounds;

#[cfg(test)]
mod tests;

/// The maximum number of deliveries per transaction: other writes wait for it.
pub(super) const AT_A_TIME: usize = 100;

/// Searches for what can be appended again, and counts what is skipped. Changes nothing, so
/// that it blocks no writes.
pub(super) async fn search(
    conn: &mut Connection,
    organisation: OrganisationKey,
    selection: RedriveSelection,
) -> Result<(Redriven, Vec<DeliveryKey>)> {
    let now = conn.now().await?;
    let (mut answer, chosen) = match selection {
        RedriveSelection::One(gateway, sequence) => {
            one(conn, now, organisation, gateway, sequence).await?
        }
        RedriveSelection::Filter(filter, after) => {
            let matching = Matching::new(conn, organisation, &filter).await?;
            let mut answer = Redriven::default();
            let (counted, after) = match after {
                None => (Some(None), DeliveryKey::new(0, 0)),
                Some(RedriveCursor::Counting(at)) => (Some(Some(at)), DeliveryKey::new(0, 0)),
                Some(RedriveCursor::DeadLetters(place)) => (None, place),
            };
            if let Some(at) = counted {
                let (_, rest) = count_others(conn, &matching, at, &mut answer).await?;
                answer.next = rest.map(RedriveCursor::Counting);
            }
            let chosen = if answer.next.is_some() {
                Vec::new()
            } else {
                candidates::matching(conn, now, &matching, after, Bounds::REQUEST, &mut answer)
                    .await?
            };
            (answer, chosen)
        }
    };
    answer.more = answer.next.is_some();
    let keys = chosen.iter().map(Candidate::key).collect();
    answer.redriven = chosen.into_iter().filter_map(|one| delivery(one, None)).collect();
    Ok((answer, keys))
}

fn delivery(candidate: Candidate, new_sequence: Option<Sequence>) -> Option<RedrivenDelivery> {
    Some(RedrivenDelivery {
        gateway_id: candidate.gateway_id,
        event_id: candidate.event_id?,
        sequence: Sequence(candidate.sequence),
        new_sequence,
    })
}

/// Handles a single delivery: chosen if it is an open dead letter, and counted otherwise.
async fn one(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    gateway: GatewayId,
    sequence: Sequence,
) -> Result<(Redriven, Vec<Candidate>)> {
    const MISSING: StoreError = StoreError::NotFound("delivery");
    let gateway = any_key(conn, organisation, gateway).await?;
    let head =
        query_scalar!(r#"select head as "head!: i64" from streams where gateway = $1"#, gateway.0)
            .fetch_optional(&mut *conn)
            .await?
            .ok_or(MISSING)?;
    if !(1..=head).contains(&sequence.0) {
        return Err(MISSING);
    }
    let key = DeliveryKey { gateway, sequence };
    let mut answer = Redriven::default();
    let standing = details::standings(conn, &[key]).await?.pop().ok_or(MISSING)?;
    if count(&mut answer, &standing) {
        return Ok((answer, Vec::new()));
    }
    let mut found = conn.open_deliveries(&[key]).await?;
    if found.iter().any(|one| one.event.is_none()) {
        answer.event_removed += 1;
        found.clear();
    } else if let Some(id) = found.iter().find_map(Candidate::purged) {
        return Err(Conflict::Purged(id.clone()).into());
    } else if found.iter().any(|one| one.has_expired(now)) {
        answer.expired += 1;
        found.clear();
    }
    Ok((answer, found))
}

/// Counts a delivery that is skipped; returns whether it is one.
fn count(answer: &mut Redriven, standing: &details::Standing) -> bool {
    match standing.delivery.state {
        DeliveryState::Pending => answer.pending += 1,
        DeliveryState::Delivered | DeliveryState::Filtered | DeliveryState::Superseded => {
            answer.delivered += 1;
        }
        DeliveryState::Failed if standing.delivery.redriven => answer.already_redriven += 1,
        DeliveryState::Failed if standing.is_gateway_deleted => answer.gateway_deleted += 1,
        DeliveryState::Failed => return false,
    }
    true
}

/// Counts the next matching failed deliveries that are skipped, as far as one bounded scan
/// gets; returns how many others it found, and where the next call continues.
pub(super) async fn count_others(
    conn: &mut Connection,
    matching: &Matching,
    at: Option<DeliveryCursor>,
    answer: &mut Redriven,
) -> Result<(i64, Option<DeliveryCursor>)> {
    let (as_of, start) = begin(conn, at).await?;
    let mut open = 0;
    let found = failed_keys(conn, matching, as_of, start, WORK).await?;
    for standing in details::standings(conn, &found.keys).await? {
        open += i64::from(!count(answer, &standing));
    }
    Ok((open, found.next.map(|place| place.cursor(as_of))))
}

/// What one transaction appended, and the new head of each gateway concerned.
type Appended = (Redriven, Vec<(GatewayKey, Sequence)>);

/// Appends the chosen deliveries under their logs' next sequences and marks the old ones as
/// redriven. Those that can't be redriven any more, because another call redrove them or
/// their gateway was deleted after the search, are counted.
pub(super) async fn append(
    conn: &mut Connection,
    now: Timestamp,
    chosen: Vec<DeliveryKey>,
) -> Result<Audited<Appended>> {
    let mut answer = Redriven::default();
    let gateways = chosen.iter().map(|key| key.gateway).collect();
    // No other transaction changes the dead letters of these gateways until this one ends.
    conn.lock_streams(&gateways).await?;
    let wanted = chosen;
    let mut chosen = conn.open_deliveries(&wanted).await?;
    count_lost(conn, &wanted, &chosen, &mut answer).await?;
    chosen.retain(|one| {
        if one.event.is_none() {
            answer.event_removed += 1;
        } else if one.is_purged {
            answer.payload_purged += 1;
        } else if one.has_expired(now) {
            answer.expired += 1;
        } else {
            return true;
        }
        false
    });
    let mut counts: BTreeMap<GatewayKey, i64> = BTreeMap::new();
    for candidate in &chosen {
        *counts.entry(candidate.gateway).or_default() += 1;
    }
    let heads = raise_heads(conn, &counts).await?;
    let mut last: HashMap<GatewayKey, Sequence> = heads
        .iter()
        .map(|(gateway, head)| (*gateway, Sequence(head.0 - counts[gateway])))
        .collect();
    let mut rows = Vec::with_capacity(chosen.len());
    let mut numbered = Vec::with_capacity(chosen.len());
    for candidate in chosen {
        let last = last.entry(candidate.gateway).or_default();
        *last = last.next();
        rows.push(Repeat {
            gateway: candidate.gateway,
            sequence: *last,
            event: candidate.event.unwrap_or_default(),
            repeats: Some(Sequence(candidate.sequence)),
            // Otherwise its dead letter has the time.
            appended_at: candidate.appended_again.then_some(now),
        });
        numbered.push((candidate, *last));
    }
    conn.insert_repeats(&rows).await?;
    mark(conn, &numbered, now).await?;
    let mut entries = Vec::with_capacity(counts.len());
    for gateway in counts.keys() {
        let own: Vec<_> = numbered.iter().filter(|(one, _)| one.gateway == *gateway).collect();
        if let Some((first, _)) = own.first() {
            let sequences: Vec<_> =
                own.iter().map(|(one, new)| (Sequence(one.sequence), *new)).collect();
            entries.push(entries::redriven(first.gateway_id, &first.gateway_name, &sequences));
        }
    }
    let redriven = numbered.into_iter().filter_map(|(one, new)| delivery(one, Some(new)));
    answer.redriven = redriven.collect();
    Ok(Audited::new((answer, heads), entries))
}

/// Marks dead letters as redriven, each under its new sequence. Their streams are locked.
async fn mark(
    conn: &mut Connection,
    numbered: &[(Candidate, Sequence)],
    now: Timestamp,
) -> Result<()> {
    dead_letters::mark(conn, numbered, now).await?;
    let mut by_gateway: BTreeMap<GatewayKey, BTreeSet<i64>> = BTreeMap::new();
    for (one, _) in numbered {
        by_gateway.entry(one.gateway).or_default().insert(one.sequence);
    }
    for (gateway, sequences) in by_gateway {
        let count = i64::try_from(sequences.len()).unwrap_or(i64::MAX);
        ledger::count_dead(conn, gateway, -count).await?;
        reports::redriven(conn, gateway, &sequences).await?;
    }
    Ok(())
}

/// Marks those of these deliveries that are open dead letters as redriven. All of them were
/// appended again, by a replay or a resend, under these sequences. Their streams are locked.
pub(super) async fn mark_appended(
    conn: &mut Connection,
    appended: &BTreeMap<DeliveryKey, Sequence>,
    now: Timestamp,
) -> Result<()> {
    let keys: Vec<DeliveryKey> = appended.keys().copied().collect();
    let open = conn.open_deliveries(&keys).await?;
    let numbered: Vec<(Candidate, Sequence)> = open
        .into_iter()
        .filter_map(|one| {
            let new = *appended.get(&one.key())?;
            Some((one, new))
        })
        .collect();
    mark(conn, &numbered, now).await
}

/// Counts the chosen deliveries that are no longer open dead letters.
async fn count_lost(
    conn: &mut Connection,
    chosen: &[DeliveryKey],
    open: &[Candidate],
    answer: &mut Redriven,
) -> Result<()> {
    let open: HashSet<DeliveryKey> = open.iter().map(Candidate::key).collect();
    let lost: Vec<DeliveryKey> =
        chosen.iter().filter(|key| !open.contains(*key)).copied().collect();
    if lost.is_empty() {
        return Ok(());
    }
    for standing in details::standings(conn, &lost).await? {
        count(answer, &standing);
    }
    Ok(())
}
