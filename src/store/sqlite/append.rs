//! Appending: numbers are given here, by our own short transaction, and
//! nowhere else. A batch first plans every request in memory and then writes
//! one statement per table, whatever the number of events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::json;
use sqlx::sqlite::SqliteConnection;

use crate::clock::Timestamp;
use crate::event::{Event, EventId, GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::{
    Appended, AppendedDelivery, Labels, NewEvent, Publish, Published, Refusal, Result, StoreError,
    Target,
};
use crate::wake::Hint;

use super::rows::corrupt;

/// What a key was first used for: the body's digest and the answers.
type FirstAnswer = ([u8; 32], Vec<Result<Appended, Refusal>>);

/// All requests to publish of one group commit.
#[derive(Default)]
pub(super) struct Batch {
    /// The last event key given; read once per batch.
    last_event: Option<i64>,
    heads: BTreeMap<GatewayKey, Sequence>,
    gateways: HashMap<(OrganisationKey, GatewayId), Option<GatewayKey>>,
    /// Events of this batch, by id: a repeat within the batch is a repeat too.
    added: HashMap<(OrganisationKey, EventId), ([u8; 32], Appended)>,
    keys: HashMap<(OrganisationKey, String), FirstAnswer>,
    events: Vec<serde_json::Value>,
    outbox: Vec<(GatewayKey, Sequence, i64, Arc<Event>)>,
    new_keys: Vec<serde_json::Value>,
}

impl Batch {
    /// Plans one request; nothing is written yet.
    pub(super) async fn add(
        &mut self,
        connection: &mut SqliteConnection,
        publish: &Publish,
    ) -> Result<Published> {
        if let Some((key, digest)) = &publish.idempotency
            && let Some(first) = self.first_answer(connection, publish.organisation, key).await?
        {
            return Ok(if first.0 == *digest {
                Published::Done(first.1)
            } else {
                Published::KeyReused
            });
        }
        let mut answers = Vec::with_capacity(publish.events.len());
        for event in &publish.events {
            answers.push(self.add_event(connection, publish.organisation, event).await?);
        }
        if let Some((key, digest)) = &publish.idempotency {
            // A refusal is not remembered: the publisher may mend its cause and come again.
            if answers.iter().all(std::result::Result::is_ok) {
                let answer = serde_json::to_string(&answers).map_err(corrupt)?;
                self.new_keys.push(json!([publish.organisation.0, key, hex(digest), answer]));
                self.keys.insert((publish.organisation, key.clone()), (*digest, answers.clone()));
            }
        }
        Ok(Published::Done(answers))
    }

    async fn first_answer(
        &self,
        connection: &mut SqliteConnection,
        organisation: OrganisationKey,
        key: &str,
    ) -> Result<Option<FirstAnswer>> {
        if let Some((digest, answers)) = self.keys.get(&(organisation, key.to_owned())) {
            return Ok(Some((*digest, answers.clone())));
        }
        let row = sqlx::query!(
            "select digest, answer from idempotency_keys where organisation = $1 and key = $2",
            organisation.0,
            key
        )
        .fetch_optional(connection)
        .await?;
        row.map(|row| {
            Ok((digest(&row.digest)?, serde_json::from_str(&row.answer).map_err(corrupt)?))
        })
        .transpose()
    }

    async fn add_event(
        &mut self,
        connection: &mut SqliteConnection,
        organisation: OrganisationKey,
        new: &NewEvent,
    ) -> Result<Result<Appended, Refusal>> {
        let id = &new.event.id;
        if let Some((known, first)) = self.find(connection, organisation, id).await? {
            return Ok(if known == new.digest {
                Ok(first)
            } else {
                Err(Refusal::IdTaken(id.clone()))
            });
        }
        let gateways = match &new.target {
            Target::Gateways(ids) => match self.named(connection, organisation, ids).await? {
                Ok(gateways) => gateways,
                Err(unknown) => return Ok(Err(Refusal::UnknownGateways(unknown))),
            },
            Target::All => chosen(connection, organisation, &Labels::new()).await?,
            Target::Labels(labels) => chosen(connection, organisation, labels).await?,
        };
        let event = self.next_event(connection).await?;
        let mut deliveries = Vec::with_capacity(gateways.len());
        for (gateway, gateway_id) in gateways {
            let sequence = self.next_sequence(connection, gateway).await?;
            deliveries.push(AppendedDelivery { gateway_id, sequence });
            self.outbox.push((gateway, sequence, event, Arc::clone(&new.event)));
        }
        self.events.push(json!([
            event,
            organisation.0,
            id,
            new.event.event_type,
            new.event.payload.get(),
            new.event.correlation_id,
            new.event.user_id,
            new.event.occurred_at.micros(),
            new.event.expires_at.map(Timestamp::micros),
            hex(&new.digest),
            new.artifact_id,
            new.deployment_id,
        ]));
        let appended = Appended { id: id.clone(), deliveries };
        self.added.insert((organisation, id.clone()), (new.digest, appended.clone()));
        Ok(Ok(appended))
    }

    /// An event published before, in this batch or any earlier one.
    async fn find(
        &self,
        connection: &mut SqliteConnection,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<([u8; 32], Appended)>> {
        if let Some((digest, appended)) = self.added.get(&(organisation, id.clone())) {
            return Ok(Some((*digest, appended.clone())));
        }
        let text = id.as_str();
        let Some(found) = sqlx::query!(
            "select event, digest from events where organisation = $1 and id = $2",
            organisation.0,
            text
        )
        .fetch_optional(&mut *connection)
        .await?
        else {
            return Ok(None);
        };
        // A redrive adds numbers later; the first answer had the first of each gateway.
        let deliveries = sqlx::query!(
            r#"select g.id as "id!", min(o.sequence) as "sequence!: i64"
               from outbox o join gateways g on g.gateway = o.gateway
               where o.event = $1 group by o.gateway order by o.gateway"#,
            found.event
        )
        .fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| {
            Ok(AppendedDelivery {
                gateway_id: row.id.parse().map_err(corrupt)?,
                sequence: Sequence(row.sequence),
            })
        })
        .collect::<Result<_>>()?;
        Ok(Some((digest(&found.digest)?, Appended { id: id.clone(), deliveries })))
    }

    /// The keys of named gateways, each once, in the order named; or those that are unknown.
    async fn named(
        &mut self,
        connection: &mut SqliteConnection,
        organisation: OrganisationKey,
        ids: &[GatewayId],
    ) -> Result<Result<Vec<(GatewayKey, GatewayId)>, Vec<GatewayId>>> {
        let mut found = Vec::with_capacity(ids.len());
        let mut unknown = Vec::new();
        let mut seen = HashSet::new();
        for id in ids.iter().filter(|id| seen.insert(**id)) {
            let known = self.gateways.get(&(organisation, *id)).copied();
            let key = if let Some(key) = known {
                key
            } else {
                let text = id.to_string();
                let key = sqlx::query_scalar!(
                    "select gateway from gateways
                     where organisation = $1 and id = $2 and deleted_at is null",
                    organisation.0,
                    text
                )
                .fetch_optional(&mut *connection)
                .await?
                .map(GatewayKey);
                self.gateways.insert((organisation, *id), key);
                key
            };
            match key {
                Some(key) => found.push((key, *id)),
                None => unknown.push(*id),
            }
        }
        Ok(if unknown.is_empty() { Ok(found) } else { Err(unknown) })
    }

    async fn next_event(&mut self, connection: &mut SqliteConnection) -> Result<i64> {
        let last = match self.last_event {
            Some(last) => last,
            // `autoincrement` keeps the largest key ever given, so that a key
            // is not given again after its event was trimmed.
            None => sqlx::query_scalar!(
                r#"select coalesce(max(seq), 0) as "last!: i64" from sqlite_sequence where name = 'events'"#
            )
            .fetch_one(connection)
            .await?,
        };
        self.last_event = Some(last + 1);
        Ok(last + 1)
    }

    async fn next_sequence(
        &mut self,
        connection: &mut SqliteConnection,
        gateway: GatewayKey,
    ) -> Result<Sequence> {
        let head = match self.heads.get(&gateway) {
            Some(head) => *head,
            None => Sequence(
                sqlx::query_scalar!("select head from streams where gateway = $1", gateway.0)
                    .fetch_one(connection)
                    .await?,
            ),
        };
        if head >= Sequence::MAX {
            return Err(StoreError::Corrupt(format!("gateway {} has no numbers left", gateway.0)));
        }
        self.heads.insert(gateway, head.next());
        Ok(head.next())
    }

    /// Writes what was planned: one statement per table. Returns the hints to
    /// give after the commit.
    pub(super) async fn write(
        self,
        connection: &mut SqliteConnection,
        now: Timestamp,
    ) -> Result<Vec<(GatewayKey, Hint)>> {
        let now = now.micros();
        if !self.new_keys.is_empty() {
            let keys = serde_json::Value::Array(self.new_keys).to_string();
            sqlx::query!(
                "insert into idempotency_keys (organisation, key, digest, answer, created_at)
                 select value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, $2
                 from json_each($1)",
                keys,
                now
            )
            .execute(&mut *connection)
            .await?;
        }
        if self.events.is_empty() {
            return Ok(Vec::new());
        }
        let events = serde_json::Value::Array(self.events).to_string();
        sqlx::query!(
            "insert into events (event, organisation, id, type, payload, correlation_id, user_id,
                                 occurred_at, expires_at, digest, artifact_id, deployment_id, appended_at)
             select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                    value ->> 6, value ->> 7, value ->> 8, unhex(value ->> 9), value ->> 10,
                    value ->> 11, $2
             from json_each($1)",
            events,
            now
        )
        .execute(&mut *connection)
        .await?;
        let rows: Vec<_> = self.outbox.iter().map(|(g, s, e, _)| json!([g.0, s.0, e])).collect();
        let rows = serde_json::Value::Array(rows).to_string();
        sqlx::query!(
            "insert into outbox (gateway, sequence, event)
             select value ->> 0, value ->> 1, value ->> 2 from json_each($1)",
            rows
        )
        .execute(&mut *connection)
        .await?;
        let heads: Vec<_> = self.heads.iter().map(|(g, head)| json!([g.0, head.0])).collect();
        let heads = serde_json::Value::Array(heads).to_string();
        sqlx::query!(
            "update streams set head = new.value ->> 1
             from json_each($1) as new where streams.gateway = new.value ->> 0",
            heads
        )
        .execute(connection)
        .await?;
        Ok(hints(self.outbox))
    }
}

