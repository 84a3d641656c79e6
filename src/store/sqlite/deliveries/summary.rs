//! Failed attempts counted, in deliveries, per bucket of time. Ranges are
//! counted by their length; only counting by type looks at single deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::SqliteConnection;

use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::{Result, SummaryBy, SummaryRow};

/// Buckets begin at `from`; empty ones are left out.
pub(in crate::store::sqlite) async fn failure_summary(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    from: Timestamp,
    to: Timestamp,
    bucket: Duration,
    by: SummaryBy,
) -> Result<Vec<SummaryRow>> {
    let width = i64::try_from(bucket.as_micros()).unwrap_or(i64::MAX).max(1);
    let window = (from.micros(), to.micros(), width);
    let mut counts = by_range(connection, organisation, window, by).await?;
    if by == SummaryBy::Type {
        // What no type accounts for belongs to events that retention has removed.
        let mut typed = by_type(connection, organisation, window).await?;
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
            from: Timestamp::from_micros(window.0.saturating_add(nth.saturating_mul(width))),
            key,
            count,
        })
        .collect())
}

type Counts = BTreeMap<(i64, String), i64>;

async fn by_range(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    (from, to, width): (i64, i64, i64),
    by: SummaryBy,
) -> Result<Counts> {
    let by = match by {
        SummaryBy::Reason => "reason",
        SummaryBy::Gateway => "gateway",
        SummaryBy::Type => "type",
    };
    let rows = sqlx::query!(
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
        from,
        to,
        width,
        by
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.nth, row.key), row.count)).collect())
}

async fn by_type(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    (from, to, width): (i64, i64, i64),
) -> Result<Counts> {
    let rows = sqlx::query!(
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
        from,
        to,
        width
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.nth, row.key), row.count)).collect())
}
