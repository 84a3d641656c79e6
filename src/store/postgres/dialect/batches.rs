//! Statements that write many rows at once: a column is one array, and `unnest`
//! makes rows of them. Where other nodes may insert the same key, rows go in by
//! rising key, so that two nodes wait for each other one way round only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Connection, query, query_as};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, EventId, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence,
};
use crate::store::postgres::sql::append::{Head, Rows};
use crate::store::postgres::sql::record::Receipts;
use crate::store::postgres::sql::repeats::{KeptAnswer, KnownEvent};
use crate::store::postgres::sql::targets::{Labelled, Named};
use crate::store::{Labels, Result, StoreError, storable};

/// One column of many rows.
pub(super) fn column<'r, R, T>(rows: &'r [R], value: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(value).collect()
}

pub(in super::super) async fn raise_heads(
    connection: &mut Connection,
    counts: &BTreeMap<GatewayKey, i64>,
) -> Result<Vec<Head>> {
    let (gateways, counts): (Vec<i64>, Vec<i64>) =
        counts.iter().map(|(gateway, count)| (gateway.0, *count)).unzip();
    Ok(query_as!(
        Head,
        r#"
        update streams set head = head + grown.count
        from unnest($1::bigint[], $2::bigint[]) as grown (gateway, count)
        where streams.gateway = grown.gateway
        returning streams.gateway as "gateway!: GatewayKey", head as "head!: Sequence"
        "#,
        &gateways,
        &counts
    )
    .fetch_all(connection)
    .await?)
}

/// Writes a batch's rows; answers the streams' new heads. One statement, since
/// each is a round trip during which the streams are locked. What it has written
/// is sorted and counted off, because no order is promised for rows that come back;
/// a join would have to be planned while nobody knows how long the batches are.
pub(in super::super) async fn append(
    connection: &mut Connection,
    now: Timestamp,
    rows: &Rows<'_>,
) -> Result<Vec<Head>> {
    let (gateways, counts): (Vec<i64>, Vec<i64>) =
        rows.counts.iter().map(|(gateway, count)| (gateway.0, *count)).unzip();
    let stream: HashMap<i64, i64> = gateways.iter().copied().zip(1..).collect();
    let mut events: Vec<_> = rows.events.iter().enumerate().collect();
    events.sort_unstable_by(|(_, (a, one)), (_, (b, other))| {
        (a, &one.event.id).cmp(&(b, &other.event.id))
    });
    let mut nth = vec![0_i64; events.len()];
    for (sorted, (place, _)) in (1..).zip(&events) {
        nth[*place] = sorted;
    }
    let events: Vec<_> = events.into_iter().map(|(_, (of, new))| (*of, *new)).collect();
    let artifacts = column(&events, |(_, new)| new.artifact_id.as_deref().map(storable));
    let deployments = column(&events, |(_, new)| new.deployment_id.as_deref().map(storable));
    Ok(query_as!(
        Head,
        r#"
        with grown as (
            update streams set head = head + new.count
            from unnest($1::bigint[], $2::bigint[]) as new (gateway, count)
            where streams.gateway = new.gateway
            returning streams.gateway, head, head - new.count as before
        ), stored as (
            insert into events (organisation, id, type, payload, correlation_id, user_id,
                occurred_at, appended_at, expires_at, digest, artifact_id, deployment_id, traceparent)
            select organisation, id, type, payload, correlation_id, user_id,
                occurred_at, $14, expires_at, digest, artifact_id, deployment_id, traceparent
            from unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                $9::timestamptz[], $10::timestamptz[], $11::bytea[], $12::text[], $13::text[],
                $18::text[])
                with ordinality as new (organisation, id, type, payload, correlation_id, user_id,
                    occurred_at, expires_at, digest, artifact_id, deployment_id, traceparent, nth)
            order by nth
            returning event, organisation, id
        ), logged as (
            insert into outbox (gateway, sequence, event)
            select ($1::bigint[])[stream],
                (array(select before from grown order by gateway))[stream] + place,
                (array(select event from stored order by organisation, id collate "C"))[nth]
            from unnest($15::bigint[], $16::bigint[], $17::bigint[]) as delivery (stream, place, nth)
        )
        select gateway as "gateway!: GatewayKey", head as "head!: Sequence" from grown
        "#,
        &gateways,
        &counts,
        &column(&events, |(organisation, _)| organisation.0),
        &column(&events, |(_, new)| new.event.id.as_str()) as _,
        &column(&events, |(_, new)| new.event.event_type.as_str()) as _,
        &column(&events, |(_, new)| new.event.payload.get()) as _,
        &column(&events, |(_, new)| new.event.correlation_id.as_str()) as _,
        &column(&events, |(_, new)| new.event.user_id.as_deref()) as _,
        &column(&events, |(_, new)| new.event.occurred_at) as _,
        &column(&events, |(_, new)| new.event.expires_at) as _,
        &column(&events, |(_, new)| &new.digest[..]) as _,
        &column(&artifacts, |it| it.as_deref()) as _,
        &column(&deployments, |it| it.as_deref()) as _,
        now as _,
        &column(&rows.deliveries, |row| stream[&row.0.0]),
        &column(&rows.deliveries, |row| row.1),
        &column(&rows.deliveries, |row| nth[row.2]),
        &column(&events, |(_, new)| new.event.traceparent.map(|it| it.to_string())) as _
    )
    .fetch_all(connection)
    .await?)
}

