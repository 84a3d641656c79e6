//! Moving rows out of the inbox: each leaves it in the very transaction that
//! puts it into the log or among the rejected, so that a crash finds it in one
//! place and never in two or none.

use std::collections::{BTreeSet, HashSet};

use super::super::append::{self, Grown};
use super::super::dialect::{self, Connection, query};
use super::super::targets;
use crate::event::GatewayKey;
use crate::store::{Drained, JudgedRow, Publish, Published, Rejection, Result};

/// Moves rows, in this order. Also answers what grew by it.
pub(super) async fn drain(
    connection: &mut Connection,
    rows: Vec<JudgedRow>,
) -> Result<(Drained, Vec<Grown>)> {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    dialect::lock_inbox(connection).await?;
    // Those that nobody has taken since they were read.
    let there: HashSet<i64> = dialect::take_inbox(connection, &ids).await?.into_iter().collect();
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
    let mut targets = targets::resolve(connection, &publishes).await?;
    let touched: BTreeSet<GatewayKey> = targets.gateways().collect();
    if dialect::lock_streams(connection, &touched).await? {
        targets.keep_only(&dialect::still_there(connection, &touched).await?);
    }
    // Asked when the locks are held, as for every other append.
    let now = dialect::clock(connection).await?;
    let outcome = append::append(connection, now, &publishes, &targets).await?;
    let mut appended = 0;
    for ((id, _), answer) in good.iter().zip(outcome.answers) {
        let refusal = match answer {
            Published::Done(mut results) => results.pop().and_then(std::result::Result::err),
            // A row has no key, and is a single event.
            Published::KeyReused | Published::TooMany { .. } => None,
        };
        match refusal {
            None => appended += 1,
            Some(refusal) => rejected.push((*id, refusal.into())),
        }
    }
    rejected.sort_unstable_by_key(|(id, _)| *id);
    if !rejected.is_empty() {
        dialect::put_aside(connection, now, &rejected).await?;
    }
    take_out(connection, &there).await?;
    Ok((Drained { appended, rejected }, outcome.grown))
}

async fn take_out(connection: &mut Connection, ids: &HashSet<i64>) -> Result<()> {
    let Some(last) = ids.iter().max().copied() else {
        return Ok(());
    };
    let ids: Vec<i64> = ids.iter().copied().collect();
    dialect::delete_from_inbox(connection, &ids).await?;
    query!("update inbox_progress set drained_to = $1 where drained_to < $1", last)
        .execute(connection)
        .await?;
    Ok(())
}
