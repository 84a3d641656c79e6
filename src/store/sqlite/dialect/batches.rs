//! Statements that write many rows at once. SQLite has no arrays: the rows are
//! one JSON parameter, unfolded by `jsonb_each`, which leaves each row parsed
//! (`json_each` would write it out again, and each column parse it anew).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::{Connection, query, query_as};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, EventId, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence,
};
use crate::store::sqlite::sql::append::{Head, Rows};
use crate::store::sqlite::sql::record::Receipts;
use crate::store::sqlite::sql::repeats::{KeptAnswer, KnownEvent};
use crate::store::sqlite::sql::targets::{Labelled, Named};
use crate::store::{Labels, NewEvent, Result, StoreError, storable};

/// Rows as one parameter.
pub(in super::super) fn json<T: Serialize + ?Sized>(rows: &T) -> Result<String> {
    serde_json::to_string(rows)
        .map_err(|error| StoreError::Unavailable(format!("rows can't be passed on: {error}")))
}

/// A digest as `unhex` reads it.
fn hex(digest: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(digest)
}

pub(in super::super) async fn raise_heads(
    connection: &mut Connection,
    counts: &BTreeMap<GatewayKey, i64>,
) -> Result<Vec<Head>> {
    let counted = json(&counts.iter().map(|(key, count)| (key.0, count)).collect::<Vec<_>>())?;
    Ok(query_as!(
        Head,
        r#"
        update streams set head = head + (grown.value ->> 1)
        from jsonb_each($1) as grown
        where streams.gateway = grown.value ->> 0
        returning gateway as "gateway!: GatewayKey", head as "head!: Sequence"
        "#,
        counted
    )
    .fetch_all(connection)
    .await?)
}

/// Writes a batch's rows; answers the streams' new heads.
pub(in super::super) async fn append(
    connection: &mut Connection,
    now: Timestamp,
    rows: &Rows<'_>,
) -> Result<Vec<Head>> {
    let heads = raise_heads(connection, &rows.counts).await?;
    let before: HashMap<GatewayKey, i64> =
        heads.iter().map(|it| (it.gateway, it.head.0 - rows.counts[&it.gateway])).collect();
    let events = insert_events(connection, now, &rows.events).await?;
    // A stream that is not there has no head, which whoever asked finds out.
    let numbered = rows.deliveries.iter().filter_map(|(gateway, nth, event)| {
        Some((*gateway, Sequence(before.get(gateway)? + nth), events[*event]))
    });
    insert_outbox(connection, &numbered.collect::<Vec<_>>()).await?;
    Ok(heads)
}

/// Answers the events' keys, in their order. Nobody else writes meanwhile, so
/// that they follow the last one that SQLite remembers: rows that came back
/// would cost as much as their insertion.
async fn insert_events(
    connection: &mut Connection,
    now: Timestamp,
    events: &[(OrganisationKey, &NewEvent)],
) -> Result<Vec<i64>> {
    let rows: Vec<_> = events
        .iter()
        .map(|(organisation, new)| {
            let event = &new.event;
            (
                (organisation.0, &event.id, &event.event_type, event.payload.get()),
                (
                    &event.correlation_id,
                    &event.user_id,
                    event.occurred_at.micros(),
                    &event.traceparent,
                ),
                (event.expires_at.map(Timestamp::micros), hex(&new.digest)),
                (
                    new.artifact_id.as_deref().map(storable),
                    new.deployment_id.as_deref().map(storable),
                ),
            )
        })
        .collect();
    let rows = json(&rows)?;
    let inserted = query!(
        r#"
        insert into events (event, organisation, id, type, payload, correlation_id, user_id,
            occurred_at, traceparent, appended_at, expires_at, digest, artifact_id, deployment_id)
        select (select coalesce(max(seq), 0) from sqlite_sequence where name = 'events') + key + 1,
            value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]', value ->> '$[0][3]',
            value ->> '$[1][0]', value ->> '$[1][1]', value ->> '$[1][2]', value ->> '$[1][3]', $2,
            value ->> '$[2][0]', unhex(value ->> '$[2][1]'),
            value ->> '$[3][0]', value ->> '$[3][1]'
        from jsonb_each($1) where true order by key
        "#,
        rows,
        now as _
    )
    .execute(connection)
    .await?;
    let last = inserted.last_insert_rowid();
    let first = last + 1 - i64::try_from(events.len()).unwrap_or(i64::MAX);
    Ok((first..=last).collect())
}

