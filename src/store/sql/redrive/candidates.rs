//! Finds dead letters that can be redriven. It searches the dead letters, not the ledger, in the
//! order of their sequences and a bounded part at a time. If the filter names events, it starts
//! from these.

use super::super::deliveries::newest::{self, Failures};
use super::super::dialect::delivery_filter::Matching;
use super::super::dialect::redrive::Candidate;
use super::super::dialect::{Connection, DeliveryFilterStatements, RedriveStatements};
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayKey, Sequence};
use crate::store::limits::{REDRIVE_DEAD_LETTERS, REDRIVE_LOOKED_UP, REDRIVEN};
use crate::store::{DeliveryKey, RedriveCursor, Redriven, Result};

impl Candidate {
    pub(crate) const fn key(&self) -> DeliveryKey {
        DeliveryKey { gateway: self.gateway, sequence: Sequence(self.sequence) }
    }

    /// The event's id, if its payload was purged.
    pub(super) fn purged(&self) -> Option<&EventId> {
        self.event_id.as_ref().filter(|_| self.is_purged)
    }

    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// How much one search examines and chooses, at most.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Ranges of dead letters that are read.
    pub(crate) ranges: i64,
    /// Deliveries that are looked up.
    pub(crate) looked_up: usize,
    /// Deliveries that are chosen.
    pub(crate) chosen: usize,
}

impl Bounds {
    /// Those of a request.
    pub(crate) const REQUEST: Self =
        Self { ranges: REDRIVE_DEAD_LETTERS, looked_up: REDRIVE_LOOKED_UP, chosen: REDRIVEN };
}

/// What one call examines, and where the next one continues.
struct Page {
    keys: Vec<DeliveryKey>,
    next: Option<DeliveryKey>,
}

/// Dead letters after a position with a failed attempt that matches, within the bounds. Counts those
/// that can't be redriven.
pub(crate) async fn matching(
    conn: &mut Connection,
    now: Timestamp,
    matching: &Matching,
    after: DeliveryKey,
    bounds: Bounds,
    answer: &mut Redriven,
) -> Result<Vec<Candidate>> {
    let gateway = matching.gateway.unwrap_or(GatewayKey(0));
    let after = after.max(DeliveryKey { gateway, sequence: Sequence::ZERO });
    let stretch = if matching.filter.names_events() {
        named(conn, matching, after, bounds).await?
    } else {
        let mut page = dead_letter_page(conn, matching, after, bounds).await?;
        if matching.filter.selects_events() {
            page.keys = conn.deliveries_with_events(matching, &page.keys).await?;
        }
        page
    };
    answer.next = stretch.next.map(RedriveCursor::DeadLetters);
    let open = conn.open_deliveries(&stretch.keys).await?;
    let keys: Vec<DeliveryKey> = open.iter().map(Candidate::key).collect();
    let Failures { newest: failed, .. } = newest::failures(conn, matching, i64::MAX, &keys).await?;
    let mut chosen = Vec::new();
    let mut examined = after;
    for candidate in open.into_iter().filter(|one| failed.contains_key(&one.key())) {
        let key = candidate.key();
        if candidate.event.is_none() {
            answer.event_removed += 1;
        } else if candidate.is_purged {
            answer.payload_purged += 1;
        } else if candidate.has_expired(now) {
            answer.expired += 1;
        } else if chosen.len() < bounds.chosen {
            chosen.push(candidate);
        } else {
            // The next call starts with this one.
            answer.next = Some(RedriveCursor::DeadLetters(examined));
            break;
        }
        examined = key;
    }
    Ok(chosen)
}

/// The next dead letters, range by range.
async fn dead_letter_page(
    conn: &mut Connection,
    matching: &Matching,
    after: DeliveryKey,
    bounds: Bounds,
) -> Result<Page> {
    let up_to = matching.gateway.unwrap_or(GatewayKey(i64::MAX));
    let organisation = matching.organisation;
    let found = conn.open_dead_letters(organisation, after, up_to, bounds.ranges).await?;
    let mut keys = Vec::new();
    let mut reached = after;
    for letter in &found {
        let cut = if letter.gateway == after.gateway.0 { after.sequence.0 + 1 } else { 0 };
        for sequence in letter.first.max(cut)..=letter.last {
            if !letter.matches {
                break;
            }
            if keys.len() == bounds.looked_up {
                return Ok(Page { keys, next: Some(reached) });
            }
            reached = DeliveryKey::new(letter.gateway, sequence);
            keys.push(reached);
        }
        reached = DeliveryKey::new(letter.gateway, letter.last);
    }
    let is_all = i64::try_from(found.len()).is_ok_and(|count| count < bounds.ranges);
    Ok(Page { keys, next: (!is_all).then_some(reached) })
}

/// The next deliveries of the named events, dead or not.
async fn named(
    conn: &mut Connection,
    matching: &Matching,
    after: DeliveryKey,
    bounds: Bounds,
) -> Result<Page> {
    let limit = i64::try_from(bounds.looked_up).unwrap_or(i64::MAX);
    let keys = conn.deliveries_of_events(matching, after, limit).await?;
    let next = keys.last().filter(|_| keys.len() == bounds.looked_up).copied();
    Ok(Page { keys, next })
}
