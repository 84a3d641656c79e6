//! Counts of published events over time. Each minute is counted once, after it has ended; a count over
//! a long window then reads a row per minute.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::dialect::log::CountedMinute;
use super::super::dialect::{Connection, LogStatements, NodeStatements, query, query_scalar};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::OrganisationKey;
use crate::store::ledger::{bucket_start, bucket_width};
use crate::store::{PublishedCount, Result};

/// Microseconds.
const MINUTE: i64 = 60_000_000;
/// After this time no transaction that appends to a minute is still running: the database ends
/// transactions that are idle or have slow statements in less than half of it.
const SETTLED: Duration = Duration::from_mins(2);
/// Minutes that are counted at once.
const MOST: i64 = 15;

/// Minutes that were counted, from the first one, included, to the last one, excluded.
pub(crate) struct Counted {
    from: i64,
    to: i64,
    minutes: Vec<CountedMinute>,
}

/// Counts the next minutes that have not been counted; `None` if there are none.
pub(crate) async fn next(conn: &mut Connection) -> Result<Option<Counted>> {
    let settled = minute_of(conn.now().await?.minus(SETTLED));
    let from = counted_to(conn).await?;
    let Some(first) = conn.first_event_since(from_minute(from)).await? else { return Ok(None) };
    let begin = minute_of(first).max(from);
    let to = settled.min(begin.saturating_add(MOST));
    let Ok(window) = TimeWindow::new(from_minute(begin), from_minute(to)) else { return Ok(None) };
    Ok(Some(Counted { from, to, minutes: conn.events_by_minute(None, window).await? }))
}

/// Stores the counts, unless another node has counted these minutes meanwhile.
pub(crate) async fn store(conn: &mut Connection, counted: Counted) -> Result<()> {
    let Counted { from, to, minutes } = counted;
    let moved = query!(
        "update event_counts_mark set counted_to = $1 where only_row = 1 and counted_to = $2",
        to,
        from
    )
    .execute(&mut *conn)
    .await?;
    if moved.rows_affected() == 0 {
        return Ok(());
    }
    for CountedMinute { organisation, minute, count } in minutes {
        query!(
            "insert into event_counts (organisation, minute, count) values ($1, $2, $3)",
            organisation.0,
            minute,
            count
        )
        .execute(&mut *conn)
        .await?;
    }
    Ok(())
}

