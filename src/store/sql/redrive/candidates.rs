//! Finds dead letters that can be redriven. It searches the dead letters, not the ledger, in the
//! order of their sequences and a bounded part at a time. If the filter names events, it starts
//! from these.

use super::super::deliveries::newest::{self, Failures};
use super::super::dialect::deliveries::Matching;
use super::super::dialect::redrive::Candidate;
use super::super::dialect::{Connection, RedriveStatements};
use crate::clock::Timestamp;
use crate::event::{EventType, GatewayKey, Sequence};
use crate::store::limits::{REDRIVE_DEAD_LETTERS, REDRIVE_LOOKED_UP};
use crate::store::{DeliveryKey, RedriveCursor, Redriven, Result};

impl Candidate {
    pub(super) const fn key(&self) -> DeliveryKey {
        DeliveryKey { gateway: self.gateway, sequence: Sequence(self.sequence) }
    }

    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What one call examines, and where the next one continues.
struct Stretch {
    keys: Vec<DeliveryKey>,
    next: Option<DeliveryKey>,
}

/// Dead letters after a position with a failed attempt that matches, at most `most`. Counts those
/// that can't be redriven.
pub(super) async fn matching(
    conn: &mut Connection,
    now: Timestamp,
    matching: &Matching,
    after: DeliveryKey,
    most: usize,
    answer: &mut Redriven,
) -> Result<Vec<Candidate>> {
    let gateway = matching.gateway.unwrap_or(GatewayKey(0));
    let after = after.max(DeliveryKey { gateway, sequence: Sequence::ZERO });
    let stretch = if matching.names_events() {
        named(conn, matching, after).await?
    } else {
        letters(conn, matching, after).await?
    };
    answer.next = stretch.next.map(RedriveCursor::DeadLetters);
    let open = conn.open_deliveries(&stretch.keys).await?;
    let wanted = matching.filter.event_type.as_ref().map(EventType::as_str);
    let is_wanted = |it: &Candidate| wanted.is_none() || it.event_type.as_deref() == wanted;
    let open: Vec<Candidate> = open.into_iter().filter(is_wanted).collect();
    let keys: Vec<DeliveryKey> = open.iter().map(Candidate::key).collect();
    let Failures { newest: failed, .. } = newest::failures(conn, matching, i64::MAX, &keys).await?;
    let mut chosen = Vec::new();
    for candidate in open.into_iter().filter(|one| failed.contains_key(&one.key())) {
        if candidate.event.is_none() {
            answer.event_removed += 1;
        } else if candidate.has_expired(now) {
            answer.expired += 1;
        } else if chosen.len() < most {
            chosen.push(candidate);
        } else {
            // The next call starts with this one.
            answer.next = chosen.last().map(Candidate::key).map(RedriveCursor::DeadLetters);
            break;
        }
    }
    Ok(chosen)
}

/// The next dead letters, range by range.
async fn letters(
    conn: &mut Connection,
    matching: &Matching,
    after: DeliveryKey,
) -> Result<Stretch> {
    let up_to = matching.gateway.unwrap_or(GatewayKey(i64::MAX));
    let organisation = matching.organisation;
    let found = conn.open_dead_letters(organisation, after, up_to, REDRIVE_DEAD_LETTERS).await?;
    let mut keys = Vec::new();
    let mut reached = after;
    for letter in &found {
        let cut = if letter.gateway == after.gateway.0 { after.sequence.0 + 1 } else { 0 };
        for sequence in letter.first.max(cut)..=letter.last {
            if !letter.matches {
                break;
            }
            if keys.len() == REDRIVE_LOOKED_UP {
                return Ok(Stretch { keys, next: Some(reached) });
            }
            reached = DeliveryKey::new(letter.gateway, sequence);
            keys.push(reached);
        }
        reached = DeliveryKey::new(letter.gateway, letter.last);
    }
    let is_all = i64::try_from(found.len()).is_ok_and(|count| count < REDRIVE_DEAD_LETTERS);
    Ok(Stretch { keys, next: (!is_all).then_some(reached) })
}

/// The next deliveries of the named events, dead or not.
async fn named(conn: &mut Connection, matching: &Matching, after: DeliveryKey) -> Result<Stretch> {
    let limit = i64::try_from(REDRIVE_LOOKED_UP).unwrap_or(i64::MAX);
    let keys = conn.deliveries_of_events(matching, after, limit).await?;
    let next = keys.last().filter(|_| keys.len() == REDRIVE_LOOKED_UP).copied();
    Ok(Stretch { keys, next })
}
