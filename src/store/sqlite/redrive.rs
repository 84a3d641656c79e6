//! Redrive: a dead letter's event is appended again under the log's next
//! number. The dead number stays as it was, marked, so that the history tells
//! what happened and nothing is redriven twice.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::SqliteConnection;

use super::deliveries::{
    Key, Matching, Place, WORK, as_json, details, failed_keys, newest_attempt,
};
use super::gateways::{live_key, parsed};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::{
    DeliveryState, RedriveSelection, Redriven, RedrivenDelivery, Result, StoreError,
};

mod candidates;
mod letters;

#[cfg(test)]
mod tests;

use candidates::Candidate;

/// Deliveries per call at the most: a call is one transaction, and others wait for it.
const MOST: usize = 1_000;

/// Appends dead letters again. Also answers each touched gateway's new head.
pub(super) async fn redrive(
    connection: &mut SqliteConnection,
    now: Timestamp,
    organisation: OrganisationKey,
    selection: RedriveSelection,
    dry_run: bool,
) -> Result<(Redriven, Vec<(GatewayKey, Sequence)>)> {
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
    let mut heads = heads(connection, &chosen).await?;
    for candidate in &chosen {
        let new = next(&mut heads, candidate.gateway)?;
        answer.redriven.push(RedrivenDelivery {
            gateway_id: parsed("gateway id", &candidate.gateway_id)?,
            event_id: parsed("event id", &candidate.event_id)?,
            sequence: Sequence(candidate.sequence),
            new_sequence: (!dry_run).then_some(Sequence(new)),
        });
    }
    if dry_run || chosen.is_empty() {
        return Ok((answer, Vec::new()));
    }
    append(connection, &chosen, &answer, &heads).await?;
    letters::mark(connection, &chosen, now).await?;
    let heads =
        heads.into_iter().map(|(gateway, head)| (GatewayKey(gateway), Sequence(head))).collect();
    Ok((answer, heads))
}

/// A single delivery: chosen if it is a dead letter, and counted otherwise.
async fn one(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    gateway: GatewayId,
    sequence: Sequence,
) -> Result<(Redriven, Vec<Candidate>)> {
    const MISSING: StoreError = StoreError::NotFound("delivery");
    let gateway = live_key(connection, organisation, gateway).await?.0;
    let head = sqlx::query_scalar!(
        r#"select head as "head!: i64" from streams where gateway = $1"#,
        gateway
    )
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
async fn count_others(connection: &mut SqliteConnection, matching: &Matching) -> Result<Redriven> {
    let mut answer = Redriven::default();
    let as_of = newest_attempt(connection).await?;
    let found = failed_keys(connection, matching, as_of, Place::START, WORK).await?;
    for standing in details::standings(connection, &found.keys).await? {
        count(&mut answer, &standing);
    }
    Ok(answer)
}

/// The heads of the logs that these will be appended to.
async fn heads(
    connection: &mut SqliteConnection,
    chosen: &[Candidate],
) -> Result<BTreeMap<i64, i64>> {
    let gateways: BTreeSet<i64> = chosen.iter().map(|candidate| candidate.gateway).collect();
    let gateways = serde_json::Value::from_iter(gateways).to_string();
    let rows = sqlx::query!(
        r#"
        select gateway as "gateway!: i64", head as "head!: i64" from streams
        where gateway in (select value from json_each($1))
        "#,
        gateways
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.gateway, row.head)).collect())
}

fn next(heads: &mut BTreeMap<i64, i64>, gateway: i64) -> Result<i64> {
    let head = heads
        .get_mut(&gateway)
        .ok_or_else(|| StoreError::Corrupt(format!("gateway {gateway} has no log")))?;
    *head += 1;
    Ok(*head)
}

/// One statement per table, however many there are.
async fn append(
    connection: &mut SqliteConnection,
    chosen: &[Candidate],
    answer: &Redriven,
    heads: &BTreeMap<i64, i64>,
) -> Result<()> {
    let rows: Vec<(i64, i64, i64)> = chosen
        .iter()
        .zip(&answer.redriven)
        .filter_map(|(candidate, done)| {
            Some((candidate.gateway, done.new_sequence?.0, candidate.event))
        })
        .collect();
    let rows = serde_json::to_string(&rows)
        .map_err(|error| StoreError::Corrupt(format!("redriven rows: {error}")))?;
    sqlx::query!(
        r#"
        insert into outbox (gateway, sequence, event)
        select value ->> 0, value ->> 1, value ->> 2 from json_each($1)
        "#,
        rows
    )
    .execute(&mut *connection)
    .await?;
    let heads: Vec<Key> = heads.iter().map(|(gateway, head)| (*gateway, *head)).collect();
    let heads = as_json(&heads)?;
    sqlx::query!(
        r#"
        update streams set head = k.value ->> 1
        from json_each($1) k where streams.gateway = k.value ->> 0
        "#,
        heads
    )
    .execute(connection)
    .await?;
    Ok(())
}
