//! Appending to logs and reading them.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::super::sql::dialect::LogStatements;
use super::super::sql::dialect::log::{
    BatchEvent, BatchRows, CountedMinute, Events, Head, KnownEvent, LogEntry, Repeat,
    StoredResponse,
};
use super::{Connection, column, query, query_as};
use crate::clock::Timestamp;
use crate::event::{
    CorrelationId, EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey, Sequence,
};
use crate::store::supersession::Superseded;
use crate::store::{Result, StoreError, storable};

impl LogStatements for Connection {
    /// With `is true`, a condition is not looked up in an index.
    async fn events_by_minute(&mut self, of: Events) -> Result<Vec<CountedMinute>> {
        Ok(if of.is_by_key() {
            query_as!(
                CountedMinute,
                r#"
                select organisation as "organisation!: OrganisationKey", floor(extract(epoch from appended_at) / 60)::bigint as "minute!: i64",
                    count(*) as "count!: i64"
                from events
                where event > $1 and event <= $2 and (appended_at >= $3 and appended_at < $4) is true
                    and ($5::bigint is null or organisation = $5)
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
                select organisation as "organisation!: OrganisationKey", floor(extract(epoch from appended_at) / 60)::bigint as "minute!: i64",
                    count(*) as "count!: i64"
                from events
                where appended_at >= $3 and appended_at < $4 and (event > $1 and event <= $2) is true
                    and ($5::bigint is null or organisation = $5)
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
        .fetch_all(self)
        .await?)
    }

    /// One statement, because each is a round trip during which the streams are locked. Inserted rows
    /// are sorted and counted off, because their order is not guaranteed; a join would be planned
    /// without knowing the size of batches.
    async fn append(&mut self, now: Timestamp, rows: &BatchRows<'_>) -> Result<Vec<Head>> {
        let (gateways, counts): (Vec<i64>, Vec<i64>) =
            rows.counts.iter().map(|(gateway, count)| (gateway.0, *count)).unzip();
        let stream: HashMap<i64, i64> = gateways.iter().copied().zip(1..).collect();
        let mut events: Vec<_> = rows.events.iter().enumerate().collect();
        events.sort_unstable_by_key(|(_, it)| (it.organisation, &it.new.event.id));
        let mut nth = vec![0_i64; events.len()];
        for (sorted, (place, _)) in (1..).zip(&events) {
            nth[*place] = sorted;
        }
        let events: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
        let artifacts = column(&events, |it| it.new.artifact_id.as_deref().map(storable));
        let deployments = column(&events, |it| it.new.deployment_id.as_deref().map(storable));
        let targets = column(&events, |it| it.new.target.stored());
        let attributes = attributes(&events)?;
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
                    occurred_at, appended_at, expires_at, digest, artifact_id, deployment_id, traceparent,
                    target, matched, attributes)
                select organisation, id, type, payload, correlation_id, user_id,
                    occurred_at, $14, expires_at, digest, artifact_id, deployment_id, traceparent,
                    target, matched, attributes
                from unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
                    $9::timestamptz[], $10::timestamptz[], $11::bytea[], $12::text[], $13::text[],
                    $18::text[], $19::text[], $20::bigint[], $21::text[])
                    with ordinality as new (organisation, id, type, payload, correlation_id, user_id,
                        occurred_at, expires_at, digest, artifact_id, deployment_id, traceparent,
                        target, matched, attributes, nth)
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
            &column(&events, |it| it.organisation.0),
            &column(&events, |it| it.new.event.id.as_str()) as _,
            &column(&events, |it| it.new.event.event_type.as_str()) as _,
            &column(&events, |it| it.new.event.payload.get()) as _,
            &column(&events, |it| it.new.event.correlation_id.as_str()) as _,
            &column(&events, |it| it.new.event.user_id.as_deref()) as _,
            &column(&events, |it| it.new.event.occurred_at) as _,
            &column(&events, |it| it.new.event.expires_at) as _,
            &column(&events, |it| &it.new.digest[..]) as _,
            &column(&artifacts, |it| it.as_deref()) as _,
            &column(&deployments, |it| it.as_deref()) as _,
            now as _,
            &column(&rows.deliveries, |row| stream[&row.0.0]),
            &column(&rows.deliveries, |row| row.1),
            &column(&rows.deliveries, |row| nth[row.2]),
            &column(&events, |it| it.new.event.traceparent.map(|it| it.to_string())) as _,
            &column(&targets, |it| &**it) as _,
            &column(&events, |it| it.matched),
            &column(&attributes, |it| it.as_deref()) as _
        )
        .fetch_all(self)
        .await?)
    }

    /// Locks the events, so that retention can't delete them meanwhile.
    async fn insert_repeats(&mut self, rows: &[Repeat]) -> Result<()> {
        let inserted = query!(
            r#"
            with held as materialized (
                select event from events where event = any($3) order by event for key share
            )
            insert into outbox (gateway, sequence, event, repeats, appended_at)
            select new.gateway, new.sequence, new.event, new.repeats, new.appended_at
            from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[])
                as new (gateway, sequence, event, repeats, appended_at)
            where new.event in (select event from held)
            "#,
            &column(rows, |row| row.gateway.0),
            &column(rows, |row| row.sequence.0),
            &column(rows, |row| row.event),
            &column(rows, |row| row.repeats.map(|sequence| sequence.0)) as _,
            &column(rows, |row| row.appended_at) as _
        )
        .execute(self)
        .await?;
        if usize::try_from(inserted.rows_affected()) == Ok(rows.len()) {
            return Ok(());
        }
        Err(StoreError::Unavailable("retention has just removed an event; try again".to_owned()))
    }

    /// `limit 1`: as for [`stored_responses`](Self::stored_responses).
    async fn set_collapse_keys(&mut self, rows: &[(GatewayKey, Sequence, &str)]) -> Result<()> {
        query!(
            r#"
            update outbox set collapse_key = found.key
            from unnest($1::bigint[], $2::bigint[], $3::text[]) as new (gateway, sequence, key)
            cross join lateral (
                select o.ctid, new.key from outbox o
                where o.gateway = new.gateway and o.sequence = new.sequence limit 1
            ) as found
            where outbox.ctid = found.ctid
            "#,
            &column(rows, |row| row.0.0),
            &column(rows, |row| row.1.0),
            &column(rows, |row| row.2) as _
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
        query!(
            r#"
            update outbox set withheld = 'superseded'
            from unnest($2::bigint[], $3::bigint[]) as range (first, last)
            where outbox.gateway = $1 and outbox.sequence between range.first and range.last
            "#,
            gateway.0,
            &column(superseded, |it| it.range.first.0),
            &column(superseded, |it| it.range.last.0)
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
        let details = column(superseded, Superseded::detail);
        query!(
            r#"
            insert into attempts (gateway, first_sequence, last_sequence, outcome, detail, instance,
                node, started_at, finished_at)
            select $1, first, last, 'superseded', detail, '', $5, $6, $6
            from unnest($2::bigint[], $3::bigint[], $4::text[])
                with ordinality as range (first, last, detail, nth)
            order by nth
            "#,
            gateway.0,
            &column(superseded, |it| it.range.first.0),
            &column(superseded, |it| it.range.last.0),
            &details,
            node as _,
            now as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    /// `limit 1` makes the planner look up keys one by one: the statement is planned while the table
    /// is empty, and a plan that reads the whole table would be kept until the next `analyze`.
    async fn stored_responses(
        &mut self,
        wanted: &[(OrganisationKey, &str)],
    ) -> Result<Vec<StoredResponse>> {
        Ok(query_as!(
            StoredResponse,
            r#"
            select k.organisation as "organisation!: OrganisationKey", k.key as "key!: String",
                k.digest as "digest!: Vec<u8>", k.answer as "response!: String"
            from unnest($1::bigint[], $2::text[]) as wanted (organisation, key)
            cross join lateral (
                select organisation, key, digest, answer from idempotency_keys
                where organisation = wanted.organisation and key = wanted.key limit 1
            ) as k
            "#,
            &column(wanted, |(organisation, _)| organisation.0),
            &column(wanted, |(_, key)| *key) as _
        )
        .fetch_all(self)
        .await?)
    }

    /// A key that another node is about to insert is an error, which undoes the batch: the batch has
    /// appended what the other node has appended.
    async fn store_responses(
        &mut self,
        now: Timestamp,
        mut rows: Vec<StoredResponse>,
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
            &column(&rows, |row| row.response.as_str()) as _,
            now as _
        )
        .execute(self)
        .await?;
        Ok(())
    }

    /// Looks up events one by one, as in `stored_responses`.
    async fn known_events(
        &mut self,
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
                    select gateway, sequence from outbox where event = e.event and appended_at is null
                    union all
                    select gateway, sequence from trimmed where event = e.event and appended_at is null
                ) as d group by gateway
            ) as o on true
            left join gateways g on g.gateway = o.gateway
            order by g.gateway
            "#,
            &column(wanted, |(organisation, _)| organisation.0),
            &column(wanted, |(_, id)| id.as_str()) as _
        )
        .fetch_all(self)
        .await?)
    }

    /// The server sends all rows that it is asked for, so the statement stops at the row that exceeds
    /// the bytes. There is no gap above the floor, so the sequences of a page are known. `limit 1`
    /// makes the planner look up events one by one; a plan made without statistics would read all of
    /// them for a page. The first row alone has the log's head and floor. Postgres 13 extracts a double,
    /// which is exact for whole seconds.
    fn outbox_rows(
        &mut self,
        gateway: GatewayKey,
        after: Sequence,
        limit: i64,
        max_bytes: usize,
    ) -> BoxStream<'_, sqlx::Result<LogEntry>> {
        let max_bytes = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        // Far more than any caller needs, and small enough not to overflow a sum.
        let limit = limit.min(i32::MAX.into());
        let rows = query!(
            r#"
            select case when before is null or before = 0 then s.head end as "head?: Sequence",
                case when before is null or before = 0 then s.floor end as "floor?: Sequence",
                sequence as "sequence?: Sequence", id as "id?: EventId",
                type as "event_type?: EventType", payload as "payload?: String",
                correlation_id as "correlation_id?: CorrelationId", user_id as "user_id?: String",
                occurred_at as "occurred_at?: Timestamp", extras as "extras?: String"
            from streams s left join lateral (
                select o.sequence, e.id, e.type, e.payload, e.correlation_id, e.user_id,
                    e.occurred_at,
                    case when e.expires_at is not null or e.traceparent is not null
                            or e.attributes is not null or o.withheld is not null
                            or e.purged_at is not null
                        then json_build_array(
                            case when isfinite(e.expires_at)
                                then extract(epoch from date_trunc('second', e.expires_at))::bigint * 1000000
                                    + extract(microseconds from e.expires_at)::bigint % 1000000 end,
                            e.traceparent, e.attributes,
                            case when e.purged_at is null or o.withheld = 'superseded'
                                then o.withheld else 'purged' end)::text
                    end as extras,
                    sum(octet_length(e.payload)) over (order by o.sequence)
                        - octet_length(e.payload) as before
                from outbox o
                cross join lateral (select * from events where event = o.event limit 1) as e
                where o.gateway = s.gateway and o.sequence > greatest($2, s.floor)
                    and o.sequence <= least(greatest($2, s.floor), s.head) + $3::bigint
            ) as page on before < $4::bigint or before = 0
            where s.gateway = $1
            order by sequence
            "#,
            gateway.0,
            after.0,
            limit,
            max_bytes
        )
        .fetch(self);
        let mut bounds = None;
        let entries = rows.map(move |row| {
            let row = row?;
            let own = row.head.zip(row.floor);
            let (head, floor) = match bounds {
                Some(bounds) => bounds,
                None => *bounds.insert(own.ok_or(sqlx::Error::RowNotFound)?),
            };
            Ok(LogEntry {
                head,
                floor,
                sequence: row.sequence,
                id: row.id,
                event_type: row.event_type,
                payload: row.payload,
                correlation_id: row.correlation_id,
                user_id: row.user_id,
                occurred_at: row.occurred_at,
                extras: row.extras,
            })
        });
        entries.boxed()
    }
}

/// The attributes of events that were published as CloudEvents, as JSON.
fn attributes(events: &[&BatchEvent<'_>]) -> Result<Vec<Option<String>>> {
    let encode = |event: &&BatchEvent<'_>| {
        event.new.event.attributes.as_deref().map(serde_json::to_string).transpose()
    };
    events.iter().map(encode).collect::<serde_json::Result<_>>().map_err(|error| {
        StoreError::Unavailable(format!("failed to encode attributes as JSON: {error}"))
    })
}
