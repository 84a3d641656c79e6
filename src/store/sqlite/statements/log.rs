//! Appending to logs and reading them.

use std::collections::{BTreeMap, HashMap};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::super::sql::dialect::LogStatements;
use super::super::sql::dialect::log::{
    BatchEvent, BatchRows, CountedMinute, Events, Head, KnownEvent, LogEntry, Repeat,
    StoredResponse,
};
use super::{Connection, hex, json, query, query_as};
use crate::clock::Timestamp;
use crate::event::{
    CorrelationId, EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence,
};
use crate::store::supersession::Superseded;
use crate::store::{Result, storable};

impl LogStatements for Connection {
    /// With `is true`, a condition is not looked up in an index.
    async fn events_by_minute(&mut self, of: Events) -> Result<Vec<CountedMinute>> {
        Ok(if of.is_by_key() {
            query_as!(
                CountedMinute,
                r#"
                select organisation as "organisation!: OrganisationKey", appended_at / 60000000 as "minute!: i64",
                    count(*) as "count!: i64"
                from events
                where event > $1 and event <= $2 and (appended_at >= $3 and appended_at < $4) is true
                    and ($5 is null or organisation = $5)
                group by 1, 2
                "#,
                of.after,
                of.last,
                of.window.from() as _,
                of.window.to() as _,
                of.organisation as _
            )
            .fetch_all(self)
            .await?
        } else {
            query_as!(
                CountedMinute,
                r#"
                select organisation as "organisation!: OrganisationKey", appended_at / 60000000 as "minute!: i64",
                    count(*) as "count!: i64"
                from events
                where appended_at >= $3 and appended_at < $4 and (event > $1 and event <= $2) is true
                    and ($5 is null or organisation = $5)
                group by 1, 2
                "#,
                of.after,
                of.last,
                of.window.from() as _,
                of.window.to() as _,
                of.organisation as _
            )
            .fetch_all(self)
            .await?
        })
    }

