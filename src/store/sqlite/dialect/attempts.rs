//! Failed attempts: the walk through them, newest first, and those of
//! deliveries that are known. The walks' indexes hold all that is looked at,
//! so that a row which is passed over costs no look into the table.

use super::batches::json;
use super::{Connection, query_as};
use crate::clock::Timestamp;
use crate::store::Result;
use crate::store::sqlite::sql::deliveries::newest::{Covering, Within};
use crate::store::sqlite::sql::deliveries::scan::Failed;
use crate::store::sqlite::sql::deliveries::{Key, Matching};

/// A page of failed attempts along one index. One upper bound, not two: the
/// planner would be free to enter the index at the window's end each time, and
/// pages would cost ever more. The instant of the bound is asked for apart,
/// because many attempts may share it and only an equation enters the index in
/// their midst.
macro_rules! page {
    ($index:tt, $among:tt, $connection:ident, $matching:ident, $as_of:ident, $bound:ident, $limit:ident) => {
        sqlx::query_as!(
            Failed,
            r#"
            with page as materialized (
                select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
                from attempts a indexed by "#
                + $index
                + " where a.outcome = 'failed' and "
                + $among
                + r#" and a.finished_at = $4 and $4 >= $6 and a.attempt <= $5
                union all
                select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
                from attempts a indexed by "#
                + $index
                + " where a.outcome = 'failed' and "
                + $among
                + r#" and a.finished_at < $4 and a.finished_at >= $6 and a.attempt <= $7
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
            $matching.organisation,
            $matching.gateway,
            $matching.reason as _,
            $bound.0 as _,
            $bound.1,
            $matching.from as _,
            $as_of,
            $limit
        )
        .fetch_all($connection)
        .await?
    };
}

/// Failed attempts before a place, newest first: those of the gateway or for
/// the reason that is asked for, and otherwise everybody's.
pub(in super::super) async fn failed_attempts(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    before: (Timestamp, i64),
    limit: i64,
) -> Result<Vec<Failed>> {
    Ok(if matching.gateway.is_some() {
        page!(
            "attempts_failed_by_gateway",
            "a.gateway = $2",
            connection,
            matching,
            as_of,
            before,
            limit
        )
    } else if matching.reason.is_some() {
        page!(
            "attempts_failed_by_reason",
            "a.reason = $3",
            connection,
            matching,
            as_of,
            before,
            limit
        )
    } else {
        page!("attempts_failed", "true", connection, matching, as_of, before, limit)
    })
}

/// Failed attempts that match, each at exactly one of these deliveries.
pub(in super::super) async fn failures_at(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    keys: &[Key],
) -> Result<Vec<Covering>> {
    let keys = json(keys)?;
    Ok(query_as!(
        Covering,
        r#"
        select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
            a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
            a.finished_at as "finished_at!: Timestamp"
        from json_each($1) k
        cross join attempts a indexed by attempts_by_sequence
            on a.gateway = k.value ->> 0 and a.first_sequence = k.value ->> 1
        where a.last_sequence = a.first_sequence and a.outcome = 'failed'
          and a.finished_at >= $2 and a.finished_at < $3
          and ($4 is null or a.reason = $4) and a.attempt <= $5
        "#,
        keys,
        matching.from as _,
        matching.to as _,
        matching.reason as _,
        as_of
    )
    .fetch_all(connection)
    .await?)
}

/// Failed attempts that match, at ranges which reach into these parts of logs.
pub(in super::super) async fn failures_reaching(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    around: &[Within],
) -> Result<Vec<Covering>> {
    let around = json(
        &around.iter().map(|it| (it.gateway, it.lowest, it.first, it.last)).collect::<Vec<_>>(),
    )?;
    Ok(query_as!(
        Covering,
        r#"
        select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
            a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
            a.finished_at as "finished_at!: Timestamp"
        from json_each($1) w
        cross join attempts a indexed by attempts_ranges
            on a.gateway = w.value ->> 0
            and a.first_sequence between w.value ->> 1 and w.value ->> 3
            and a.last_sequence >= w.value ->> 2 and a.last_sequence > a.first_sequence
        where a.outcome = 'failed' and a.finished_at >= $2 and a.finished_at < $3
          and ($4 is null or a.reason = $4) and a.attempt <= $5
        "#,
        around,
        matching.from as _,
        matching.to as _,
        matching.reason as _,
        as_of
    )
    .fetch_all(connection)
    .await?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::super::scratch::Scratch;
    use super::*;
    use crate::event::Reason;

    const STEP: i32 = 10;

    /// So many failures of each of two gateways, one per instant.
    async fn filled(failures: i64) -> (Scratch, Connection) {
        let (scratch, mut connection) = Scratch::new().await;
        for text in [
            "insert into gateways (gateway, id, organisation, name, created_at)
             values (1, 'a', 1, 'a', 0), (2, 'b', 1, 'b', 0)",
            "insert into streams (gateway, epoch, head) values (1, 'a', 1), (2, 'b', 1)",
        ] {
            sqlx::query(text).execute(&mut connection).await.unwrap();
        }
        sqlx::query(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2 * $1)
             insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, instance,
                 node, started_at, finished_at)
             select i % 2 + 1, 1, 1, 'failed', case i % 4 when 0 then 'expired' else 'shutdown' end,
                 '', '', i, i
             from n",
        )
        .bind(failures)
        .execute(&mut connection)
        .await
        .unwrap();
        (scratch, connection)
    }

    /// What SQLite's machine does for a page out of the middle of the window.
    async fn steps(connection: &mut Connection, failures: i64, matching: &Matching) -> usize {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        connection.lock_handle().await.unwrap().set_progress_handler(STEP, move || {
            counted.fetch_add(1, Ordering::Relaxed);
            true
        });
        let before = (Timestamp::from_micros(failures), i64::MAX);
        let page = failed_attempts(connection, matching, i64::MAX, before, 100).await.unwrap();
        assert_eq!(page.len(), 100);
        connection.lock_handle().await.unwrap().remove_progress_handler();
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn a_page_costs_the_same_however_long_the_history_is() {
        let (_short, mut short) = filled(1_000).await;
        let (_long, mut long) = filled(30_000).await;
        for (gateway, reason) in [
            (None, None),
            (Some(1), None),
            (None, Some(Reason::Expired)),
            (Some(1), Some(Reason::Expired)),
        ] {
            let matching = Matching {
                organisation: 1,
                from: Timestamp::from_micros(0),
                to: Timestamp::from_micros(i64::MAX),
                gateway,
                reason,
                event_type: None,
                event_id: None,
                correlation_id: None,
            };
            let few = steps(&mut short, 1_000, &matching).await;
            let many = steps(&mut long, 30_000, &matching).await;
            assert!(many <= few + few / 4, "{gateway:?}, {reason:?}: {few} grew to {many}");
        }
    }
}
