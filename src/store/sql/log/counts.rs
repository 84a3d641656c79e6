//! Counts of published events over time. Each event is counted once, after it was appended; a count over
//! a long window then reads a row per minute.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::dialect::log::{CountedMinute, Events};
use super::super::dialect::{Connection, LogStatements, query, query_scalar};
use crate::clock::{Minutes, TimeWindow, Timestamp, minute, start_of_minute};
use crate::event::OrganisationKey;
use crate::store::ledger::{bucket_start, bucket_width};
use crate::store::{PublishedCount, Result};

/// Events that are counted at once. Each may be in a minute of its own, and the rows of their minutes are
/// written one by one in a transaction that others wait for.
const MAX_EVENTS: i64 = 2_000;

/// Events that were counted: those after a key, up to another one.
pub(crate) struct Counted {
    after: i64,
    last: i64,
    minutes: Vec<CountedMinute>,
}

/// Counts the next events, up to one before which none can be added any more; `None` if there are none.
pub(crate) async fn next(conn: &mut Connection, settled: i64) -> Result<Option<Counted>> {
    let after = last_counted(conn).await?;
    let last = settled.min(after.saturating_add(MAX_EVENTS));
    if last <= after {
        return Ok(None);
    }
    let minutes = conn.events_by_minute(Events { after, last, ..Events::ALL }).await?;
    Ok(Some(Counted { after, last, minutes }))
}

/// Stores the counts, unless another node has counted these events meanwhile.
pub(crate) async fn store(conn: &mut Connection, counted: Counted) -> Result<()> {
    let Counted { after, last, minutes } = counted;
    let moved = query!(
        "update event_counts_mark set last_event = $1 where only_row = 1 and last_event = $2",
        last,
        after
    )
    .execute(&mut *conn)
    .await?;
    if moved.rows_affected() == 0 {
        return Ok(());
    }
    for CountedMinute { organisation, minute, count } in minutes {
        query!(
            r#"
            insert into event_counts (organisation, minute, count) values ($1, $2, $3)
            on conflict (organisation, minute) do update set count = event_counts.count + excluded.count
            "#,
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
        minute(before),
        batch
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Published events of a window per bucket of time, which is a number of minutes. Whole minutes are
/// read from the counts. Events of the rest, and those that are not counted yet, are counted.
pub(crate) async fn published(
    conn: &mut Connection,
    organisation: OrganisationKey,
    window: TimeWindow,
    bucket: Duration,
) -> Result<Vec<PublishedCount>> {
    let counted = last_counted(conn).await?;
    let of = Events { organisation: Some(organisation), window, ..Events::ALL };
    let mut minutes = conn.events_by_minute(Events { after: counted, ..of }).await?;
    let singly = match Minutes::of(window) {
        Some(whole) => {
            minutes.extend(stored(conn, organisation, whole).await?);
            whole.around(window)
        }
        None => vec![window],
    };
    for window in singly {
        let rest = Events { window, last: counted, ..of };
        minutes.extend(conn.events_by_minute(rest).await?);
    }
    let width = bucket_width(bucket);
    let mut buckets: BTreeMap<i64, i64> = BTreeMap::new();
    for CountedMinute { minute, count, .. } in minutes {
        *buckets.entry(bucket_start(start_of_minute(minute), width)).or_default() += count;
    }
    let count = |(begin, count)| PublishedCount { from: Timestamp::from_micros(begin), count };
    Ok(buckets.into_iter().map(count).collect())
}

async fn stored(
    conn: &mut Connection,
    organisation: OrganisationKey,
    minutes: Minutes,
) -> Result<Vec<CountedMinute>> {
    let rows = query!(
        r#"
        select minute as "minute!: i64", count as "count!: i64" from event_counts
        where organisation = $1 and minute >= $2 and minute < $3
        "#,
        organisation.0,
        minutes.first(),
        minutes.end()
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

async fn last_counted(conn: &mut Connection) -> Result<i64> {
    Ok(query_scalar!(r#"select last_event as "last_event!: i64" from event_counts_mark"#)
        .fetch_one(conn)
        .await?)
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
            let begin = Timestamp::from_micros(1_700_000_000_000_000);
            let mut published = Vec::new();
            let last = random.i64(1..150);
            for _ in 0..last {
                // The clock may be set back.
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
                let settled = last.min(40 * (steps + 1));
                let Some(counted) = next(&mut database.conn, settled).await.unwrap() else { break };
                // Another node has counted the same events.
                let again = next(&mut database.conn, settled).await.unwrap().expect("the same");
                store(&mut database.conn, counted).await.unwrap();
                store(&mut database.conn, again).await.unwrap();
                steps += 1;
            }
            assert_eq!(steps, (last + 39) / 40, "seed {seed}");
            let minutes: BTreeSet<i64> = published.iter().map(|at| minute(*at)).collect();
            let gone = forget(&mut database.conn, at(i64::MAX), 1000).await.unwrap();
            assert!(gone >= minutes.len() as u64, "seed {seed}: {gone} of {minutes:?}");
        }
    }
}