/// Deletes up to `batch` counts of minutes before an instant.
pub(crate) async fn forget(conn: &mut Connection, before: Timestamp, batch: i64) -> Result<u64> {
    let done = query!(
        r#"
        delete from event_counts where (organisation, minute) in (
            select organisation, minute from event_counts where minute < $1 limit $2
        )
        "#,
        minute_of(before),
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Published events of a window per bucket of time, which is a number of minutes.
pub(crate) async fn published(
    conn: &mut Connection,
    organisation: OrganisationKey,
    window: TimeWindow,
    bucket: Duration,
) -> Result<Vec<PublishedCount>> {
    let (from, to) = (window.from(), window.to());
    let first = minute_of(from) + i64::from(from.micros().rem_euclid(MINUTE) > 0);
    let end = minute_of(to).min(counted_to(conn).await?);
    let mut minutes = Vec::new();
    if first < end {
        minutes.extend(stored(conn, organisation, first, end).await?);
        for part in [(from, from_minute(first)), (from_minute(end), to)] {
            if let Ok(part) = TimeWindow::new(part.0, part.1) {
                minutes.extend(conn.events_by_minute(Some(organisation), part).await?);
            }
        }
    } else {
        minutes = conn.events_by_minute(Some(organisation), window).await?;
    }
    let width = bucket_width(bucket);
    let mut buckets: BTreeMap<i64, i64> = BTreeMap::new();
    for CountedMinute { minute, count, .. } in minutes {
        *buckets.entry(bucket_start(from_minute(minute), width)).or_default() += count;
    }
    let count = |(begin, count)| PublishedCount { from: Timestamp::from_micros(begin), count };
    Ok(buckets.into_iter().map(count).collect())
}

async fn stored(
    conn: &mut Connection,
    organisation: OrganisationKey,
    first: i64,
    end: i64,
) -> Result<Vec<CountedMinute>> {
    let rows = query!(
        r#"
        select minute as "minute!: i64", count as "count!: i64" from event_counts
        where organisation = $1 and minute >= $2 and minute < $3
        "#,
        organisation.0,
        first,
        end
    )
    .fetch_all(conn)
    .await?;
    let counted = rows.into_iter().map(|row| CountedMinute {
        organisation,
        minute: row.minute,
        count: row.count,
    });
    Ok(counted.collect())
}

async fn counted_to(conn: &mut Connection) -> Result<i64> {
    Ok(query_scalar!(r#"select counted_to as "counted_to!: i64" from event_counts_mark"#)
        .fetch_one(conn)
        .await?)
}

fn minute_of(at: Timestamp) -> i64 {
    at.micros().div_euclid(MINUTE)
}

fn from_minute(minute: i64) -> Timestamp {
    Timestamp::from_micros(minute.saturating_mul(MINUTE))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::super::fixture::{Database, ORGANISATION, OTHER, at};
    use super::*;

    /// Publishes an event at an instant.
    async fn publish(database: &mut Database, organisation: OrganisationKey, at: Timestamp) {
        let id = fastrand::u128(..).to_string();
        sqlx::query(
            "insert into events (organisation, id, type, payload, correlation_id, occurred_at, appended_at, digest)
             values ($1, $2, 'api.deployed', '{}', 'c', $3, $3, $4)",
        )
        .bind(organisation.0)
        .bind(id)
        .bind(at)
        .bind(&[0_u8][..])
        .execute(&mut database.conn)
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn counts_are_the_same_before_and_after_minutes_are_counted() {
        for seed in (0..4).chain([fastrand::u64(..)]) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut database = Database::new().await;
            let now = database.conn.now().await.unwrap();
            let begin = now.minus(Duration::from_mins(100));
            let mut published = Vec::new();
            for _ in 0..random.usize(1..150) {
                let at = begin.plus(Duration::from_micros(random.u64(0..6_000_000_000)));
                let organisation = if random.u8(..) < 200 { ORGANISATION } else { OTHER };
                publish(&mut database, organisation, at).await;
                if organisation == ORGANISATION {
                    published.push(at);
                }
            }
            let mut steps = 0;
            loop {
                for _ in 0..5 {
                    let [a, b] = [(); 2].map(|()| random.u64(0..6_100_000_000));
                    let from = begin.plus(Duration::from_micros(a.min(b)));
                    let to = begin.plus(Duration::from_micros(a.max(b) + 1));
                    let window = TimeWindow::new(from, to).unwrap();
                    let bucket = Duration::from_mins(random.u64(1..40));
                    let conn = &mut database.conn;
                    let found = super::published(conn, ORGANISATION, window, bucket).await.unwrap();
                    let width = bucket_width(bucket);
                    let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
                    for at in published.iter().filter(|at| window.contains(**at)) {
                        *expected.entry(bucket_start(*at, width)).or_default() += 1;
                    }
                    let found: BTreeMap<i64, i64> =
                        found.into_iter().map(|it| (it.from.micros(), it.count)).collect();
                    assert_eq!(found, expected, "seed {seed}, step {steps}, {window:?}");
                }
                let Some(counted) = next(&mut database.conn).await.unwrap() else { break };
                // Another node has counted the same minutes.
                let again = next(&mut database.conn).await.unwrap().expect("the same");
                store(&mut database.conn, counted).await.unwrap();
                store(&mut database.conn, again).await.unwrap();
                steps += 1;
            }
            let rest = published.iter().any(|at| minute_of(*at) < minute_of(now.minus(SETTLED)));
            assert!(steps > 0 || !rest, "seed {seed}: nothing was counted");
            let minutes: BTreeSet<i64> = published.iter().map(|at| minute_of(*at)).collect();
            let gone = forget(&mut database.conn, at(i64::MAX), 1000).await.unwrap();
            assert!(gone > 0 || minutes.len() < 4, "seed {seed}: {gone} of {minutes:?}");
        }
    }
}
