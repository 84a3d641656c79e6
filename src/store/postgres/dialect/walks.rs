//! Walks through the ledger. Postgres knows how its rows are distributed and
//! finds the way by itself; lists of keys are arrays.

use super::batches::column;
use super::{Connection, query, query_as};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey, Reason,
};
use crate::store::postgres::sql::deliveries::details::{AttemptRow, StandingRow};
use crate::store::postgres::sql::deliveries::named::Failure;
use crate::store::postgres::sql::deliveries::newest::{Covering, Within};
use crate::store::postgres::sql::deliveries::scan::Failed;
use crate::store::postgres::sql::deliveries::summary::{Tally, Window};
use crate::store::postgres::sql::deliveries::{Key, Matching, Place};
use crate::store::postgres::sql::redrive::candidates::{Candidate, Overlap};
use crate::store::{Result, SummaryBy};

/// Failed attempts of everybody before a place, newest first.
pub(in super::super) async fn failed_attempts(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    (finished_at, attempt): (Timestamp, i64),
    limit: i64,
) -> Result<Vec<Failed>> {
    Ok(query_as!(
        Failed,
        r#"
        with page as materialized (
            select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
            from attempts a
            where a.outcome = 'failed' and (a.finished_at, a.attempt) <= ($4, $5)
                and a.finished_at >= $6 and a.attempt <= $7
            order by a.finished_at desc, a.attempt desc
            limit $8
        )
        select p.attempt as "attempt!: i64", p.gateway as "gateway!: i64",
            p.first_sequence as "first!: i64", p.last_sequence as "last!: i64",
            p.finished_at as "finished_at!: Timestamp",
            (g.organisation = $1 and (p.gateway = $2 or $2 is null)
             and (p.reason = $3 or $3 is null)) as "matches!: bool"
        from page p join gateways g on g.gateway = p.gateway
        order by p.finished_at desc, p.attempt desc
        "#,
        matching.organisation,
        matching.gateway,
        matching.reason as _,
        finished_at as _,
        attempt,
        matching.from as _,
        as_of,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Failed attempts that match and reach into a part of a log.
pub(in super::super) async fn failures_within(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    within: Within,
) -> Result<Vec<Covering>> {
    Ok(query_as!(
        Covering,
        r#"
        select attempt as "attempt!: i64", first_sequence as "first!: i64",
            last_sequence as "last!: i64", finished_at as "finished_at!: Timestamp"
        from attempts
        where gateway = $1 and first_sequence between $2 and $3 and last_sequence >= $4
          and outcome = 'failed' and finished_at >= $5 and finished_at < $6
          and (reason = $7 or $7 is null) and attempt <= $8
        "#,
        within.gateway,
        within.lowest,
        within.last,
        within.first,
        matching.from as _,
        matching.to as _,
        matching.reason as _,
        as_of
    )
    .fetch_all(connection)
    .await?)
}

/// Deliveries of named events behind a place, each at its newest failure.
pub(in super::super) async fn failures_of_events(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    start: Place,
    most: i64,
) -> Result<Vec<Failure>> {
    Ok(query_as!(
        Failure,
        r#"
        with chosen as materialized (
            select event from events
            where organisation = $1 and id = $2 and (correlation_id = $3 or $3 is null)
              and (type = $4 or $4 is null)
            union
            select event from events
            where organisation = $1 and correlation_id = $3 and (id = $2 or $2 is null)
              and (type = $4 or $4 is null)
        ),
        failures as (
            select o.gateway, o.sequence, a.attempt, a.finished_at,
                row_number() over (partition by o.gateway, o.sequence
                                   order by a.finished_at desc, a.attempt desc) as nth
            from chosen c
            join outbox o on o.event = c.event
            join gateways g on g.gateway = o.gateway and g.organisation = $1
            join attempts a
                on a.gateway = o.gateway and a.first_sequence between o.sequence - 999 and o.sequence
               and a.last_sequence >= o.sequence
            where (o.gateway = $5 or $5 is null) and a.outcome = 'failed'
              and (a.reason = $6 or $6 is null)
              and a.finished_at >= $7 and a.finished_at < $8 and a.attempt <= $9
        )
        select gateway as "gateway!: i64", sequence as "sequence!: i64",
            attempt as "attempt!: i64", finished_at as "finished_at!: Timestamp"
        from failures
        where nth = 1 and (finished_at, attempt, sequence) < ($10, $11, $12)
        order by finished_at desc, attempt desc, sequence desc
        limit $13
        "#,
        matching.organisation,
        matching.event_id,
        matching.correlation_id,
        matching.event_type,
        matching.gateway,
        matching.reason as _,
        matching.from as _,
        matching.to as _,
        as_of,
        start.finished_at as _,
        start.attempt,
        start.sequence,
        most
    )
    .fetch_all(connection)
    .await?)
}

/// Which of these deliveries are of a type, and still have their event.
pub(in super::super) async fn deliveries_of_type(
    connection: &mut Connection,
    keys: &[Key],
    event_type: &str,
) -> Result<Vec<Key>> {
    let rows = query!(
        r#"
        select o.gateway as "gateway!: i64", o.sequence as "sequence!: i64"
        from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
        join outbox o on o.gateway = k.gateway and o.sequence = k.sequence
        join events e on e.event = o.event
        where e.type = $3
        "#,
        &column(keys, |key| key.0),
        &column(keys, |key| key.1),
        event_type
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.gateway, row.sequence)).collect())
}

/// What the standing of these deliveries follows from, in their order.
pub(in super::super) async fn standings(
    connection: &mut Connection,
    keys: &[Key],
) -> Result<Vec<StandingRow>> {
    Ok(query_as!(
        StandingRow,
        r#"
        select w.gateway as "gateway!: i64", w.sequence as "sequence!: i64",
            g.id as "gateway_id!: GatewayId", g.name as "gateway_name!: String",
            e.id as "event_id?: EventId", e.type as "event_type?: EventType",
            e.correlation_id as "correlation_id?: CorrelationId", e.appended_at as "appended_at?: Timestamp",
            coalesce((select received from cursors c where c.gateway = w.gateway and c.instance = ''),
                     (select max(received) from cursors c where c.gateway = w.gateway), 0) as "confirmed!: i64",
            coalesce(d.last_sequence >= w.sequence, false) as "dead!: bool",
            coalesce(d.last_sequence >= w.sequence and d.redriven_at is not null, false) as "redriven!: bool"
        from unnest($1::bigint[], $2::bigint[]) with ordinality as w (gateway, sequence, nth)
        join gateways g on g.gateway = w.gateway
        left join outbox o on o.gateway = w.gateway and o.sequence = w.sequence
        left join events e on e.event = o.event
        left join lateral (
            select last_sequence, redriven_at from dead_letters
            where gateway = w.gateway and first_sequence <= w.sequence
            order by first_sequence desc limit 1
        ) d on true
        order by w.nth
        "#,
        &column(keys, |key| key.0),
        &column(keys, |key| key.1)
    )
    .fetch_all(connection)
    .await?)
}

/// The newest hundred attempts at each of these deliveries, oldest first.
pub(in super::super) async fn attempts_at(
    connection: &mut Connection,
    keys: &[Key],
) -> Result<Vec<AttemptRow>> {
    Ok(query_as!(
        AttemptRow,
        r#"
        select w.gateway as "gateway!: i64", w.sequence as "sequence!: i64",
            a.outcome as "outcome!: String", a.reason as "reason?: Reason", a.detail as "detail?: String",
            a.connection as "connection?: ConnectionId", a.started_at as "started_at!: Timestamp",
            a.finished_at as "finished_at!: Timestamp"
        from (select distinct * from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)) w
        cross join lateral (
            select * from attempts
            where gateway = w.gateway and first_sequence between w.sequence - 999 and w.sequence
                and last_sequence >= w.sequence
            order by finished_at desc, attempt desc limit 100
        ) a
        order by w.gateway, w.sequence, a.finished_at, a.attempt
        "#,
        &column(keys, |key| key.0),
        &column(keys, |key| key.1)
    )
    .fetch_all(connection)
    .await?)
}

