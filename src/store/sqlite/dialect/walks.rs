//! Walks through the ledger. SQLite's planner guesses from the statement alone,
//! so that the index and the order of the joins are named.

use super::batches::json;
use super::{Connection, query, query_as};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, GatewayKey, OrganisationKey, Reason,
};
use crate::store::sqlite::sql::deliveries::details::{AttemptRow, StandingRow};
use crate::store::sqlite::sql::deliveries::named::Failure;
use crate::store::sqlite::sql::deliveries::summary::{Tally, Window};
use crate::store::sqlite::sql::deliveries::{Key, Matching, Place};
use crate::store::sqlite::sql::redrive::candidates::{Candidate, Letter};
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
            where organisation = $1 and id = $2 and ($3 is null or correlation_id = $3)
              and ($4 is null or type = $4)
            union
            select event from events
            where organisation = $1 and correlation_id = $3 and ($2 is null or id = $2)
              and ($4 is null or type = $4)
        ),
        deliveries as materialized (
            select o.gateway, o.sequence from chosen c
            cross join outbox o indexed by outbox_by_event on o.event = c.event
            union all
            select t.gateway, t.sequence from chosen c
            cross join trimmed t indexed by trimmed_by_event on t.event = c.event
        ),
        failures as (
            select o.gateway, o.sequence, a.attempt, a.finished_at,
                row_number() over (partition by o.gateway, o.sequence
                                   order by a.finished_at desc, a.attempt desc) as nth
            from deliveries o
            cross join gateways g on g.gateway = o.gateway and g.organisation = $1
            cross join attempts a on a.attempt in (
                select x.attempt from attempts x indexed by attempts_by_sequence
                where x.gateway = o.gateway and x.first_sequence = o.sequence
                union
                select x.attempt from attempts x indexed by attempts_ranges
                where x.gateway = o.gateway and x.first_sequence between o.sequence - 999 and o.sequence
                  and x.last_sequence >= o.sequence and x.last_sequence > x.first_sequence
            )
            where ($5 is null or o.gateway = $5) and a.outcome = 'failed'
              and ($6 is null or a.reason = $6)
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
    let keys = json(keys)?;
    let rows = query!(
        r#"
        select k.value ->> 0 as "gateway!: i64", k.value ->> 1 as "sequence!: i64"
        from json_each($1) k
        cross join events e on e.event = coalesce(
            (select event from outbox where gateway = k.value ->> 0 and sequence = k.value ->> 1),
            (select event from trimmed where gateway = k.value ->> 0 and sequence = k.value ->> 1)
        )
        where e.type = $2
        "#,
        keys,
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
    let keys = json(keys)?;
    Ok(query_as!(
        StandingRow,
        r#"
        with wanted as materialized (
            select key as nth, value ->> 0 as gateway, value ->> 1 as sequence from json_each($1)
        )
        select w.gateway as "gateway!: i64", w.sequence as "sequence!: i64",
            g.id as "gateway_id!: GatewayId", g.name as "gateway_name!: String",
            e.id as "event_id?: EventId", e.type as "event_type?: EventType",
            e.correlation_id as "correlation_id?: CorrelationId", e.appended_at as "appended_at?: Timestamp",
            s.floor as "floor!: i64",
            coalesce((select received from cursors c where c.gateway = w.gateway and c.instance = ''),
                     (select max(received) from cursors c where c.gateway = w.gateway), 0) as "confirmed!: i64",
            coalesce((select d.last_sequence >= w.sequence from dead_letters d
                      where d.gateway = w.gateway and d.first_sequence <= w.sequence
                      order by d.first_sequence desc limit 1), 0) as "dead!: bool",
            coalesce((select d.last_sequence >= w.sequence and d.redriven_at is not null from dead_letters d
                      where d.gateway = w.gateway and d.first_sequence <= w.sequence
                      order by d.first_sequence desc limit 1), 0) as "redriven!: bool",
            (select case when d.last_sequence >= w.sequence
                    then d.redriven_first + w.sequence - d.first_sequence end from dead_letters d
             where d.gateway = w.gateway and d.first_sequence <= w.sequence
             order by d.first_sequence desc limit 1) as "redriven_as?: i64"
        from wanted w
        cross join gateways g on g.gateway = w.gateway
        cross join streams s on s.gateway = w.gateway
        left join events e on e.event = coalesce(
            (select event from outbox where gateway = w.gateway and sequence = w.sequence),
            (select event from trimmed where gateway = w.gateway and sequence = w.sequence)
        )
        order by w.nth
        "#,
        keys
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
    let keys = json(keys)?;
    Ok(query_as!(
        AttemptRow,
        r#"
        with wanted as materialized (
            select distinct value ->> 0 as gateway, value ->> 1 as sequence from json_each($1)
        ),
        covering as (
            select w.gateway, w.sequence, a.attempt, a.outcome, a.reason, a.detail, a.connection,
                a.started_at, a.finished_at,
                row_number() over (partition by w.gateway, w.sequence
                                   order by a.finished_at desc, a.attempt desc) as nth,
                count(*) over per_delivery as attempts,
                count(*) filter (where a.outcome = 'failed') over per_delivery as failures,
                min(a.finished_at) filter (where a.outcome = 'failed') over per_delivery as first_failure_at,
                max(a.finished_at) filter (where a.outcome = 'failed') over per_delivery as last_failure_at,
                first_value(a.reason) over (
                    partition by w.gateway, w.sequence
                    order by (a.outcome = 'failed') desc, a.finished_at desc, a.attempt desc
                ) as last_reason
            from wanted w
            cross join attempts a on a.attempt in (
                select x.attempt from attempts x indexed by attempts_by_sequence
                where x.gateway = w.gateway and x.first_sequence = w.sequence
                union
                select x.attempt from attempts x indexed by attempts_ranges
                where x.gateway = w.gateway and x.first_sequence between w.sequence - 999 and w.sequence
                  and x.last_sequence >= w.sequence and x.last_sequence > x.first_sequence
            )
            window per_delivery as (partition by w.gateway, w.sequence)
        )
        select gateway as "gateway!: i64", sequence as "sequence!: i64", outcome as "outcome!: String",
            reason as "reason?: Reason", detail as "detail?: String", connection as "connection?: ConnectionId",
            started_at as "started_at!: Timestamp", finished_at as "finished_at!: Timestamp",
            attempts as "attempts!: i64", failures as "failures!: i64",
            first_failure_at as "first_failure_at?: Timestamp",
            last_failure_at as "last_failure_at?: Timestamp", last_reason as "last_reason?: Reason"
        from covering where nth <= 100
        order by gateway, sequence, nth desc
        "#,
        keys
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
        select (a.finished_at - $2) / $4 as "nth!: i64",
            case $5 when 'reason' then a.reason when 'gateway' then g.id else '' end as "key!: String",
            case $5 when 'gateway' then g.name else '' end as "name!: String",
            sum(a.last_sequence - a.first_sequence + 1) as "count!: i64"
        from attempts a indexed by attempts_failed
        cross join gateways g on g.gateway = +a.gateway
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
        select (f.finished_at - $2) / $4 as "nth!: i64", e.type as "key!: String",
            '' as "name!: String",
            count(*) as "count!: i64"
        from (
            select a.finished_at, o.event
            from attempts a indexed by attempts_failed
            cross join gateways g on g.gateway = +a.gateway
            cross join outbox o on o.gateway = a.gateway
                and o.sequence between a.first_sequence and a.last_sequence
            where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
              and g.organisation = $1
            union all
            select a.finished_at, t.event
            from attempts a indexed by attempts_failed
            cross join gateways g on g.gateway = +a.gateway
            cross join trimmed t on t.gateway = a.gateway
                and t.sequence between a.first_sequence and a.last_sequence
            where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
              and g.organisation = $1
        ) as f
        cross join events e on e.event = f.event
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
        select d.gateway as "gateway!: i64", d.first_sequence as "first!: i64",
            d.last_sequence as "last!: i64",
            (g.organisation = $5 and g.deleted_at is null) as "matches!: bool"
        from dead_letters d indexed by dead_letters_open
        cross join gateways g on g.gateway = d.gateway
        where d.redriven_at is null and (d.gateway, d.first_sequence) > ($1, $2) and d.gateway <= $4
          and not (d.gateway = $1 and d.last_sequence <= $3)
        order by d.gateway, d.first_sequence limit $6
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
            where organisation = $1 and id = $2 and ($3 is null or correlation_id = $3)
            union
            select event from events
            where organisation = $1 and correlation_id = $3 and ($2 is null or id = $2)
        ),
        deliveries as materialized (
            select o.gateway, o.sequence from chosen c
            cross join outbox o indexed by outbox_by_event on o.event = c.event
            union all
            select t.gateway, t.sequence from chosen c
            cross join trimmed t indexed by trimmed_by_event on t.event = c.event
        )
        select o.gateway as "gateway!: i64", o.sequence as "sequence!: i64"
        from deliveries o
        cross join gateways g on g.gateway = o.gateway
        where g.organisation = $1 and g.deleted_at is null and ($4 is null or o.gateway = $4)
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
    let keys = json(keys)?;
    Ok(query_as!(
        Candidate,
        r#"
        select g.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
            k.value ->> 1 as "sequence!: i64", d.first_sequence as "range_first!: i64",
            e.event as "event?: i64", e.id as "event_id?: EventId", e.type as "event_type?: String",
            e.expires_at as "expires_at?: Timestamp"
        from json_each($1) k
        cross join gateways g on g.gateway = k.value ->> 0
        cross join dead_letters d on d.gateway = g.gateway and d.first_sequence = (
            select max(x.first_sequence) from dead_letters x
            where x.gateway = g.gateway and x.first_sequence <= k.value ->> 1
        )
        left join events e on e.event = coalesce(
            (select event from outbox where gateway = g.gateway and sequence = k.value ->> 1),
            (select event from trimmed where gateway = g.gateway and sequence = k.value ->> 1)
        )
        where d.last_sequence >= k.value ->> 1 and d.redriven_at is null and g.deleted_at is null
        order by 1, 3
        "#,
        keys
    )
    .fetch_all(connection)
    .await?)
}
