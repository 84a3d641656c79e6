//! Redrive: a dead letter's event is appended again under the log's next
//! number. The dead number stays as it was, marked, so that the history tells
//! what happened and nothing is redriven twice.

use std::collections::{BTreeMap, HashMap};

use super::dialect::{self, Connection, query_scalar};

use super::append::raise_heads;
use super::deliveries::{Matching, Place, WORK, details, failed_keys, newest_attempt};
use super::gateways::live_key;
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::{
    DeliveryState, RedriveSelection, Redriven, RedrivenDelivery, Result, StoreError,
};

pub(crate) mod candidates;
mod letters;

#[cfg(test)]
mod tests;

use candidates::Candidate;

/// Deliveries per call at the most: a call is one transaction, and others wait for it.
const MOST: usize = 1_000;

/// Appends dead letters again. Also answers each touched gateway's new head.
pub(super) async fn redrive(
    connection: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    selection: RedriveSelection,
    dry_run: bool,
) -> Result<(Redriven, Vec<(GatewayKey, Sequence)>)> {
    if !dry_run {
        dialect::lock_dead_letters(connection, organisation).await?;
    }
    let (mut answer, mut chosen) = match selection {
        RedriveSelection::One(gateway, sequence) => {
            one(connection, organisation, gateway, sequence).await?
        }
        RedriveSelection::Filter(filter) => {
            let matching = Matching::new(connection, organisation, &filter).await?;
            let mut answer = count_others(connection, &matching).await?;
            answer.event_removed = candidates::removed(connection, &matching).await?;
            (answer, candidates::matching(connection, &matching, MOST + 1).await?)
        }
    };
    answer.more = chosen.len() > MOST;
    chosen.truncate(MOST);
    let (numbers, heads) = if dry_run {
        (vec![None; chosen.len()], Vec::new())
    } else {
        append(connection, now, &chosen).await?
    };
    answer.redriven = chosen
        .into_iter()
        .zip(numbers)
        .map(|(candidate, new_sequence)| RedrivenDelivery {
            gateway_id: candidate.gateway_id,
            event_id: candidate.event_id,
            sequence: Sequence(candidate.sequence),
            new_sequence,
        })
        .collect();
    Ok((answer, heads))
}

/// A single delivery: chosen if it is a dead letter, and counted otherwise.
async fn one(
    connection: &mut Connection,
    organisation: OrganisationKey,
    gateway: GatewayId,
    sequence: Sequence,
) -> Result<(Redriven, Vec<Candidate>)> {
    const MISSING: StoreError = StoreError::NotFound("delivery");
    let gateway = live_key(connection, organisation, gateway).await?.0;
    let head =
        query_scalar!(r#"select head as "head!: i64" from streams where gateway = $1"#, gateway)
            .fetch_optional(&mut *connection)
            .await?
            .ok_or(MISSING)?;
    if !(1..=head).contains(&sequence.0) {
        return Err(MISSING);
    }
    let key = (gateway, sequence.0);
    let mut answer = Redriven::default();
    let standing = details::standings(connection, &[key]).await?.pop().ok_or(MISSING)?;
    if count(&mut answer, &standing) {
        return Ok((answer, Vec::new()));
    }
    let found = candidates::single(connection, key).await?;
    answer.event_removed = i64::from(found.is_none());
    Ok((answer, found.into_iter().collect()))
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

/// Counts the matching failed deliveries that need no redrive, as far as one
/// bounded walk gets: among the newest of them.
async fn count_others(connection: &mut Connection, matching: &Matching) -> Result<Redriven> {
    let mut answer = Redriven::default();
    let as_of = newest_attempt(connection).await?;
    let found = failed_keys(connection, matching, as_of, Place::START, WORK).await?;
    for standing in details::standings(connection, &found.keys).await? {
        count(&mut answer, &standing);
    }
    Ok(answer)
}

/// Gives the candidates their logs' next numbers and marks what they were.
async fn append(
    connection: &mut Connection,
    now: Timestamp,
    chosen: &[Candidate],
) -> Result<(Vec<Option<Sequence>>, Vec<(GatewayKey, Sequence)>)> {
    let mut counts: BTreeMap<GatewayKey, i64> = BTreeMap::new();
    for candidate in chosen {
        *counts.entry(candidate.gateway).or_default() += 1;
    }
    let heads = raise_heads(connection, &counts).await?;
    let mut last: HashMap<GatewayKey, Sequence> = heads
        .iter()
        .map(|(gateway, head)| (*gateway, Sequence(head.0 - counts[gateway])))
        .collect();
    let mut rows = Vec::with_capacity(chosen.len());
    for candidate in chosen {
        let last = last.entry(candidate.gateway).or_default();
        *last = last.next();
        rows.push((candidate.gateway, *last, candidate.event));
    }
    dialect::insert_outbox(connection, &rows).await?;
    letters::mark(connection, chosen, now).await?;
    Ok((rows.into_iter().map(|(_, sequence, _)| Some(sequence)).collect(), heads))
}
