//! Replays: deliveries of a range are appended again, in their order.

use std::collections::{BTreeMap, BTreeSet};

use super::super::deliveries::details;
use super::super::dialect::bulk::ReplayRow;
use super::super::dialect::log::Repeat;
use super::super::dialect::{
    BulkStatements, Connection, LogStatements, NodeStatements, query, query_as,
};
use super::super::log::append::raise_heads;
use super::super::redrive::mark_appended;
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::limits::{REPLAY_COUNTED, REPLAYED};
use crate::store::{BulkCounts, DeliveryKey, Range, ReplaySelection, Result, StoreError};

/// A gateway whose log is replayed.
pub(super) struct Log {
    pub(super) gateway: GatewayKey,
    pub(super) name: String,
    head: Sequence,
    floor: Sequence,
}

/// What one transaction has appended.
pub(super) struct Part {
    pub(super) counts: BulkCounts,
    /// The last sequence that was examined.
    pub(super) reached: Sequence,
    pub(super) appended: Option<Range>,
}

/// The log of a gateway that is not deleted.
pub(super) async fn log(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<Log> {
    query_as!(
        Log,
        r#"
        select g.gateway as "gateway!: GatewayKey", g.name as "name!: String",
            s.head as "head!: Sequence", s.floor as "floor!: Sequence"
        from gateways g join streams s on s.gateway = g.gateway
        where g.id = $1 and g.organisation = $2 and g.deleted_at is null
        "#,
        id as _,
        organisation.0
    )
    .fetch_optional(conn)
    .await?
    .ok_or(StoreError::NotFound("gateway"))
}

/// The selected range of a log; `None` if it is empty.
pub(super) async fn resolve(
    conn: &mut Connection,
    log: &Log,
    selection: ReplaySelection,
) -> Result<Option<Range>> {
    let (first, last) = match selection {
        ReplaySelection::Range(first, last) => {
            (first.max(Sequence(1)), last.unwrap_or(log.head).min(log.head))
        }
        ReplaySelection::Window(window) => in_window(conn, log, window).await?,
    };
    Ok((first <= last).then_some(Range { first, last }))
}

/// The first sequence of a window, and the last one. Times in a log don't decrease, so its rows are
/// searched by bisection. The few trimmed deliveries that are kept have gaps between them.
async fn in_window(
    conn: &mut Connection,
    log: &Log,
    window: TimeWindow,
) -> Result<(Sequence, Sequence)> {
    let trimmed = query!(
        r#"
        select min(case when at >= $2 then sequence end) as "first?: Sequence",
            max(case when at < $3 then sequence end) as "last?: Sequence",
            coalesce(max(case when at < $2 then sequence end), 0) as "before!: i64"
        from (
            select t.sequence, coalesce(t.appended_at, e.appended_at) as at
            from trimmed t join events e on e.event = t.event
            where t.gateway = $1
        ) as kept
        "#,
        log.gateway.0,
        window.from() as _,
        window.to() as _
    )
    .fetch_one(&mut *conn)
    .await?;
    let first = first_since(conn, log, window.from()).await?;
    let last = first_since(conn, log, window.to()).await?.previous();
    let first = if first > log.floor.next() || trimmed.before > 0 {
        trimmed.first.map_or(first, |kept| kept.min(first))
    } else {
        // It begins before everything whose time is known.
        Sequence(1)
    };
    let last = if last > log.floor { last } else { trimmed.last.unwrap_or(Sequence::ZERO) };
    Ok((first, last))
}

/// The first sequence above the floor that was appended at or after an instant, or the one after the
/// head.
async fn first_since(conn: &mut Connection, log: &Log, at: Timestamp) -> Result<Sequence> {
    let (mut low, mut high) = (log.floor.0 + 1, log.head.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let key = DeliveryKey { gateway: log.gateway, sequence: Sequence(middle) };
        let standing = details::standings(conn, &[key]).await?.pop();
        // Retention may have removed it since, and with it all before it.
        let is_before = standing
            .is_none_or(|it| it.delivery.appended_at.is_none_or(|appended_at| appended_at < at));
        if is_before {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(Sequence(low))
}

/// Counts the next part of a range: what would be appended and skipped, and how far it got.
pub(super) async fn count(
    conn: &mut Connection,
    gateway: GatewayKey,
    after: Sequence,
    to: Sequence,
) -> Result<(BulkCounts, Sequence)> {
    let now = conn.now().await?;
    let rows = conn.replay_rows(gateway, after, to, REPLAY_COUNTED).await?;
    let Picked { mut counts, chosen, reached } = pick(rows, after, to, REPLAY_COUNTED, now);
    counts.appended = i64::try_from(chosen.len()).unwrap_or(i64::MAX);
    Ok((counts, reached))
}

/// Appends the next part of a range. `None` if the gateway is deleted.
pub(super) async fn append(
    conn: &mut Connection,
    gateway: GatewayKey,
    after: Sequence,
    to: Sequence,
) -> Result<Option<Part>> {
    let streams = BTreeSet::from([gateway]);
    let now = conn.lock_streams(&streams).await?.now;
    if conn.existing_gateways(&streams).await?.is_empty() {
        return Ok(None);
    }
    let rows = conn.replay_rows(gateway, after, to, REPLAYED).await?;
    let Picked { mut counts, chosen, reached } = pick(rows, after, to, REPLAYED, now);
    let count = i64::try_from(chosen.len()).unwrap_or(i64::MAX);
    counts.appended = count;
    let Some((_, head)) = raise(conn, gateway, count).await? else {
        return Ok(Some(Part { counts, reached, appended: None }));
    };
    let mut last = Sequence(head.0 - count);
    let appended = Range { first: last.next(), last: head };
    let (mut repeats, mut numbered) = (Vec::with_capacity(chosen.len()), BTreeMap::new());
    for row in chosen {
        last = last.next();
        let repeated = Some(row.sequence);
        let appended_at = Some(now);
        repeats.push(Repeat {
            gateway,
            sequence: last,
            event: row.event,
            repeats: repeated,
            appended_at,
        });
        numbered.insert(DeliveryKey { gateway, sequence: row.sequence }, last);
    }
    conn.insert_repeats(&repeats).await?;
    mark_appended(conn, &numbered, now).await?;
    Ok(Some(Part { counts, reached, appended: Some(appended) }))
}

async fn raise(
    conn: &mut Connection,
    gateway: GatewayKey,
    count: i64,
) -> Result<Option<(GatewayKey, Sequence)>> {
    if count == 0 {
        return Ok(None);
    }
    Ok(raise_heads(conn, &BTreeMap::from([(gateway, count)])).await?.pop())
}

/// What is appended of a part of a range.
struct Picked {
    /// What is skipped.
    counts: BulkCounts,
    chosen: Vec<ReplayRow>,
    reached: Sequence,
}

/// Decides for each row whether it is appended. A sequence without a row was removed by retention.
fn pick(rows: Vec<ReplayRow>, after: Sequence, to: Sequence, limit: i64, now: Timestamp) -> Picked {
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let is_full = count >= limit;
    let reached = rows.last().filter(|_| is_full).map_or(to, |row| row.sequence);
    let mut counts =
        BulkCounts { event_removed: reached.0 - after.0 - count, ..BulkCounts::default() };
    let mut chosen = Vec::with_capacity(rows.len());
    for row in rows {
        // Each reason for which an event is not appended has a count of its own.
        if row.repeated {
            counts.repeated += 1;
        } else if row.is_purged {
            counts.payload_purged += 1;
        } else if row.expires_at.is_some_and(|at| at <= now) {
            counts.expired += 1;
        } else {
            chosen.push(row);
        }
    }
    Picked { counts, chosen, reached }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_of_a_part_is_accounted_for() {
        let at = Timestamp::from_micros;
        let row = |sequence, expires_at, repeated| ReplayRow {
            sequence: Sequence(sequence),
            event: sequence,
            expires_at,
            is_purged: false,
            repeated,
        };
        let rows = || {
            vec![
                row(4, None, false),
                row(5, Some(at(9)), false),
                row(7, Some(at(10)), false),
                row(8, Some(at(11)), true),
            ]
        };
        for (limit, reached, removed) in [(4, 8, 2), (5, 20, 14)] {
            let picked = pick(rows(), Sequence(2), Sequence(20), limit, at(9));
            assert_eq!(picked.reached, Sequence(reached));
            let BulkCounts { event_removed, expired, repeated, .. } = picked.counts;
            assert_eq!((event_removed, expired, repeated), (removed, 1, 1));
            let chosen: Vec<i64> = picked.chosen.iter().map(|row| row.event).collect();
            assert_eq!(chosen, [4, 7]);
        }
    }
}
