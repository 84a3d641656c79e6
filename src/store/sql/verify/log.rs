//! Checks the logs: one sequence per delivery, no gaps, and an event for each.

use super::super::dialect::{Connection, query};

use super::MAX_PROBLEMS;
use crate::store::Result;

pub(super) async fn check(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    streams(conn, problems).await?;
    events(conn, problems).await?;
    orphaned_rows(conn, problems).await?;
    trimmed(conn, problems).await?;
    cursors(conn, problems).await
}

/// Rows whose gateway or organisation does not exist.
async fn orphaned_rows(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select * from (
            select 'the log' as "what!: String", gateway as "parent!: i64", count(*) as "rows!: i64"
            from outbox o where not exists (select 1 from streams s where s.gateway = o.gateway)
            group by gateway
            union all
            select 'trimmed deliveries', gateway, count(*)
            from trimmed t where not exists (select 1 from streams s where s.gateway = t.gateway)
            group by gateway
            union all
            select 'the ledger', gateway, count(*)
            from attempts a where not exists (select 1 from gateways g where g.gateway = a.gateway)
            group by gateway
            union all
            select 'events', organisation, count(*)
            from events e where not exists (
                select 1 from organisations o where o.organisation = e.organisation
            )
            group by organisation
        ) as orphaned limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        let parent = if row.what == "events" { "organisation" } else { "gateway" };
        format!("{}: {} rows of {parent} {}, which does not exist", row.what, row.rows, row.parent)
    }));
    Ok(())
}

/// There are no gaps from the floor to the head. The primary key excludes duplicates, so the number
/// of rows and the two ends are sufficient.
async fn streams(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select g.name as "name!: String", s.head as "head?: i64", s.floor as "floor?: i64",
            (select count(*) from outbox o where o.gateway = g.gateway) as "rows!: i64",
            (select min(sequence) from outbox o where o.gateway = g.gateway) as "first?: i64",
            (select max(sequence) from outbox o where o.gateway = g.gateway) as "last?: i64"
        from gateways g left join streams s using (gateway)
        order by g.gateway
        "#
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let name = &row.name;
        let (Some(head), Some(floor)) = (row.head, row.floor) else {
            problems.push(format!("gateway {name:?}: has no log"));
            continue;
        };
        let expected = head - floor;
        if row.rows != expected {
            problems.push(format!(
                "gateway {name:?}: its log should contain the {expected} sequences {}..={head}, but contains {}",
                floor + 1,
                row.rows
            ));
        }
        if let Some(first) = row.first.filter(|first| *first != floor + 1) {
            problems.push(format!(
                "gateway {name:?}: its log begins at {first}, but was trimmed up to {floor}"
            ));
        }
        if let Some(last) = row.last.filter(|last| *last != head) {
            problems
                .push(format!("gateway {name:?}: its log ends at {last}, but its head is {head}"));
        }
    }
    Ok(())
}

async fn events(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    // The expression keeps the query from using an index, which may be corrupt.
    let repeated = query!(
        r#"
        select id || '' as "id!: String", count(*) as "times!: i64" from events
        group by organisation + 0, id || '' having count(*) > 1 limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(&mut *conn)
    .await?;
    problems.extend(
        repeated.into_iter().map(|row| format!("event {}: exists {} times", row.id, row.times)),
    );
    let lost = query!(
        r#"
        select g.name as "name?: String", o.gateway as "gateway!: i64", o.sequence as "sequence!: i64",
            o.event as "event!: i64"
        from outbox o left join gateways g using (gateway)
        where not exists (select 1 from events e where e.event = o.event) limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(&mut *conn)
    .await?;
    problems.extend(lost.into_iter().map(|row| {
        format!(
            "gateway {:?}: sequence {} refers to event row {}, which does not exist",
            row.name.unwrap_or_else(|| row.gateway.to_string()),
            row.sequence,
            row.event
        )
    }));
    let foreign = query!(
        r#"
        select g.name as "name!: String", o.sequence as "sequence!: i64", e.id as "id!: String"
        from outbox o join gateways g using (gateway) join events e using (event)
        where e.organisation <> g.organisation limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(foreign.into_iter().map(|row| {
        format!(
            "gateway {:?}: sequence {} is event {} of another organisation",
            row.name, row.sequence, row.id
        )
    }));
    Ok(())
}

/// Trimmed deliveries are at or below the floor, and their events exist.
async fn trimmed(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select g.name as "name!: String", t.sequence as "sequence!: i64", s.floor as "floor!: i64",
            exists (select 1 from events e where e.event = t.event) as "has_event!: bool"
        from trimmed t join gateways g using (gateway) join streams s using (gateway)
        where t.sequence > s.floor or not exists (select 1 from events e where e.event = t.event)
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        let (name, sequence) = (row.name, row.sequence);
        if row.has_event {
            format!(
                "gateway {name:?}: sequence {sequence} is trimmed, above the floor {}",
                row.floor
            )
        } else {
            format!("gateway {name:?}: the trimmed sequence {sequence} has no event")
        }
    }));
    Ok(())
}

async fn cursors(conn: &mut Connection, problems: &mut Vec<String>) -> Result<()> {
    let rows = query!(
        r#"
        select g.name as "name!: String", c.instance as "instance!: String",
            c.received as "received!: i64",
            case when c.applied_up_to between 0 and s.head then c.applied else c.applied_up_to end as "applied!: i64",
            s.head as "head!: i64"
        from cursors c join gateways g using (gateway) join streams s using (gateway)
        where c.received > s.head or c.applied > s.head or c.received < 0 or c.applied < 0
            or c.applied_up_to > s.head or c.applied_up_to < 0
        limit $1
        "#,
        MAX_PROBLEMS
    )
    .fetch_all(conn)
    .await?;
    problems.extend(rows.into_iter().map(|row| {
        format!(
            "gateway {:?}: the position of instance {:?} is {} (applied {}), outside 0..={}",
            row.name, row.instance, row.received, row.applied, row.head
        )
    }));
    Ok(())
}
