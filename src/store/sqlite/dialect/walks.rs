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
use crate::store::sqlite::sql::deliveries::newest::{Covering, Within};
use crate::store::sqlite::sql::deliveries::scan::Failed;
use crate::store::sqlite::sql::deliveries::summary::{Tally, Window};
use crate::store::sqlite::sql::deliveries::{Key, Matching, Place};
use crate::store::sqlite::sql::redrive::candidates::{Candidate, Overlap};
use crate::store::{Result, SummaryBy};

/// Failed attempts of everybody before a place, newest first. One upper bound,
/// not two: the planner would be free to enter the index at the window's end
/// each time, and pages would cost ever more. The instant of the bound is asked
/// for apart, because many attempts may share it and only an equation enters
/// the index in their midst.
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
            from attempts a indexed by attempts_failed
            where a.outcome = 'failed' and a.finished_at = $4 and a.finished_at >= $6 and a.attempt <= $5
            union all
            select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
            from attempts a indexed by attempts_failed
            where a.outcome = 'failed' and a.finished_at < $4 and a.finished_at >= $6 and a.attempt <= $7
            order by 5 desc, 1 desc
            limit $8
        )
        select p.attempt as "attempt!: i64", p.gateway as "gateway!: i64",
            p.first_sequence as "first!: i64", p.last_sequence as "last!: i64",
            p.finished_at as "finished_at!: Timestamp",
            (g.organisation = $1 and ($2 is null or p.gateway = $2)
             and ($3 is null or p.reason = $3)) as "matches!: bool"
        from page p cross join gateways g on g.gateway = p.gateway
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
        from attempts indexed by attempts_by_sequence
        where gateway = $1 and first_sequence between $2 and $3 and last_sequence >= $4
          and outcome = 'failed' and finished_at >= $5 and finished_at < $6
          and ($7 is null or reason = $7) and attempt <= $8
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
            where organisation = $1 and id = $2 and ($3 is null or correlation_id = $3)
              and ($4 is null or type = $4)
            union
            select event from events
            where organisation = $1 and correlation_id = $3 and ($2 is null or id = $2)
              and ($4 is null or type = $4)
        ),
        failures as (
            select o.gateway, o.sequence, a.attempt, a.finished_at,
                row_number() over (partition by o.gateway, o.sequence
                                   order by a.finished_at desc, a.attempt desc) as nth
            from chosen c
            cross join outbox o indexed by outbox_by_event on o.event = c.event
            cross join gateways g on g.gateway = o.gateway and g.organisation = $1
            cross join attempts a indexed by attempts_by_sequence
                on a.gateway = o.gateway and a.first_sequence between o.sequence - 999 and o.sequence
               and a.last_sequence >= o.sequence
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
        select o.gateway as "gateway!: i64", o.sequence as "sequence!: i64"
        from json_each($1) k
        cross join outbox o on o.gateway = k.value ->> 0 and o.sequence = k.value ->> 1
        cross join events e on e.event = o.event
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
            coalesce((select received from cursors c where c.gateway = w.gateway and c.instance = ''),
                     (select max(received) from cursors c where c.gateway = w.gateway), 0) as "confirmed!: i64",
            coalesce((select d.last_sequence >= w.sequence from dead_letters d
                      where d.gateway = w.gateway and d.first_sequence <= w.sequence
                      order by d.first_sequence desc limit 1), 0) as "dead!: bool",
            coalesce((select d.last_sequence >= w.sequence and d.redriven_at is not null from dead_letters d
                      where d.gateway = w.gateway and d.first_sequence <= w.sequence
                      order by d.first_sequence desc limit 1), 0) as "redriven!: bool"
        from wanted w
        cross join gateways g on g.gateway = w.gateway
        left join outbox o on o.gateway = w.gateway and o.sequence = w.sequence
        left join events e on e.event = o.event
        order by w.nth
        "#,
        keys
    )
    .fetch_all(connection)
    .await?)
}

/// The newest hundred attempts at each of these deliveries, oldest first.
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
                                   order by a.finished_at desc, a.attempt desc) as nth
            from wanted w
            cross join attempts a indexed by attempts_by_sequence
                on a.gateway = w.gateway and a.first_sequence between w.sequence - 999 and w.sequence
               and a.last_sequence >= w.sequence
        )
        select gateway as "gateway!: i64", sequence as "sequence!: i64", outcome as "outcome!: String",
            reason as "reason?: Reason", detail as "detail?: String", connection as "connection?: ConnectionId",
            started_at as "started_at!: Timestamp", finished_at as "finished_at!: Timestamp"
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
            sum(a.last_sequence - a.first_sequence + 1) as "count!: i64"
        from attempts a indexed by attempts_failed
        cross join gateways g on g.gateway = +a.gateway
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
        select (a.finished_at - $2) / $4 as "nth!: i64", e.type as "key!: String",
            count(*) as "count!: i64"
        from attempts a indexed by attempts_failed
        cross join gateways g on g.gateway = +a.gateway
        cross join outbox o on o.gateway = a.gateway
            and o.sequence between a.first_sequence and a.last_sequence
        cross join events e on e.event = o.event
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
        cross join gateways g on g.gateway = d.gateway
        cross join outbox o on o.gateway = d.gateway
            and o.sequence between d.first_sequence and d.last_sequence
        cross join events e on e.event = o.event
        where d.redriven_at is null and g.organisation = $1 and g.deleted_at is null
          and ($2 is null or d.gateway = $2) and ($3 is null or e.type = $3)
          and ($4 is null or e.id = $4) and ($5 is null or e.correlation_id = $5)
          and exists (
              select 1 from attempts a indexed by attempts_by_sequence
              where a.gateway = o.gateway and a.first_sequence between o.sequence - 999 and o.sequence
                and a.last_sequence >= o.sequence and a.outcome = 'failed'
                and a.finished_at >= $6 and a.finished_at < $7 and ($8 is null or a.reason = $8))
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
        select d.gateway as "gateway!: i64", max(d.first_sequence, a.first_sequence) as "first!: i64",
            min(d.last_sequence, a.last_sequence, s.floor) as "last!: i64"
        from dead_letters d
        cross join gateways g on g.gateway = d.gateway
        cross join streams s on s.gateway = d.gateway
        cross join attempts a indexed by attempts_by_sequence on a.gateway = d.gateway
            and a.first_sequence between d.first_sequence - 999 and min(d.last_sequence, s.floor)
            and a.last_sequence >= d.first_sequence
        where d.redriven_at is null and g.organisation = $1 and g.deleted_at is null
          and d.first_sequence <= s.floor and ($2 is null or d.gateway = $2)
          and a.outcome = 'failed' and a.finished_at >= $3 and a.finished_at < $4
          and ($5 is null or a.reason = $5)
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