fn hints(outbox: Vec<(GatewayKey, Sequence, i64, Arc<Event>)>) -> Vec<(GatewayKey, Hint)> {
    let mut rows: BTreeMap<GatewayKey, Vec<(Sequence, Arc<Event>)>> = BTreeMap::new();
    for (gateway, sequence, _, event) in outbox {
        rows.entry(gateway).or_default().push((sequence, event));
    }
    rows.into_iter()
        .filter_map(|(gateway, rows)| {
            let head = rows.last()?.0;
            Some((gateway, Hint { head, rows: rows.into() }))
        })
        .collect()
}

/// Every gateway of the organisation that has all of these labels.
async fn chosen(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    labels: &Labels,
) -> Result<Vec<(GatewayKey, GatewayId)>> {
    let rows = sqlx::query!(
        "select gateway, id, labels from gateways
         where organisation = $1 and deleted_at is null order by gateway",
        organisation.0
    )
    .fetch_all(connection)
    .await?;
    let mut found = Vec::new();
    for row in rows {
        let has: Labels = serde_json::from_str(&row.labels).map_err(corrupt)?;
        if labels.iter().all(|(name, value)| has.get(name) == Some(value)) {
            found.push((GatewayKey(row.gateway), row.id.parse().map_err(corrupt)?));
        }
    }
    Ok(found)
}

fn hex(digest: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(digest)
}

fn digest(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(corrupt)
}
