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
use crate::store::postgres::sql::deliveries::summary::{Tally, Window};
use crate::store::postgres::sql::deliveries::{Key, Matching, Place};
use crate::store::postgres::sql::redrive::candidates::{Candidate, Letter};
use crate::store::{RedrivePlace, Result, SummaryBy};

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
        deliveries as materialized (
            select o.gateway, o.sequence from chosen c join outbox o on o.event = c.event
            union all
            select t.gateway, t.sequence from chosen c join trimmed t on t.event = c.event
        ),
        failures as (
            select o.gateway, o.sequence, a.attempt, a.finished_at,
                row_number() over (partition by o.gateway, o.sequence
                                   order by a.finished_at desc, a.attempt desc) as nth
            from deliveries o
            join gateways g on g.gateway = o.gateway and g.organisation = $1
            cross join lateral (
                select * from attempts
                where gateway = o.gateway and first_sequence = o.sequence
                union all
                select * from attempts
                where gateway = o.gateway and first_sequence between o.sequence - 999 and o.sequence - 1
                    and last_sequence >= o.sequence and last_sequence > first_sequence
            ) a
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
        select k.gateway as "gateway!: i64", k.sequence as "sequence!: i64"
        from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
        join events e on e.event = coalesce(
            (select event from outbox where gateway = k.gateway and sequence = k.sequence),
            (select event from trimmed where gateway = k.gateway and sequence = k.sequence)
        )
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
            s.floor as "floor!: i64",
            coalesce((select received from cursors c where c.gateway = w.gateway and c.instance = ''),
                     (select max(received) from cursors c where c.gateway = w.gateway), 0) as "confirmed!: i64",
            coalesce(d.last_sequence >= w.sequence, false) as "dead!: bool",
            coalesce(d.last_sequence >= w.sequence and d.redriven_at is not null, false) as "redriven!: bool",
            case when d.last_sequence >= w.sequence
                then d.redriven_first + w.sequence - d.first_sequence end as "redriven_as?: i64"
        from unnest($1::bigint[], $2::bigint[]) with ordinality as w (gateway, sequence, nth)
        join gateways g on g.gateway = w.gateway
        join streams s on s.gateway = w.gateway
        left join events e on e.event = coalesce(
            (select event from outbox where gateway = w.gateway and sequence = w.sequence),
            (select event from trimmed where gateway = w.gateway and sequence = w.sequence)
        )
        left join lateral (
            select first_sequence, last_sequence, redriven_at, redriven_first from dead_letters
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

/// The newest hundred attempts at each of these deliveries, oldest first, each
/// with what all attempts at its delivery come to.
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
            a.finished_at as "finished_at!: Timestamp", a.attempts as "attempts!: i64",
            a.failures as "failures!: i64", a.first_failure_at as "first_failure_at?: Timestamp",
            a.last_failure_at as "last_failure_at?: Timestamp", a.last_reason as "last_reason?: Reason"
        from (select distinct * from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)) w
        cross join lateral (
            select covering.*, count(*) over () as attempts,
                count(*) filter (where outcome = 'failed') over () as failures,
                min(finished_at) filter (where outcome = 'failed') over () as first_failure_at,
                max(finished_at) filter (where outcome = 'failed') over () as last_failure_at,
                first_value(reason) over (
                    order by (outcome = 'failed') desc, finished_at desc, attempt desc
                ) as last_reason
            from (
                select * from attempts
                where gateway = w.gateway and first_sequence = w.sequence
                union all
                select * from attempts
                where gateway = w.gateway and first_sequence between w.sequence - 999 and w.sequence - 1
                    and last_sequence >= w.sequence and last_sequence > first_sequence
            ) covering
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
            case $5::text when 'gateway' then g.name else '' end as "name!: String",
            sum(a.last_sequence - a.first_sequence + 1)::bigint as "count!: i64"
        from attempts a
        join gateways g on g.gateway = a.gateway
        where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
          and g.organisation = $1
        group by 1, 2, 3
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
        select (extract(epoch from f.finished_at - $2) * 1000000)::bigint / $4 as "nth!: i64", e.type as "key!: String",
            '' as "name!: String",
            count(*) as "count!: i64"
        from (
            select a.finished_at, o.event
            from attempts a
            join gateways g on g.gateway = a.gateway
            join outbox o on o.gateway = a.gateway
                and o.sequence between a.first_sequence and a.last_sequence
            where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
              and g.organisation = $1
            union all
            select a.finished_at, t.event
            from attempts a
            join gateways g on g.gateway = a.gateway
            join trimmed t on t.gateway = a.gateway
                and t.sequence between a.first_sequence and a.last_sequence
            where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
              and g.organisation = $1
        ) as f
        join events e on e.event = f.event
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

/// Ranges of dead letters that were not redriven and that reach beyond a
/// place, in order; up to a gateway, which is included.
pub(in super::super) async fn open_letters(
    connection: &mut Connection,
    organisation: OrganisationKey,
    after: RedrivePlace,
    up_to: i64,
    limit: i64,
) -> Result<Vec<Letter>> {
    let lowest = after.sequence - 1000;
    Ok(query_as!(
        Letter,
        r#"
        with page as materialized (
            select d.gateway, d.first_sequence, d.last_sequence
            from dead_letters d
            where d.redriven_at is null and (d.gateway, d.first_sequence) > ($1, $2) and d.gateway <= $4
              and not (d.gateway = $1 and d.last_sequence <= $3)
            order by d.gateway, d.first_sequence limit $6
        )
        select p.gateway as "gateway!: i64", p.first_sequence as "first!: i64",
            p.last_sequence as "last!: i64",
            (g.organisation = $5 and g.deleted_at is null) as "matches!: bool"
        from page p join gateways g on g.gateway = p.gateway
        order by p.gateway, p.first_sequence
        "#,
        after.gateway,
        lowest,
        after.sequence,
        up_to,
        organisation.0,
        limit
    )
    .fetch_all(connection)
    .await?)
}

/// Deliveries of named events behind a place, in order.
pub(in super::super) async fn deliveries_of_events(
    connection: &mut Connection,
    matching: &Matching,
    after: RedrivePlace,
    limit: i64,
) -> Result<Vec<Key>> {
    let rows = query!(
        r#"
        with chosen as materialized (
            select event from events
            where organisation = $1 and id = $2 and (correlation_id = $3 or $3 is null)
            union
            select event from events
            where organisation = $1 and correlation_id = $3 and (id = $2 or $2 is null)
        ),
        deliveries as materialized (
            select o.gateway, o.sequence from chosen c join outbox o on o.event = c.event
            union all
            select t.gateway, t.sequence from chosen c join trimmed t on t.event = c.event
        )
        select o.gateway as "gateway!: i64", o.sequence as "sequence!: i64"
        from deliveries o
        join gateways g on g.gateway = o.gateway
        where g.organisation = $1 and g.deleted_at is null and (o.gateway = $4 or $4 is null)
          and (o.gateway, o.sequence) > ($5, $6)
        order by o.gateway, o.sequence limit $7
        "#,
        matching.organisation,
        matching.event_id,
        matching.correlation_id,
        matching.gateway,
        after.gateway,
        after.sequence,
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.gateway, row.sequence)).collect())
}

