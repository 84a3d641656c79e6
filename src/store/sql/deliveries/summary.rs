//! Failed attempts counted, in deliveries, per bucket of time. Ranges are
//! counted by their length; only counting by type looks at single deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::dialect::{self, Connection};

use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{Result, SummaryBy, SummaryRow};

/// Buckets begin at `from`; empty ones are left out.
pub(crate) async fn failure_summary(
    connection: &mut Connection,
    organisation: OrganisationKey,
    from: Timestamp,
    to: Timestamp,
    bucket: Duration,
    by: SummaryBy,
) -> Result<Vec<SummaryRow>> {
    let width = i64::try_from(bucket.as_micros()).unwrap_or(i64::MAX).max(1);
    let window = Window { from, to, width };
    let rows = dialect::failures_by_range(connection, organisation, window, by).await?;
    let mut counts = counted(rows);
    if by == SummaryBy::Type {
        // What no type accounts for belongs to events that retention has removed.
        let rows = dialect::failures_by_type(connection, organisation, window).await?;
        let mut typed = counted(rows);
        for ((nth, _), count) in &typed {
            if let Some(rest) = counts.get_mut(&(*nth, String::new())) {
                *rest -= count;
            }
        }
        typed.append(&mut counts);
        counts = typed;
    }
    Ok(counts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|((nth, key), count)| SummaryRow {
            from: Timestamp::from_micros(from.micros().saturating_add(nth.saturating_mul(width))),
            key,
            count,
        })
        .collect())
}

type Counts = BTreeMap<(i64, String), i64>;

/// Deliveries in one bucket under one key.
pub(crate) struct Tally {
    pub(crate) nth: i64,
    pub(crate) key: String,
    pub(crate) count: i64,
}

/// The time that is looked at, in microseconds, and the width of a bucket.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) width: i64,
}

fn counted(rows: Vec<Tally>) -> Counts {
    rows.into_iter().map(|row| ((row.nth, row.key), row.count)).collect()
}
