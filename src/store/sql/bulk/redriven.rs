//! The steps of a job that redrives.

use super::super::dialect::delivery_filter::Matching;
use super::super::dialect::redrive::Candidate;
use super::super::dialect::{Connection, NodeStatements};
use super::super::redrive::candidates::{self, Bounds};
use super::super::redrive::count_others;
use crate::event::OrganisationKey;
use crate::store::limits::BULK_REDRIVEN;
use crate::store::{DeliveryCursor, DeliveryFilter, DeliveryKey, RedriveCursor, Redriven, Result};

/// Searches that one chunk makes, at most, until one finds something to append.
const SEARCHES: usize = 20;

/// Matching deliveries that were counted, and where the next count begins.
pub(super) struct Counted {
    /// Those that need no redrive.
    pub(super) skipped: Redriven,
    /// The number of open dead letters.
    pub(super) open: i64,
    pub(super) next: Option<DeliveryCursor>,
}

/// What a search found for a chunk, and where the next one begins.
pub(super) struct Found {
    /// What it skips.
    pub(super) skipped: Redriven,
    /// What it appends.
    pub(super) chosen: Vec<DeliveryKey>,
    pub(super) next: Option<DeliveryKey>,
}

/// Counts the next matching deliveries.
pub(super) async fn count(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &DeliveryFilter,
    at: Option<DeliveryCursor>,
) -> Result<Counted> {
    let matching = Matching::new(conn, organisation, filter).await?;
    let mut skipped = Redriven::default();
    let (open, next) = count_others(conn, &matching, at, &mut skipped).await?;
    Ok(Counted { skipped, open, next })
}

/// The next dead letters to append. It passes those that don't match, as far as its bound allows.
pub(super) async fn dead_letters(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &DeliveryFilter,
    after: DeliveryKey,
) -> Result<Found> {
    let bounds = Bounds { looked_up: BULK_REDRIVEN, chosen: BULK_REDRIVEN, ..Bounds::REQUEST };
    let mut all = search(conn, organisation, filter, after, bounds).await?;
    for _ in 1..SEARCHES {
        let Some(after) = all.next.filter(|_| all.chosen.is_empty()) else { break };
        let found = search(conn, organisation, filter, after, bounds).await?;
        all.skipped.add(found.skipped);
        (all.chosen, all.next) = (found.chosen, found.next);
    }
    Ok(all)
}

async fn search(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &DeliveryFilter,
    after: DeliveryKey,
    bounds: Bounds,
) -> Result<Found> {
    let now = conn.now().await?;
    let matching = Matching::new(conn, organisation, filter).await?;
    let mut skipped = Redriven::default();
    let chosen = candidates::matching(conn, now, &matching, after, bounds, &mut skipped).await?;
    let next = match skipped.next.take() {
        Some(RedriveCursor::DeadLetters(place)) => Some(place),
        Some(RedriveCursor::Counting(_)) | None => None,
    };
    Ok(Found { skipped, chosen: chosen.iter().map(Candidate::key).collect(), next })
}
