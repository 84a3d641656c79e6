//! Repeats: a request whose key was used before, and an event whose id is
//! known. Both are answered with what was answered first.

use std::collections::{BTreeSet, HashMap};

use super::super::dialect::{Connection, LogStatements};

use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, OrganisationKey, Sequence};
use crate::store::{Appended, AppendedDelivery, Publish, Published, Refusal, Result, StoreError};

pub(crate) use crate::store::repeats::{in_place, named};

/// What an event or a key is called across organisations.
pub(crate) type Identity = (OrganisationKey, String);

/// An answer as it is kept: JSON under its key, with the request's digest.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoredAnswer {
    pub(crate) organisation: OrganisationKey,
    pub(crate) key: String,
    pub(crate) digest: Vec<u8>,
    pub(crate) answer: String,
}

/// One delivery of an event that exists, or the event alone if it has none.
pub(crate) struct KnownEvent {
    pub(crate) organisation: OrganisationKey,
    pub(crate) id: EventId,
    pub(crate) digest: Vec<u8>,
    pub(crate) gateway: Option<GatewayId>,
    pub(crate) sequence: Option<Sequence>,
}

/// Answers by key, each with the digest of the request it belongs to.
pub(crate) type Kept = HashMap<Identity, (Vec<u8>, Vec<std::result::Result<Appended, Refusal>>)>;

/// Answers that were given before for the requests' keys.
pub(crate) async fn kept_answers(conn: &mut Connection, publishes: &[&Publish]) -> Result<Kept> {
    let keys: Vec<_> = publishes
        .iter()
        .filter_map(|publish| {
            Some((publish.organisation, publish.idempotency.as_ref()?.0.as_str()))
        })
        .collect();
    if keys.is_empty() {
        return Ok(Kept::new());
    }
    let rows = conn.stored_answers(&keys).await?;
    rows.into_iter()
        .map(|row| {
            let answer = serde_json::from_str(&row.answer)
                .map_err(|error| StoreError::Corrupt(format!("a kept answer: {error}")))?;
            Ok(((row.organisation, row.key), (row.digest, answer)))
        })
        .collect()
}

/// Events of the requests that exist already, with the numbers first given.
pub(crate) async fn known_events(
    conn: &mut Connection,
    publishes: &[&Publish],
) -> Result<HashMap<Identity, (Vec<u8>, Appended)>> {
    // Each once, however often it is named: the answer is the same.
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

/// Keeps the answers under their keys.
pub(crate) async fn keep_answers(
    conn: &mut Connection,
    now: Timestamp,
    publishes: &[&Publish],
    answers: &[Published],
) -> Result<()> {
    let mut rows = Vec::new();
    for (publish, answer) in publishes.iter().zip(answers) {
        // What came to nothing needs no memory: a repeat may do better.
        if let (Some((key, digest)), Published::Done(results)) = (&publish.idempotency, answer)
            && results.iter().any(std::result::Result::is_ok)
        {
            let answer = serde_json::to_string(results)
                .map_err(|error| StoreError::Unavailable(format!("an answer: {error}")))?;
            rows.push(StoredAnswer {
                organisation: publish.organisation,
                key: key.clone(),
                digest: digest.to_vec(),
                answer,
            });
        }
    }
    if rows.is_empty() { Ok(()) } else { conn.store_answers(now, rows).await }
}
