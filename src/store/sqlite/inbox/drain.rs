//! Moving rows out of the inbox: each leaves it in the very transaction that
//! puts it into the log or among the rejected, so that a crash finds it in one
//! place and never in two or none.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::super::append::{self, Grown};
use super::super::json;
use crate::clock::Timestamp;
use crate::store::{Drained, JudgedRow, Publish, Published, Rejection, Result};

/// Moves rows, in this order. Also answers what grew by it.
pub(super) async fn drain(
    connection: &mut SqliteConnection,
    now: Timestamp,
    rows: Vec<JudgedRow>,
) -> Result<(Drained, Vec<Grown>)> {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let there = still_there(connection, &ids).await?;
    let mut rejected: Vec<(i64, Rejection)> = Vec::new();
    let mut good: Vec<(i64, Publish)> = Vec::new();
    for row in rows.into_iter().filter(|row| there.contains(&row.id)) {
        match row.verdict {
            Ok((organisation, event)) => {
                let publish = Publish { organisation, events: vec![Ok(event)], idempotency: None };
                good.push((row.id, publish));
            }
            Err(rejection) => rejected.push((row.id, rejection)),
        }
    }
    let publishes: Vec<&Publish> = good.iter().map(|(_, publish)| publish).collect();
    let outcome = append::append(connection, now, &publishes).await?;
    let mut appended = 0;
    for ((id, _), answer) in good.iter().zip(outcome.answers) {
        let refusal = match answer {
            Published::Done(mut results) => results.pop().and_then(std::result::Result::err),
            // Only a request has a key.
            Published::KeyReused => None,
        };
        match refusal {
            None => appended += 1,
            Some(refusal) => rejected.push((*id, refusal.into())),
        }
    }
    rejected.sort_unstable_by_key(|(id, _)| *id);
    put_aside(connection, now, &rejected).await?;
    take_out(connection, &there).await?;
    Ok((Drained { appended, rejected }, outcome.grown))
}

/// Those that nobody has taken since they were read.
async fn still_there(connection: &mut SqliteConnection, ids: &[i64]) -> Result<HashSet<i64>> {
    let ids = json(ids)?;
    let there = sqlx::query_scalar!(
        r#"
        select i.id as "id!: i64" from json_each($1) as judged join inbox i on i.id = judged.value
        "#,
        ids
    )
    .fetch_all(connection)
    .await?;
    Ok(there.into_iter().collect())
}

/// Copies rows as they are, whatever stands in them.
async fn put_aside(
    connection: &mut SqliteConnection,
    now: Timestamp,
    rejected: &[(i64, Rejection)],
) -> Result<()> {
    if rejected.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = rejected
        .iter()
        .map(|(id, rejection)| (id, rejection.reason.as_str(), &rejection.detail))
        .collect();
    let (rows, now) = (json(&rows)?, now.micros());
    sqlx::query!(
        r#"
        insert into inbox_rejected (inbox_id, organisation, type, payload, gateway_id, target,
            event_id, correlation_id, user_id, expires_at, inserted_at, reason, detail, rejected_at)
        select i.id, i.organisation, i.type, i.payload, i.gateway_id, i.target,
            i.event_id, i.correlation_id, i.user_id, i.expires_at, i.inserted_at,
            r.value ->> 1, r.value ->> 2, $2
        from json_each($1) as r join inbox i on i.id = r.value ->> 0
        order by i.id
        "#,
        rows,
        now
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn take_out(connection: &mut SqliteConnection, ids: &HashSet<i64>) -> Result<()> {
    let Some(last) = ids.iter().max() else {
        return Ok(());
    };
    let ids = json(ids)?;
    sqlx::query!("delete from inbox where id in (select value from json_each($1))", ids)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("update inbox_progress set drained_to = max(drained_to, $1)", last)
        .execute(connection)
        .await?;
    Ok(())
}
