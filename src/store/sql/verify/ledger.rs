//! Checks the ledger: attempts refer to existing sequences, their times are in order, and they
//! agree with positions, dead letters and totals.

use super::super::dialect::{Connection, query};

use super::MAX_PROBLEMS;
use crate::clock::Timestamp;
use crate::store::Result;

pub(super) async fn check(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    attempts(conn, problems).await?;
    confirmed(conn, problems).await?;
    dead_letters(conn, problems).await?;
    dead_totals(conn, problems).await?;
    totals(conn, problems).await?;
    failure_counts(conn, problems).await?;
    confirmed_totals(conn, problems).await
}

async fn attempts(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select a.attempt as "attempt!: i64", g.name as "name!: String",
            a.first_sequence as "first!: i64", a.last_sequence as "last!: i64",
            a.started_at as "started_at!: Timestamp", a.finished_at as "finished_at!: Timestamp",
            s.head as "head!: i64"
        from attempts a join gateways g using (gateway) join streams s using (gateway)
        where a.first_sequence < 1 or a.last_sequence < a.first_sequence
           or a.last_sequence > s.head or a.finished_at < a.started_at
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let (name, attempt) = (&row.name, row.attempt);
        if row.first < 1 || row.last < row.first || row.last > row.head {
            problems.push(format!(
                "gateway {name:?}: attempt {attempt} covers {}..={}, outside its log's 1..={}",
                row.first, row.last, row.head
            ));
        }
        if row.finished_at < row.started_at {
            problems.push(format!(
                "gateway {name:?}: attempt {attempt} finished {} microseconds before it started",
                row.started_at.micros() - row.finished_at.micros()
            ));
        }
    }
    Ok(())
}

/// Each receipt of an unnamed connection moved its gateway's position, unless all instances must
/// confirm. The cursor of an [instance](crate::store::instances) may have been deleted since. An
/// `applied` report moves none, and a deleted gateway has none.
async fn confirmed(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select g.name as "name!: String", max(a.last_sequence) as "last!: i64",
            coalesce((select max(c.received) from cursors c where c.gateway = a.gateway), 0) as "position!: i64"
        from attempts a join gateways g using (gateway) join streams s using (gateway)
        where a.outcome = 'received' and a.instance = '' and g.deleted_at is null
            and s.confirmation = 'any'
        group by a.gateway, g.name
        having max(a.last_sequence)
             > coalesce((select max(c.received) from cursors c where c.gateway = a.gateway), 0)
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        format!(
            "gateway {:?}: sequence {} was confirmed, but its position is {}",
            row.name, row.last, row.position
        )
    }));
    Ok(())
}

async fn dead_letters(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select g.name as "name!: String", d.first_sequence as "first!: i64",
            d.last_sequence as "last!: i64", s.head as "head!: i64",
            coalesce(lag(d.last_sequence) over (partition by d.gateway order by d.first_sequence), 0) as "before!: i64"
        from dead_letters d join gateways g using (gateway) join streams s using (gateway)
        order by d.gateway, d.first_sequence
        "#
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let (name, first, last) = (&row.name, row.first, row.last);
        if first < 1 || last < first || last > row.head {
            problems.push(format!(
                "gateway {name:?}: dead letters {first}..={last} are outside its log's 1..={}",
                row.head
            ));
        }
        if row.before >= first {
            problems.push(format!(
                "gateway {name:?}: dead letters {first}..={last} overlap those that end at {}",
                row.before
            ));
        }
    }
    Ok(())
}

/// The total of dead letters that were not redriven matches their number.
async fn dead_totals(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        with counted as materialized (
            select s.gateway, s.dead_total, cast(coalesce((
                select sum(d.last_sequence - d.first_sequence + 1) from dead_letters d
                where d.gateway = s.gateway and d.redriven_at is null
            ), 0) as bigint) as found
            from streams s
        )
        select g.name as "name!: String", c.dead_total as "total!: i64", c.found as "found!: i64"
        from counted c join gateways g using (gateway)
        where c.dead_total <> c.found
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        format!(
            "gateway {:?}: its total of dead letters is {}, but there are {}",
            row.name, row.total, row.found
        )
    }));
    Ok(())
}

/// Totals never shrink while retention trims the ledger, so they may be larger than its contents,
/// but not smaller.
async fn totals(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        with recorded as materialized (
            select gateway,
                cast(sum(case when outcome = 'failed' then last_sequence - first_sequence + 1 else 0 end) as bigint) as failed,
                max(case when outcome = 'failed' then finished_at end) as last_failure_at
            from attempts group by gateway
        )
        select g.name as "name!: String", s.failed_total as "total!: i64", r.failed as "failed!: i64",
            s.confirmed_total as "confirmed!: i64",
            (r.last_failure_at is not null and s.last_failure_at is null) as "unnoted!: bool"
        from recorded r join gateways g using (gateway) join streams s using (gateway)
        where s.failed_total < r.failed or s.confirmed_total < 0
           or (r.last_failure_at is not null and s.last_failure_at is null)
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let name = &row.name;
        if row.total < row.failed {
            problems.push(format!(
                "gateway {name:?}: its total of failed attempts is {}, but the ledger contains {}",
                row.total, row.failed
            ));
        }
        if row.confirmed < 0 {
            problems.push(format!(
                "gateway {name:?}: its total of confirmed deliveries is {}",
                row.confirmed
            ));
        }
        if row.unnoted {
            problems.push(format!(
                "gateway {name:?}: the ledger contains failures, but no last failure is recorded"
            ));
        }
    }
    Ok(())
}

/// Failed attempts are counted per minute.
async fn failure_counts(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select o.name as "name!: String", cast(sum(t.recorded) as bigint) as "recorded!: i64",
            cast(sum(t.counted) as bigint) as "counted!: i64"
        from (
            select g.organisation, sum(a.last_sequence - a.first_sequence + 1) as recorded, 0 as counted
            from attempts a join gateways g using (gateway) where a.outcome = 'failed'
            group by g.organisation
            union all
            select organisation, 0 as recorded, sum(count) as counted
            from failure_counts group by organisation
        ) as t
        join organisations o on o.organisation = t.organisation
        group by o.name having sum(t.recorded) <> sum(t.counted)
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        format!(
            "organisation {:?}: the counts per minute add up to {} failed attempts, but the ledger contains {}",
            row.name, row.counted, row.recorded
        )
    }));
    Ok(())
}

/// Sequences up to a gateway's position are either counted as confirmed or dead letters. Retention
/// deletes dead letters, but none above a log's floor.
async fn confirmed_totals(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        with counted as materialized (
            select g.name, s.confirmed_total as total, coalesce(own.received, 0) as position,
                s.floor, coalesce((
                    select cast(sum(case when d.last_sequence < own.received then d.last_sequence
                        else own.received end - d.first_sequence + 1) as bigint)
                    from dead_letters d
                    where d.gateway = s.gateway and d.first_sequence <= own.received
                ), 0) as dead
            from streams s join gateways g using (gateway)
            left join cursors own on own.gateway = s.gateway and own.instance = ''
            where g.deleted_at is null
        )
        select name as "name!: String", total as "total!: i64", position as "position!: i64",
            dead as "dead!: i64"
        from counted
        where total > position - dead
            or total < position - dead - case when floor < position then floor else position end
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        format!(
            "gateway {:?}: its total of confirmed deliveries is {}, but its position is {} with {} dead letters",
            row.name, row.total, row.position, row.dead
        )
    }));
    Ok(())
}