/// Of these deliveries, the dead letters that were not redriven, in order. An
/// event that retention has removed is not there any more.
pub(in super::super) async fn open_deliveries(
    connection: &mut Connection,
    keys: &[Key],
) -> Result<Vec<Candidate>> {
    Ok(query_as!(
        Candidate,
        r#"
        select g.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            k.sequence as "sequence!: i64", d.first_sequence as "range_first!: i64",
            e.event as "event?: i64", e.id as "event_id?: EventId", e.type as "event_type?: String",
            e.expires_at as "expires_at?: Timestamp"
        from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
        join gateways g on g.gateway = k.gateway
        cross join lateral (
            select first_sequence, last_sequence, redriven_at from dead_letters
            where gateway = k.gateway and first_sequence <= k.sequence
            order by first_sequence desc limit 1
        ) d
        left join events e on e.event = coalesce(
            (select event from outbox where gateway = k.gateway and sequence = k.sequence),
            (select event from trimmed where gateway = k.gateway and sequence = k.sequence)
        )
        where d.last_sequence >= k.sequence and d.redriven_at is null and g.deleted_at is null
        order by 1, 3
        "#,
        &column(keys, |key| key.0),
        &column(keys, |key| key.1)
    )
    .fetch_all(connection)
    .await?)
}