pub(in super::super) async fn insert_outbox(
    connection: &mut Connection,
    rows: &[(GatewayKey, Sequence, i64)],
) -> Result<()> {
    query!(
        r#"
        insert into outbox (gateway, sequence, event)
        select * from unnest($1::bigint[], $2::bigint[], $3::bigint[])
        "#,
        &column(rows, |row| row.0.0),
        &column(rows, |row| row.1.0),
        &column(rows, |row| row.2)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Looked up one by one, which the limit makes sure of: the statement is planned
/// while the table is new and empty, and a plan that reads all of it would be
/// kept until the server looks at the table again.
pub(in super::super) async fn kept_answers(
    connection: &mut Connection,
    wanted: &[(OrganisationKey, &str)],
) -> Result<Vec<KeptAnswer>> {
    Ok(query_as!(
        KeptAnswer,
        r#"
        select k.organisation as "organisation!: OrganisationKey", k.key as "key!: String",
            k.digest as "digest!: Vec<u8>", k.answer as "answer!: String"
        from unnest($1::bigint[], $2::text[]) as wanted (organisation, key)
        cross join lateral (
            select organisation, key, digest, answer from idempotency_keys
            where organisation = wanted.organisation and key = wanted.key limit 1
        ) as k
        "#,
        &column(wanted, |(organisation, _)| organisation.0),
        &column(wanted, |(_, key)| *key) as _
    )
    .fetch_all(connection)
    .await?)
}

/// Looked up one by one, as answers are; each is wanted once.
pub(in super::super) async fn known_events(
    connection: &mut Connection,
    wanted: &[(OrganisationKey, &EventId)],
) -> Result<Vec<KnownEvent>> {
    Ok(query_as!(
        KnownEvent,
        r#"
        select e.organisation as "organisation!: OrganisationKey", e.id as "id!: EventId",
            e.digest as "digest!: Vec<u8>", g.id as "gateway?: GatewayId",
            o.sequence as "sequence?: Sequence"
        from unnest($1::bigint[], $2::text[]) as wanted (organisation, id)
        cross join lateral (
            select event, organisation, id, digest from events
            where organisation = wanted.organisation and id = wanted.id limit 1
        ) as e
        left join lateral (
            select gateway, min(sequence) as sequence from (
                select gateway, sequence from outbox where event = e.event
                union all
                select gateway, sequence from trimmed where event = e.event
            ) as d group by gateway
        ) as o on true
        left join gateways g on g.gateway = o.gateway
        order by g.gateway
        "#,
        &column(wanted, |(organisation, _)| organisation.0),
        &column(wanted, |(_, id)| id.as_str()) as _
    )
    .fetch_all(connection)
    .await?)
}

/// A repeat finds its row already there. A key that another node is about to
/// keep is an error, because then this batch has appended what was appended.
pub(in super::super) async fn keep_answers(
    connection: &mut Connection,
    now: Timestamp,
    mut rows: Vec<KeptAnswer>,
) -> Result<()> {
    rows.sort_unstable();
    rows.dedup_by(|a, b| (a.organisation, &a.key) == (b.organisation, &b.key));
    query!(
        r#"
        insert into idempotency_keys (organisation, key, digest, answer, created_at)
        select organisation, key, digest, answer, $5
        from unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[])
            with ordinality as new (organisation, key, digest, answer, nth)
        where not exists (
            select 1 from idempotency_keys k
            where k.organisation = new.organisation and k.key = new.key
        )
        order by nth
        "#,
        &column(&rows, |row| row.organisation.0),
        &column(&rows, |row| row.key.as_str()) as _,
        &column(&rows, |row| row.digest.as_slice()) as _,
        &column(&rows, |row| row.answer.as_str()) as _,
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
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    Ok(query_as!(
        Named,
        r#"
        select gateway as "gateway!: GatewayKey", id as "id!: GatewayId",
            organisation as "organisation!: OrganisationKey"
        from gateways where id = any($1) and deleted_at is null
        "#,
        &ids
    )
    .fetch_all(connection)
    .await?)
}

pub(in super::super) async fn gateways_by_labels(
    connection: &mut Connection,
    organisation: OrganisationKey,
    wanted: &Labels,
) -> Result<Vec<Labelled>> {
    let wanted = serde_json::to_string(wanted)
        .map_err(|error| StoreError::Unavailable(format!("labels can't be passed on: {error}")))?;
    Ok(query_as!(
        Labelled,
        r#"
        select gateway as "gateway!: GatewayKey", id as "id!: GatewayId" from gateways
        where organisation = $1 and deleted_at is null and labels::jsonb @> ($2::text)::jsonb
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
    query!(
        r#"
        insert into attempts (gateway, first_sequence, last_sequence, outcome, connection,
            instance, node, started_at, finished_at)
        select d.gateway, d.first, d.last, 'received', d.connection,
            d.instance, $7, d.started_at, d.finished_at
        from unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::bigint[],
            $5::timestamptz[], $6::timestamptz[], $8::text[])
            with ordinality as d (gateway, connection, first, last, started_at, finished_at, instance, nth)
        order by d.nth
        "#,
        &column(receipts, |it| it.gateway.0),
        &column(receipts, |it| it.connection.0),
        &column(receipts, |it| it.range.first.0),
        &column(receipts, |it| it.range.last.0),
        &column(receipts, |it| it.started_at) as _,
        &column(receipts, |it| it.finished_at) as _,
        node as _,
        &column(receipts, |it| &*it.instance) as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A connection that is being closed by somebody is passed over: its end says
/// more than a sign of life, and waiting for it could be a deadlock.
pub(in super::super) async fn heard(
    connection: &mut Connection,
    signs: &HashMap<ConnectionId, Timestamp>,
) -> Result<()> {
    let (ids, at): (Vec<uuid::Uuid>, Vec<Timestamp>) =
        signs.iter().map(|(id, at)| (id.0, *at)).unzip();
    query!(
        r#"
        update connections set last_heartbeat_at = greatest(last_heartbeat_at, sign.at)
        from unnest($1::uuid[], $2::timestamptz[]) as sign (id, at)
        where connections.id = sign.id and connections.id in (
            select id from connections where id = any($1) for no key update skip locked
        )
        "#,
        &ids,
        &at as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
