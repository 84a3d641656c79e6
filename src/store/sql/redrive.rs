//! Redrive: a dead letter's event is appended again under the log's next
//! number. The dead number stays as it was, marked, so that the history tells
//! what happened and nothing is redriven twice. What is to be redriven is looked
//! for by a reader; the writer only looks again at what was chosen.

use std::collections::{BTreeMap, HashMap};

use super::dialect::{Connection, LogStatements, NodeStatements, RedriveStatements, query_scalar};

use super::deliveries::{Key, Matching, WORK, begin, details, failed_keys};
use super::gateways::live_key;
use super::ledger;
use super::ledger::reports;
use super::log::append::raise_heads;
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::limits::REDRIVEN;
use crate::store::{
    DeliveryCursor, DeliveryState, RedriveCursor, RedrivePlace, RedriveSelection, Redriven,
    RedrivenDelivery, Result, StoreError,
};

pub(crate) mod candidates;
mod dead_letters;
mod run;

#[cfg(test)]
mod tests;

use candidates::Candidate;

/// Deliveries per transaction at the most: others wait for it.
pub(super) const AT_A_TIME: usize = 100;

/// Looks for what can be appended again, and counts what is left alone.
/// Changes nothing, so that it keeps nobody from writing.
pub(super) async fn search(
    conn: &mut Connection,
    organisation: OrganisationKey,
    selection: RedriveSelection,
) -> Result<(Redriven, Vec<Key>)> {
    let now = conn.now().await?;
    let (mut answer, chosen) = match selection {
        RedriveSelection::One(gateway, sequence) => {
            one(conn, now, organisation, gateway, sequence).await?
        }
        RedriveSelection::Filter(filter, after) => {
            let matching = Matching::new(conn, organisation, &filter).await?;
            let mut answer = Redriven::default();
            let (counted, after) = match after {
                None => (Some(None), RedrivePlace::default()),
                Some(RedriveCursor::Counting(at)) => (Some(Some(at)), RedrivePlace::default()),
                Some(RedriveCursor::DeadLetters(place)) => (None, place),
            };
            if let Some(at) = counted {
                let rest = count_others(conn, &matching, at, &mut answer).await?;
                answer.next = rest.map(RedriveCursor::Counting);
            }
            let chosen = if answer.next.is_some() {
                Vec::new()
            } else {
                candidates::matching(conn, now, &matching, after, REDRIVEN, &mut answer).await?
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

/// A single delivery: chosen if it is a dead letter, and counted otherwise.
async fn one(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    gateway: GatewayId,
    sequence: Sequence,
) -> Result<(Redriven, Vec<Candidate>)> {
    const MISSING: StoreError = StoreError::NotFound("delivery");
    let gateway = live_key(conn, organisation, gateway).await?.0;
    let head =
        query_scalar!(r#"select head as "head!: i64" from streams where gateway = $1"#, gateway)
            .fetch_optional(&mut *conn)
            .await?
            .ok_or(MISSING)?;
    if !(1..=head).contains(&sequence.0) {
        return Err(MISSING);
    }
    let key = (gateway, sequence.0);
    let mut answer = Redriven::default();
    let standing = details::standings(conn, &[key]).await?.pop().ok_or(MISSING)?;
    if count(&mut answer, &standing) {
        return Ok((answer, Vec::new()));
    }
    let mut found = conn.open_deliveries(&[key]).await?;
    if found.iter().any(|one| one.event.is_none()) {
        answer.event_removed += 1;
        found.clear();
    } else if found.iter().any(|one| one.has_expired(now)) {
        answer.expired += 1;
        found.clear();
    }
    Ok((answer, found))
}

/// Counts a delivery that can be left alone; says whether it is one.
fn count(answer: &mut Redriven, standing: &details::Standing) -> bool {
    match standing.delivery.state {
        DeliveryState::Pending => answer.pending += 1,
        DeliveryState::Delivered => answer.delivered += 1,
        DeliveryState::Failed if standing.delivery.redriven => answer.already_redriven += 1,
        DeliveryState::Failed => return false,
    }
    true
}

/// Counts the next matching failed deliveries that need no redrive, as far as
/// one bounded scan gets; answers where to go on.
async fn count_others(
    conn: &mut Connection,
    matching: &Matching,
    at: Option<DeliveryCursor>,
    answer: &mut Redriven,
) -> Result<Option<DeliveryCursor>> {
    let (as_of, start) = begin(conn, at).await?;
    let found = failed_keys(conn, matching, as_of, start, WORK).await?;
    for standing in details::standings(conn, &found.keys).await? {
        count(answer, &standing);
    }
    Ok(found.next.map(|place| place.cursor(as_of)))
}

/// Gives the chosen their logs' next numbers and marks what they were; those
/// that somebody else has redriven meanwhile, or that are gone, are left out.
/// Also answers each touched gateway's new head.
pub(super) async fn append(
    conn: &mut Connection,
    now: Timestamp,
    chosen: Vec<Key>,
) -> Result<(Vec<RedrivenDelivery>, Vec<(GatewayKey, Sequence)>)> {
    let gateways = chosen.iter().map(|(gateway, _)| GatewayKey(*gateway)).collect();
    // Nobody else redrives or buries in these logs until it is done.
    conn.lock_streams(&gateways).await?;
    let mut chosen = conn.open_deliveries(&chosen).await?;
    chosen.retain(|one| one.event.is_some() && !one.has_expired(now));
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
        rows.push((candidate.gateway, *last, candidate.event.unwrap_or_default()));
        numbered.push((candidate, *last));
    }
    conn.insert_outbox(&rows).await?;
    dead_letters::mark(conn, &numbered, now).await?;
    for (gateway, count) in &counts {
        ledger::count_dead(conn, *gateway, -count).await?;
        let own = numbered.iter().filter(|(one, _)| one.gateway == *gateway);
        let sequences = own.map(|(one, _)| one.sequence).collect();
        reports::redriven(conn, *gateway, &sequences).await?;
    }
    let redriven = numbered.into_iter().filter_map(|(one, new)| delivery(one, Some(new)));
    Ok((redriven.collect(), heads))
}