/// Failed attempts counted by their ranges' length.
pub(in super::super) async fn failures_by_range(
    connection: &mut Connection,
    organisation: OrganisationKey,
    window: Window,
    by: SummaryBy,
) -> Result<Vec<Tally>> {
    let by = match by {
        SummaryBy::Reason => "reason",
        SummaryBy::Gateway => "gateway",
        SummaryBy::Type => "type",
    };
    Ok(query_as!(
        Tally,
        r#"
        select (extract(epoch from a.finished_at - $2) * 1000000)::bigint / $4 as "nth!: i64",
            case $5::text when 'reason' then a.reason when 'gateway' then g.id::text else '' end as "key!: String",
            sum(a.last_sequence - a.first_sequence + 1)::bigint as "count!: i64"
        from attempts a
        join gateways g on g.gateway = a.gateway
        where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
          and g.organisation = $1
        group by 1, 2
        "#,
        organisation.0,
        window.from as _,
        window.to as _,
        window.width,
        by
    )
    .fetch_all(connection)
    .await?)
}

/// Failed attempts counted delivery by delivery, as far as their events are there.
pub(in super::super) async fn failures_by_type(
    connection: &mut Connection,
    organisation: OrganisationKey,
    window: Window,
) -> Result<Vec<Tally>> {
    Ok(query_as!(
        Tally,
        r#"
        select (extract(epoch from a.finished_at - $2) * 1000000)::bigint / $4 as "nth!: i64", e.type as "key!: String",
            count(*) as "count!: i64"
        from attempts a
        join gateways g on g.gateway = a.gateway
        join outbox o on o.gateway = a.gateway
            and o.sequence between a.first_sequence and a.last_sequence
        join events e on e.event = o.event
        where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
          and g.organisation = $1
        group by 1, 2
        "#,
        organisation.0,
        window.from as _,
        window.to as _,
        window.width
    )
    .fetch_all(connection)
    .await?)
}

