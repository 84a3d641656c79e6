//! Repeats: a request whose key was used before, and an event whose id is
//! known. Both are answered with what was answered first.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::gateways::parsed;
use super::json;
use crate::clock::Timestamp;
use crate::event::{EventId, OrganisationKey, Sequence};
use crate::store::{
    Appended, AppendedDelivery, Judged, Publish, Published, Refusal, Result, StoreError,
};

/// What an event or a key is called across organisations.
pub(super) type Identity = (OrganisationKey, String);

/// Answers by key, each with the digest of the request it belongs to.
pub(super) type Kept = HashMap<Identity, (Vec<u8>, Vec<std::result::Result<Appended, Refusal>>)>;

/// An item's id, if it has one that can be read, and the digest of its content.
pub(super) fn named(item: &Judged) -> Option<(&EventId, &[u8; 32])> {
    match item {
        Ok(new) => Some((&new.event.id, &new.digest)),
        Err(unfit) => unfit.identity.as_ref().map(|(id, digest)| (id, digest)),
    }
}

/// A kept answer, item by item. Rows of earlier versions have none for items
/// that were unfit at that time; where these can't be told from the others any
/// more, no answer is better than another item's.
pub(super) fn in_place(
    kept: &[std::result::Result<Appended, Refusal>],
    publish: &Publish,
) -> Published {
    if kept.len() == publish.events.len() {
        return Published::Done(kept.to_vec());
    }
    if kept.len() != publish.fit().count() {
        return Published::KeyReused;
    }
    let mut kept = kept.iter().cloned();
    let answers = publish.events.iter().filter_map(|item| match item {
        Ok(_) => kept.next(),
        Err(unfit) => Some(Err(Refusal::Unfit(unfit.problem.clone()))),
    });
    Published::Done(answers.collect())
}

/// Answers that were given before for the requests' keys.
pub(super) async fn kept_answers(
    connection: &mut SqliteConnection,
    publishes: &[&Publish],
) -> Result<Kept> {
    let keys: Vec<_> = publishes
        .iter()
        .filter_map(|publish| Some((publish.organisation.0, &publish.idempotency.as_ref()?.0)))
        .collect();
    if keys.is_empty() {
        return Ok(Kept::new());
    }
    let keys = json(&keys)?;
    let rows = sqlx::query!(
        r#"
        select k.organisation as "organisation!: i64", k.key as "key!: String",
            k.digest as "digest!: Vec<u8>", k.answer as "answer!: String"
        from json_each($1) as wanted
        join idempotency_keys k on k.organisation = wanted.value ->> 0 and k.key = wanted.value ->> 1
        "#,
        keys
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let answer = serde_json::from_str(&row.answer)
                .map_err(|error| StoreError::Corrupt(format!("a kept answer: {error}")))?;
            Ok(((OrganisationKey(row.organisation), row.key), (row.digest, answer)))
        })
        .collect()
}

/// Events of the requests that exist already, with the numbers first given.
pub(super) async fn known_events(
    connection: &mut SqliteConnection,
    publishes: &[&Publish],
) -> Result<HashMap<Identity, (Vec<u8>, Appended)>> {
    let ids: Vec<_> = publishes
        .iter()
        .flat_map(|publish| {
            publish.events.iter().filter_map(|item| Some((publish.organisation.0, named(item)?.0)))
        })
        .collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let ids = json(&ids)?;
    let rows = sqlx::query!(
        r#"
        select e.organisation as "organisation!: i64", e.id as "id!: String",
            e.digest as "digest!: Vec<u8>", g.id as "gateway?: String",
            min(o.sequence) as "sequence?: i64"
        from json_each($1) as wanted
        join events e on e.organisation = wanted.value ->> 0 and e.id = wanted.value ->> 1
        left join outbox o on o.event = e.event
        left join gateways g on g.gateway = o.gateway
        group by e.event, o.gateway
        order by o.gateway
        "#,
        ids
    )
    .fetch_all(connection)
    .await?;
    let mut known = HashMap::new();
    for row in rows {
        let id = parsed("event id", &row.id)?;
        let identity = (OrganisationKey(row.organisation), row.id);
        let (_, appended): &mut (Vec<u8>, Appended) = known
            .entry(identity)
            .or_insert_with(|| (row.digest, Appended { id, deliveries: Vec::new() }));
        if let (Some(gateway), Some(sequence)) = (row.gateway, row.sequence) {
            appended.deliveries.push(AppendedDelivery {
                gateway_id: parsed("gateway id", &gateway)?,
                sequence: Sequence(sequence),
            });
        }
    }
    Ok(known)
}

/// Keeps the answers under their keys.
pub(super) async fn keep_answers(
    connection: &mut SqliteConnection,
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
            rows.push((publish.organisation.0, key, hex(digest), json(results)?));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let (rows, now) = (json(&rows)?, now.micros());
    // A repeat finds its row already there.
    sqlx::query!(
        r#"
        insert into idempotency_keys (organisation, key, digest, answer, created_at)
        select value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, $2
        from json_each($1) where true
        on conflict do nothing
        "#,
        rows,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A digest as SQLite's `unhex` reads it.
pub(super) fn hex(digest: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest)
}