    async fn raise_heads(&mut self, counts: &BTreeMap<GatewayKey, i64>) -> Result<Vec<Head>> {
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
        .fetch_all(self)
        .await?)
    }

    async fn append(&mut self, now: Timestamp, rows: &BatchRows<'_>) -> Result<Vec<Head>> {
        let heads = self.raise_heads(&rows.counts).await?;
        let before: HashMap<GatewayKey, i64> =
            heads.iter().map(|it| (it.gateway, it.head.0 - rows.counts[&it.gateway])).collect();
        let events = insert_events(self, now, &rows.events).await?;
        // A stream that does not exist has no head. The caller notices that.
        let numbered = rows.deliveries.iter().filter_map(|(gateway, nth, event)| {
            Some((*gateway, Sequence(before.get(gateway)? + nth), events[*event]))
        });
        insert_outbox(self, &numbered.collect::<Vec<_>>()).await?;
        Ok(heads)
    }

    async fn insert_repeats(&mut self, rows: &[Repeat]) -> Result<()> {
        let rows: Vec<_> = rows
            .iter()
            .map(|it| {
                let appended_at = it.appended_at.map(Timestamp::micros);
                (it.gateway.0, it.sequence, it.event, it.repeats, appended_at)
            })
            .collect();
        let rows = json(&rows)?;
        query!(
            r#"
            insert into outbox (gateway, sequence, event, repeats, appended_at)
            select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4
            from jsonb_each($1) where true
            "#,
            rows
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn set_collapse_keys(&mut self, rows: &[(GatewayKey, Sequence, &str)]) -> Result<()> {
        let rows = rows.iter().map(|(gateway, sequence, key)| (gateway.0, sequence, key));
        let rows = json(&rows.collect::<Vec<_>>())?;
        query!(
            r#"
            update outbox set collapse_key = new.value ->> 2
            from json_each($1) as new
            where outbox.gateway = new.value ->> 0 and outbox.sequence = new.value ->> 1
            "#,
            rows
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn withhold_superseded(
        &mut self,
        gateway: GatewayKey,
        superseded: &[Superseded],
    ) -> Result<()> {
        let rows = superseded.iter().map(|it| (it.range.first, it.range.last));
        let rows = json(&rows.collect::<Vec<_>>())?;
        query!(
            r#"
            update outbox set withheld = 'superseded'
            from json_each($2) as range
            where outbox.gateway = $1
                and outbox.sequence between range.value ->> 0 and range.value ->> 1
            "#,
            gateway.0,
            rows
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn insert_superseded(
        &mut self,
        now: Timestamp,
        node: NodeId,
        gateway: GatewayKey,
        superseded: &[Superseded],
    ) -> Result<()> {
        let rows = superseded.iter().map(|it| (it.range.first, it.range.last, it.detail()));
        let rows = json(&rows.collect::<Vec<_>>())?;
        query!(
            r#"
            insert into attempts (gateway, first_sequence, last_sequence, outcome, detail, instance,
                node, started_at, finished_at)
            select $1, value ->> 0, value ->> 1, 'superseded', value ->> 2, '', $3, $4, $4
            from json_each($2) where true order by key
            "#,
            gateway.0,
            rows,
            node as _,
            now as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    async fn stored_responses(
        &mut self,
        keys: &[(OrganisationKey, &str)],
    ) -> Result<Vec<StoredResponse>> {
        let keys = json(&keys.iter().map(|(of, key)| (of.0, key)).collect::<Vec<_>>())?;
        Ok(query_as!(
            StoredResponse,
            r#"
            select k.organisation as "organisation!: OrganisationKey", k.key as "key!: String",
                k.digest as "digest!: Vec<u8>", k.answer as "response!: String"
            from jsonb_each($1) as wanted
            join idempotency_keys k on k.organisation = wanted.value ->> 0 and k.key = wanted.value ->> 1
            "#,
            keys
        )
        .fetch_all(self)
        .await?)
    }

    async fn store_responses(&mut self, now: Timestamp, rows: Vec<StoredResponse>) -> Result<()> {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| (row.organisation.0, row.key, hex(&row.digest), row.response))
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
        .execute(self)
        .await?;
        Ok(())
    }

    async fn known_events(
        &mut self,
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
                cross join outbox o indexed by outbox_by_event
                    on o.event = known.event and o.appended_at is null
                union all
                select t.event, t.gateway, t.sequence from known
                cross join trimmed t indexed by trimmed_by_event
                    on t.event = known.event and t.appended_at is null
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
        .fetch_all(self)
        .await?)
    }

    /// Makes `limit` rows, whatever their size: the caller drops the stream when it has enough.
    /// Each column of each row is allocated, so there are as few as possible: the log's head and
    /// floor are the first row, in the columns of the sequence and of a time.
    fn outbox_rows(
        &mut self,
        gateway: GatewayKey,
        after: Sequence,
        limit: i64,
        _max_bytes: usize,
    ) -> BoxStream<'_, sqlx::Result<LogEntry>> {
        let rows = query!(
            r#"
            select s.head as "sequence!: Sequence", null as "id?: EventId", null as "event_type?: EventType",
                null as "payload?: String", null as "correlation_id?: CorrelationId",
                null as "user_id?: String", s.floor as "occurred_at?: i64", null as "extras?: String"
            from streams s where s.gateway = $1
            union all
            select * from (
                select o.sequence, e.id, e.type, e.payload, e.correlation_id, e.user_id, e.occurred_at,
                    case when coalesce(e.expires_at, e.traceparent, e.attributes, o.withheld, e.purged_at)
                            is not null
                        then json_array(e.expires_at, e.traceparent, e.attributes,
                            case when e.purged_at is null or o.withheld = 'superseded'
                                then o.withheld else 'purged' end)
                    end
                from outbox o left join events e on e.event = o.event
                where o.gateway = $1 and o.sequence > $2
                order by o.sequence limit $3
            )
            "#,
            gateway.0,
            after.0,
            limit
        )
        .fetch(self);
        let mut bounds = None;
        let entries = rows.map_ok(move |row| {
            let is_first = bounds.is_none();
            let floor = Sequence(row.occurred_at.unwrap_or_default());
            let (head, floor) = *bounds.get_or_insert((row.sequence, floor));
            LogEntry {
                head,
                floor,
                sequence: (!is_first).then_some(row.sequence),
                id: row.id,
                event_type: row.event_type,
                payload: row.payload,
                correlation_id: row.correlation_id,
                user_id: row.user_id,
                occurred_at: row.occurred_at.map(Timestamp::from_micros),
                extras: row.extras,
            }
        });
        entries.boxed()
    }
}

/// Inserts first deliveries: gateway, sequence and event key.
async fn insert_outbox(conn: &mut Connection, rows: &[(GatewayKey, Sequence, i64)]) -> Result<()> {
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
    .execute(conn)
    .await?;
    Ok(())
}

/// The length of an event's digest, in bytes.
const DIGEST: usize = 32;

fn payload<'a>(row: &BatchEvent<'a>) -> &'a str {
    row.new.event.payload.get()
}

/// Returns the keys of the events, in order. They follow the last key in `sqlite_sequence`, because
/// no other connection writes; returning rows would cost as much as inserting them.
///
/// The digests and, after them, the payloads are one blob of which the statement takes slices. As
/// part of the JSON, each quote of a payload would be escaped here and unescaped by SQLite.
async fn insert_events(
    conn: &mut Connection,
    now: Timestamp,
    events: &[BatchEvent<'_>],
) -> Result<Vec<i64>> {
    let mut bytes = Vec::with_capacity(events.iter().map(|it| DIGEST + payload(it).len()).sum());
    bytes.extend(events.iter().flat_map(|it| it.new.digest));
    let mut rows = Vec::with_capacity(events.len());
    for row in events {
        let BatchEvent { organisation, new, matched } = row;
        let event = &new.event;
        // Counted from one.
        let start = bytes.len() + 1;
        bytes.extend_from_slice(payload(row).as_bytes());
        rows.push((
            (organisation.0, &event.id, &event.event_type, start, payload(row).len()),
            (&event.correlation_id, &event.user_id, event.occurred_at.micros(), &event.traceparent),
            (
                event.expires_at.map(Timestamp::micros),
                new.artifact_id.as_deref().map(storable),
                new.deployment_id.as_deref().map(storable),
                new.target.stored(),
                matched,
                event.attributes.as_deref().map(json).transpose()?,
            ),
        ));
    }
    let rows = json(&rows)?;
    let inserted = query!(
        r#"
        insert into events (event, organisation, id, type, payload, correlation_id, user_id,
            occurred_at, traceparent, appended_at, expires_at, digest, artifact_id, deployment_id,
            target, matched, attributes)
        select (select coalesce(max(seq), 0) from sqlite_sequence where name = 'events') + key + 1,
            value ->> '$[0][0]', value ->> '$[0][1]', value ->> '$[0][2]',
            cast(substr($3, value ->> '$[0][3]', value ->> '$[0][4]') as text),
            value ->> '$[1][0]', value ->> '$[1][1]', value ->> '$[1][2]', value ->> '$[1][3]', $2,
            value ->> '$[2][0]', substr($3, key * 32 + 1, 32),
            value ->> '$[2][1]', value ->> '$[2][2]', value ->> '$[2][3]', value ->> '$[2][4]',
            value ->> '$[2][5]'
        from jsonb_each($1) where true order by key
        "#,
        rows,
        now as _,
        bytes
    )
    .execute(conn)
    .await?;
    let last = inserted.last_insert_rowid();
    let first = last + 1 - i64::try_from(events.len()).unwrap_or(i64::MAX);
    Ok((first..=last).collect())
}
