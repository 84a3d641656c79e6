//! Counts failed attempts per bucket of time. An attempt counts once for each delivery in its
//! range. Only the count by type reads single deliveries. The count by reason reads the counts of
//! whole minutes, and single attempts only before the first and after the last one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::dialect::deliveries::{Buckets, Tally};
use super::super::dialect::{Connection, DeliveryStatements, query};

use crate::clock::{MINUTE, Minutes, TimeWindow, Timestamp, start_of_minute};
use crate::event::OrganisationKey;
use crate::store::ledger::{bucket_start, bucket_width as width};
use crate::store::{Result, SummaryBy, SummaryRow};

/// Buckets are aligned to multiples of their width since the Unix epoch, so the first one may begin
/// before the window. Empty buckets are omitted.
pub(crate) async fn failure_summary(
    conn: &mut Connection,
    organisation: OrganisationKey,
    window: TimeWindow,
    bucket: Duration,
    by: SummaryBy,
) -> Result<Vec<SummaryRow>> {
    let width = width(bucket);
    let minutes = match by {
        SummaryBy::Reason if width % MINUTE == 0 => Minutes::of(window),
        SummaryBy::Reason | SummaryBy::Gateway | SummaryBy::Type => None,
    };
    let mut counts = match minutes {
        Some(minutes) => in_minutes(conn, organisation, minutes, width).await?,
        None => Counts::new(),
    };
    let singly = minutes.map_or_else(|| vec![window], |minutes| minutes.around(window));
    for (begin, part) in singly.into_iter().flat_map(|window| parts(window, width)) {
        for ((nth, key, name), count) in in_part(conn, organisation, part, by).await? {
            let begin = begin.saturating_add(nth.saturating_mul(part.width));
            *counts.entry((begin, key, name)).or_default() += count;
        }
    }
    Ok(counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|((begin, key, name), count)| SummaryRow {
            from: Timestamp::from_micros(begin),
            key,
            gateway_name: (!name.is_empty()).then_some(name),
            count,
        })
        .collect())
}

/// Counts of whole minutes by reason.
async fn in_minutes(
    conn: &mut Connection,
    organisation: OrganisationKey,
    minutes: Minutes,
    width: i64,
) -> Result<Counts> {
    let rows = query!(
        r#"
        select minute / $4 * $4 as "minute!: i64", reason as "reason!: String",
            cast(sum(count) as bigint) as "count!: i64"
        from failure_counts
        where organisation = $1 and minute >= $2 and minute < $3
        group by 1, 2
        "#,
        organisation.0,
        minutes.first(),
        minutes.end(),
        width / MINUTE
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| ((start_of_minute(row.minute).micros(), row.reason, String::new()), row.count))
        .collect())
}

/// Counts by the number of the bucket, from the part's start.
async fn in_part(
    conn: &mut Connection,
    organisation: OrganisationKey,
    part: Buckets,
    by: SummaryBy,
) -> Result<Counts> {
    let rows = conn.failures_by_range(organisation, part, by).await?;
    let mut counts = counted(rows);
    if by == SummaryBy::Type {
        // The rest belongs to events that retention has removed.
        let rows = conn.failures_by_type(organisation, part).await?;
        let mut typed = counted(rows);
        for ((nth, _, _), count) in &typed {
            if let Some(rest) = counts.get_mut(&(*nth, String::new(), String::new())) {
                *rest -= count;
            }
        }
        typed.append(&mut counts);
        counts = typed;
    }
    Ok(counts)
}

/// By bucket, key and gateway's name.
type Counts = BTreeMap<(i64, String, String), i64>;

fn counted(rows: Vec<Tally>) -> Counts {
    rows.into_iter().map(|row| ((row.nth, row.key, row.name), row.count)).collect()
}

/// Splits a window into parts whose buckets begin at the part's start: the rest of the bucket in
/// which the window begins, and what follows. Each comes with the aligned start of its first
/// bucket, in microseconds.
fn parts(window: TimeWindow, width: i64) -> impl Iterator<Item = (i64, Buckets)> {
    let begin = bucket_start(window.from(), width);
    let next = begin.saturating_add(width);
    let (first, rest) = window.split(Timestamp::from_micros(next));
    let first = (begin, Buckets { window: first, width });
    std::iter::once(first).chain(rest.map(|window| (next, Buckets { window, width })))
}
