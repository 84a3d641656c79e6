//! Failed attempts: the walk through them, newest first, and those of
//! deliveries that are known.

use super::batches::column;
use super::{Connection, query_as};
use crate::clock::Timestamp;
use crate::store::Result;
use crate::store::postgres::sql::deliveries::newest::{Covering, Within};
use crate::store::postgres::sql::deliveries::scan::Failed;
use crate::store::postgres::sql::deliveries::{Key, Matching};

/// A page of failed attempts among those that an index leads to.
macro_rules! page {
    ($among:tt, $connection:ident, $matching:ident, $as_of:ident, $bound:ident, $limit:ident) => {
        sqlx::query_as!(
            Failed,
            r#"
            with page as materialized (
                select a.attempt, a.gateway, a.first_sequence, a.last_sequence, a.finished_at, a.reason
                from attempts a
                where a.outcome = 'failed' and "#
                + $among
                + r#" and (a.finished_at, a.attempt) <= ($4, $5)
                    and a.finished_at >= $6 and a.attempt <= $7
                order by a.finished_at desc, a.attempt desc
                limit $8
            )
            select p.attempt as "attempt!: i64", p.gateway as "gateway!: i64",
                p.first_sequence as "first!: i64", p.last_sequence as "last!: i64",
                p.finished_at as "finished_at!: Timestamp",
                (g.organisation = $1 and (p.gateway = $2 or $2 is null)
                 and (p.reason = $3 or $3 is null)) as "matches!: bool"
            from page p join gateways g on g.gateway = p.gateway
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
        page!("a.gateway = $2", connection, matching, as_of, before, limit)
    } else if matching.reason.is_some() {
        page!("a.reason = $3", connection, matching, as_of, before, limit)
    } else {
        page!("true", connection, matching, as_of, before, limit)
    })
}

/// Failed attempts that match, each at exactly one of these deliveries. They are
/// looked up one by one, by their numbers alone, which `offset 0` makes sure of:
/// while nobody knows how many rows there are, all failures of a gateway look
/// like few.
pub(in super::super) async fn failures_at(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    keys: &[Key],
) -> Result<Vec<Covering>> {
    Ok(query_as!(
        Covering,
        r#"
        select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
            a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
            a.finished_at as "finished_at!: Timestamp"
        from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
        cross join lateral (
            select * from attempts
            where gateway = k.gateway and first_sequence = k.sequence offset 0
        ) as a
        where a.last_sequence = a.first_sequence and a.outcome = 'failed'
          and a.finished_at >= $3 and a.finished_at < $4
          and (a.reason = $5 or $5 is null) and a.attempt <= $6
        "#,
        &column(keys, |key| key.0),
        &column(keys, |key| key.1),
        matching.from as _,
        matching.to as _,
        matching.reason as _,
        as_of
    )
    .fetch_all(connection)
    .await?)
}

/// Failed attempts that match, at ranges which reach into these parts of logs,
/// looked up likewise.
pub(in super::super) async fn failures_reaching(
    connection: &mut Connection,
    matching: &Matching,
    as_of: i64,
    around: &[Within],
) -> Result<Vec<Covering>> {
    Ok(query_as!(
        Covering,
        r#"
        select a.attempt as "attempt!: i64", a.gateway as "gateway!: i64",
            a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
            a.finished_at as "finished_at!: Timestamp"
        from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
            as w (gateway, lowest, first, last)
        cross join lateral (
            select * from attempts
            where gateway = w.gateway and first_sequence between w.lowest and w.last
                and last_sequence >= w.first and last_sequence > first_sequence offset 0
        ) as a
        where a.outcome = 'failed' and a.finished_at >= $5 and a.finished_at < $6
          and (a.reason = $7 or $7 is null) and a.attempt <= $8
        "#,
        &column(around, |it| it.gateway),
        &column(around, |it| it.lowest),
        &column(around, |it| it.first),
        &column(around, |it| it.last),
        matching.from as _,
        matching.to as _,
        matching.reason as _,
        as_of
    )
    .fetch_all(connection)
    .await?)
}
