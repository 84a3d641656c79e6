//! Idempotency: a request whose key was used before, or an event whose id exists, gets the first
//! response again. This module reads and stores the responses; `plan` in [`append`](super::append)
//! decides which events are repeats.

use std::collections::{BTreeSet, HashMap};

use super::super::dialect::log::StoredResponse;
use super::super::dialect::{Connection, LogStatements};

use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{
    Appended, AppendedDelivery, Idempotency, Publish, Published, Refusable, Refusal, Result,
    StoreError,
};

pub(crate) use crate::store::idempotency::{in_place, named};

/// An event id or idempotency key, unique across organisations.
pub(crate) type Identity = (OrganisationKey, String);

/// Stored responses by key, each with the SHA-256 of its request.
pub(crate) type Kept = HashMap<Identity, (Vec<u8>, Results)>;

/// The result of each item of a request.
type Results = Vec<Refusable<Appended>>;

/// The stored responses for the keys of these requests.
pub(crate) async fn kept_responses(conn: &mut Connection, publishes: &[&Publish]) -> Result<Kept> {
    let keys: Vec<_> = publishes
        .iter()
        .filter_map(|publish| {
            Some((publish.organisation, publish.idempotency.as_ref()?.key.as_str()))
        })
        .collect();
    if keys.is_empty() {
        return Ok(Kept::new());
    }
    let rows = conn.stored_responses(&keys).await?;
    rows.into_iter()
        .map(|row| {
            let results = read_response(&row.response)
                .map_err(|error| StoreError::Corrupt(format!("a stored response: {error}")))?;
            Ok(((row.organisation, row.key), (row.digest, results)))
        })
        .collect()
}

/// Reads a stored response. A refusal that only a newer version knows becomes a general one.
fn read_response(json: &str) -> serde_json::Result<Results> {
    let results: Vec<std::result::Result<Appended, serde_json::Value>> =
        serde_json::from_str(json)?;
    let refusal = |refusal| serde_json::from_value(refusal).unwrap_or_else(|_| Refusal::unknown());
    Ok(results.into_iter().map(|result| result.map_err(refusal)).collect())
}

/// The events of these requests that exist already, with their sequences.
pub(crate) async fn known_events(
    conn: &mut Connection,
    publishes: &[&Publish],
) -> Result<HashMap<Identity, (Vec<u8>, Appended)>> {
    // Distinct ids: a repeated id gets the same result.
    let ids: BTreeSet<_> = publishes
        .iter()
        .flat_map(|publish| {
            publish.events.iter().filter_map(|item| Some((publish.organisation, named(item)?.0)))
        })
        .collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<_> = ids.into_iter().collect();
    let mut known = HashMap::new();
    for row in conn.known_events(&ids).await? {
        let identity = (row.organisation, row.id.as_str().to_owned());
        let (_, appended): &mut (Vec<u8>, Appended) = known
            .entry(identity)
            .or_insert_with(|| (row.digest, Appended { id: row.id, deliveries: Vec::new() }));
        if let (Some(gateway_id), Some(sequence)) = (row.gateway, row.sequence) {
            appended.deliveries.push(AppendedDelivery { gateway_id, sequence });
        }
    }
    Ok(known)
}

/// Stores the responses under their keys.
pub(crate) async fn keep_responses(
    conn: &mut Connection,
    now: Timestamp,
    publishes: &[&Publish],
    responses: &[Published],
) -> Result<()> {
    let mut rows = Vec::new();
    for (publish, response) in publishes.iter().zip(responses) {
        // A response without any appended event is not stored: a repeat may succeed.
        if let (Some(Idempotency { key, digest }), Published::Done(results)) =
            (&publish.idempotency, response)
            && results.iter().any(std::result::Result::is_ok)
        {
            let response = serde_json::to_string(results)
                .map_err(|error| StoreError::Unavailable(format!("a response: {error}")))?;
            rows.push(StoredResponse {
                organisation: publish.organisation,
                key: key.clone(),
                digest: digest.to_vec(),
                response,
            });
        }
    }
    if rows.is_empty() { Ok(()) } else { conn.store_responses(now, rows).await }
}
