//! Failed deliveries of an event id or correlation id. Finds the events, then their log rows, then
//! the attempts that cover these, however old they are.

use super::super::dialect::delivery_filter::Failure;
use super::super::dialect::{Connection, DeliveryFilterStatements};

use super::{Keys, Matching, ScanPosition};
use crate::store::{DeliveryKey, Result};

pub(super) async fn keys(
    conn: &mut Connection,
    matching: &Matching,
    as_of: i64,
    start: ScanPosition,
    limit: usize,
) -> Result<Keys> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = conn.failures_of_events(matching, as_of, start, most).await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(Failure::position);
    let keys = rows.iter().map(|row| DeliveryKey::new(row.gateway, row.sequence)).collect();
    Ok(Keys { keys, next })
}

impl Failure {
    const fn position(&self) -> ScanPosition {
        ScanPosition {
            finished_at: self.finished_at,
            attempt: self.attempt,
            sequence: self.sequence,
        }
    }
}
