//! Moves rows out of the inbox. The transaction that deletes a row from the inbox also appends its
//! event or stores it as rejected, so after a crash a row is in exactly one place.

use std::collections::{BTreeSet, HashSet};

use super::super::dialect::{Connection, InboxStatements, query};
use super::super::log::append::{self, Grown};
use super::super::log::targets::{self, Targets};
use crate::event::GatewayKey;
use crate::store::limits::MAX_DELIVERIES;
use crate::store::{Drained, Publish, Published, Rejection, Result, ValidatedRow};

/// A row that still exists, as the request that publishes it.
type Taken = (i64, std::result::Result<Publish, Rejection>);

/// Moves rows, in this order, and also returns the streams that grew. Rows that would exceed the
/// limits of one transaction stay for the next call.
pub(super) async fn drain(
    conn: &mut Connection,
    rows: Vec<ValidatedRow>,
) -> Result<(Drained, Vec<Grown>)> {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    conn.lock_inbox().await?;
    // Other drains may have taken some since they were read.
    let there: HashSet<i64> = conn.lock_inbox_rows(&ids).await?.into_iter().collect();
    let mut taken: Vec<Taken> =
        rows.into_iter().filter(|row| there.contains(&row.id)).map(request).collect();
    let publishes: Vec<&Publish> = taken.iter().filter_map(|(_, row)| row.as_ref().ok()).collect();
    let mut targets = targets::resolve(conn, &publishes).await?;
    taken.truncate(rows_within_limit(&taken, &targets));
    let moved: Vec<i64> = taken.iter().map(|(id, _)| *id).collect();
    let mut rejected: Vec<(i64, Rejection)> = Vec::new();
    let mut good: Vec<(i64, Publish)> = Vec::new();
    for (id, row) in taken {
        match row {
            Ok(publish) => good.push((id, publish)),
            Err(rejection) => rejected.push((id, rejection)),
        }
    }
    let publishes: Vec<&Publish> = good.iter().map(|(_, publish)| publish).collect();
    let touched: BTreeSet<GatewayKey> = targets.gateways().collect();
    let now = targets.lock(conn, &touched).await?;
    let outcome = append::append(conn, now, &publishes, &targets).await?;
    let (mut appended, mut unmatched) = (0, Vec::new());
    for ((id, _), published) in good.iter().zip(outcome.published) {
        let result = match published {
            Published::Done(mut results) => results.pop(),
            // Impossible: a row has no idempotency key and is a single event.
            Published::KeyReused | Published::TooMany { .. } => None,
        };
        if let Some(Err(refusal)) = result {
            rejected.push((*id, refusal.into()));
            continue;
        }
        appended += 1;
        if result.is_some_and(|result| result.is_ok_and(|event| event.deliveries.is_empty())) {
            unmatched.push(*id);
        }
    }
    rejected.sort_unstable_by_key(|(id, _)| *id);
    if !rejected.is_empty() {
        conn.reject_inbox_rows(now, &rejected).await?;
    }
    take_out(conn, &moved).await?;
    Ok((Drained { appended, unmatched, rejected }, outcome.grown))
}

fn request(row: ValidatedRow) -> Taken {
    let publish = |(organisation, event)| Publish {
        organisation,
        events: vec![Ok(event)],
        idempotency: None,
    };
    (row.id, row.result.map(publish))
}

/// How many of the first rows result in no more deliveries than one transaction may write. At least
/// one, because the sequences of an event are assigned in one transaction.
fn rows_within_limit(rows: &[Taken], targets: &Targets) -> usize {
    let mut deliveries = 0;
    let fitting = rows.iter().take_while(|(_, row)| {
        deliveries += row.as_ref().map_or(0, |publish| targets.weight(publish));
        deliveries <= MAX_DELIVERIES
    });
    fitting.count().max(1)
}

async fn take_out(conn: &mut Connection, ids: &[i64]) -> Result<()> {
    let Some(last) = ids.iter().max().copied() else {
        return Ok(());
    };
    conn.delete_inbox_rows(ids).await?;
    query!("update inbox_progress set drained_to = $1 where drained_to < $1", last)
        .execute(conn)
        .await?;
    Ok(())
}