/// Dead letters with a failed attempt that matches, oldest first.
pub(in super::super) async fn redrivable(
    connection: &mut Connection,
    matching: &Matching,
    most: i64,
) -> Result<Vec<Candidate>> {
    Ok(query_as!(
        Candidate,
        r#"
        select o.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            o.sequence as "sequence!: i64", e.event as "event!: i64", e.id as "event_id!: EventId",
            d.first_sequence as "range_first!: i64"
        from dead_letters d
        join gateways g on g.gateway = d.gateway
        join outbox o on o.gateway = d.gateway
            and o.sequence between d.first_sequence and d.last_sequence
        join events e on e.event = o.event
        where d.redriven_at is null and g.organisation = $1 and g.deleted_at is null
          and (d.gateway = $2 or $2 is null) and (e.type = $3 or $3 is null)
          and (e.id = $4 or $4 is null) and (e.correlation_id = $5 or $5 is null)
          and exists (
              select 1 from attempts a
              where a.gateway = o.gateway and a.first_sequence between o.sequence - 999 and o.sequence
                and a.last_sequence >= o.sequence and a.outcome = 'failed'
                and a.finished_at >= $6 and a.finished_at < $7 and (a.reason = $8 or $8 is null))
        order by d.gateway, d.first_sequence, o.sequence
        limit $9
        "#,
        matching.organisation,
        matching.gateway,
        matching.event_type,
        matching.event_id,
        matching.correlation_id,
        matching.from as _,
        matching.to as _,
        matching.reason as _,
        most
    )
    .fetch_all(connection)
    .await?)
}

/// Where matching attempts and the trimmed parts of dead letters meet.
pub(in super::super) async fn removed_overlaps(
    connection: &mut Connection,
    matching: &Matching,
    most: i64,
) -> Result<Vec<Overlap>> {
    Ok(query_as!(
        Overlap,
        r#"
        select d.gateway as "gateway!: i64", greatest(d.first_sequence, a.first_sequence) as "first!: i64",
            least(d.last_sequence, a.last_sequence, s.floor) as "last!: i64"
        from dead_letters d
        join gateways g on g.gateway = d.gateway
        join streams s on s.gateway = d.gateway
        join attempts a on a.gateway = d.gateway
            and a.first_sequence between d.first_sequence - 999 and least(d.last_sequence, s.floor)
            and a.last_sequence >= d.first_sequence
        where d.redriven_at is null and g.organisation = $1 and g.deleted_at is null
          and d.first_sequence <= s.floor and (d.gateway = $2 or $2 is null)
          and a.outcome = 'failed' and a.finished_at >= $3 and a.finished_at < $4
          and (a.reason = $5 or $5 is null)
        order by 1, 2 limit $6
        "#,
        matching.organisation,
        matching.gateway,
        matching.from as _,
        matching.to as _,
        matching.reason as _,
        most
    )
    .fetch_all(connection)
    .await?)
}