pub(in super::super) async fn insert_outbox(
    connection: &mut Connection,
    rows: &[(GatewayKey, Sequence, i64)],
) -> Result<()> {
    let rows: Vec<_> =
        rows.iter().map(|(gateway, sequence, event)| (gateway.0, sequence, event)).collect();
    let rows = json(&rows)?;
    query!(
        r#"
        insert into outbox (gateway, sequence, event)
        select value ->> 0, value ->> 1, value ->> 2 from jsonb_each($1) where true
        "#,
        rows
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(in super::super) async fn kept_answers(
    connection: &mut Connection,
    keys: &[(OrganisationKey, &str)],
) -> Result<Vec<KeptAnswer>> {
    let keys = json(&keys.iter().map(|(of, key)| (of.0, key)).collect::<Vec<_>>())?;
    Ok(query_as!(
        KeptAnswer,
        r#"
        select k.organisation as "organisation!: OrganisationKey", k.key as "key!: String",
            k.digest as "digest!: Vec<u8>", k.answer as "answer!: String"
        from jsonb_each($1) as wanted
        join idempotency_keys k on k.organisation = wanted.value ->> 0 and k.key = wanted.value ->> 1
        "#,
        keys
    )
    .fetch_all(connection)
    .await?)
}

pub(in super::super) async fn known_events(
    connection: &mut Connection,
    ids: &[(OrganisationKey, &EventId)],
) -> Result<Vec<KnownEvent>> {
    let ids = json(&ids.iter().map(|(of, id)| (of.0, id)).collect::<Vec<_>>())?;
    Ok(query_as!(
        KnownEvent,
        r#"
        with known as materialized (
            select e.event, e.organisation, e.id, e.digest from jsonb_each($1) as wanted
            join events e on e.organisation = wanted.value ->> 0 and e.id = wanted.value ->> 1
        ),
        deliveries as materialized (
            select o.event, o.gateway, o.sequence from known
            cross join outbox o indexed by outbox_by_event on o.event = known.event
            union all
            select t.event, t.gateway, t.sequence from known
            cross join trimmed t indexed by trimmed_by_event on t.event = known.event
        )
        select e.organisation as "organisation!: OrganisationKey", e.id as "id!: EventId",
            e.digest as "digest!: Vec<u8>", g.id as "gateway?: GatewayId",
            min(d.sequence) as "sequence?: Sequence"
        from known e
        left join deliveries d on d.event = e.event
        left join gateways g on g.gateway = d.gateway
        group by e.event, d.gateway
        order by d.gateway
        "#,
        ids
    )
    .fetch_all(connection)
    .await?)
}

/// A repeat finds its row already there.
pub(in super::super) async fn keep_answers(
    connection: &mut Connection,
    now: Timestamp,
    rows: Vec<KeptAnswer>,
) -> Result<()> {
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| (row.organisation.0, row.key, hex(&row.digest), row.answer))
        .collect();
    let rows = json(&rows)?;
    query!(
        r#"
        insert into idempotency_keys (organisation, key, digest, answer, created_at)
        select value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, $2
        from jsonb_each($1) where true
        on conflict do nothing
        "#,
        rows,
        now as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(in super::super) async fn gateways_by_id(
    connection: &mut Connection,
    ids: &BTreeSet<GatewayId>,
) -> Result<Vec<Named>> {
    let ids = json(ids)?;
    Ok(query_as!(
        Named,
        r#"
        select g.gateway as "gateway!: GatewayKey", g.id as "id!: GatewayId",
            g.organisation as "organisation!: OrganisationKey"
        from json_each($1) as wanted
        join gateways g on g.id = wanted.value
        where g.deleted_at is null
        "#,
        ids
    )
    .fetch_all(connection)
    .await?)
}

pub(in super::super) async fn gateways_by_labels(
    connection: &mut Connection,
    organisation: OrganisationKey,
    wanted: &Labels,
) -> Result<Vec<Labelled>> {
    let wanted = json(wanted)?;
    Ok(query_as!(
        Labelled,
        r#"
        select gateway as "gateway!: GatewayKey", id as "id!: GatewayId" from gateways
        where organisation = $1 and deleted_at is null
            and not exists (
                select 1 from json_each($2) as wanted
                where not exists (
                    select 1 from json_each(gateways.labels) as has
                    where has.key = wanted.key and has.value = wanted.value
                )
            )
        order by gateway
        "#,
        organisation.0,
        wanted
    )
    .fetch_all(connection)
    .await?)
}

pub(in super::super) async fn insert_receipts(
    connection: &mut Connection,
    node: NodeId,
    receipts: &[Receipts],
) -> Result<()> {
    let rows: Vec<_> = receipts
        .iter()
        .map(|it| {
            let times = (it.started_at.micros(), it.finished_at.micros());
            (it.gateway.0, it.connection, it.range.first, it.range.last, times, &*it.instance)
        })
        .collect();
    let rows = json(&rows)?;
    query!(
        r#"
        insert into attempts (gateway, first_sequence, last_sequence, outcome, connection,
            instance, node, started_at, finished_at)
        select value ->> 0, value ->> 2, value ->> 3, 'received', value ->> 1,
            value ->> 5, $2, value ->> '$[4][0]', value ->> '$[4][1]'
        from jsonb_each($1) where true order by key
        "#,
        rows,
        node as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(in super::super) async fn heard(
    connection: &mut Connection,
    signs: &HashMap<ConnectionId, Timestamp>,
) -> Result<()> {
    let signs = json(&signs.iter().map(|(id, at)| (id, at.micros())).collect::<Vec<_>>())?;
    query!(
        r#"
        update connections set last_heartbeat_at = max(last_heartbeat_at, sign.value ->> 1)
        from jsonb_each($1) as sign where connections.id = sign.value ->> 0
        "#,
        signs
    )
    .execute(connection)
    .await?;
    Ok(())
}
