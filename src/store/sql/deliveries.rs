//! Failed deliveries, newest first. The ledger stores ranges. This module reads them in pages,
//! expands them in memory, and returns each delivery once, at its newest failure that matches. The
//! work per call is bounded: a call that reaches the bound returns what it has found, and where to
//! continue.

use super::dialect::delivery_filter::{Matching, Outcomes, ScanPosition};
use super::dialect::{Connection, query_scalar};

use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey};
use crate::store::{
    DeliveryCursor, DeliveryFilter, DeliveryKey, DeliveryPage, DeliveryState, Result, StoreError,
    TimedKey,
};

pub(crate) mod details;
pub(crate) mod named;
pub(crate) mod newest;
pub(crate) mod scan;
pub(crate) mod states;
pub(crate) mod summary;
#[cfg(test)]
mod tests;

/// Rows read per call, at most, in the ledger, the logs and the events. The last round may exceed
/// it.
pub(super) const WORK: usize = 6_000;

impl Matching {
    /// Resolves the gateway. Includes deleted gateways, whose history is kept.
    pub(super) async fn new(
        conn: &mut Connection,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
    ) -> Result<Self> {
        let gateway = match filter.gateway_id {
            Some(id) => Some(any_key(conn, organisation, id).await?),
            None => None,
        };
        Ok(Self { organisation, gateway, filter: filter.clone(), outcomes: Outcomes::Failed })
    }
}

impl ScanPosition {
    /// When the attempt finished, and its key.
    pub(super) const fn attempt(self) -> TimedKey {
        TimedKey { at: self.finished_at, key: self.attempt }
    }

    /// Before the newest row.
    pub(super) const START: Self = Self {
        finished_at: Timestamp::from_micros(i64::MAX),
        attempt: i64::MAX,
        sequence: i64::MAX,
    };

    /// The cursor of the page that starts here, in the snapshot `as_of`.
    pub(super) const fn cursor(self, as_of: i64) -> DeliveryCursor {
        DeliveryCursor {
            as_of,
            finished_at: self.finished_at.micros(),
            attempt: self.attempt,
            sequence: self.sequence,
        }
    }
}

/// A delivery at one of its failures.
pub(super) struct Candidate {
    pub(super) key: DeliveryKey,
    pub(super) position: ScanPosition,
}

/// A page of keys, and how far the ledger was examined if there is more.
pub(super) struct Keys {
    pub(super) keys: Vec<DeliveryKey>,
    pub(super) next: Option<ScanPosition>,
}

pub(super) async fn failed_deliveries(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &DeliveryFilter,
    cursor: Option<DeliveryCursor>,
    limit: usize,
) -> Result<DeliveryPage> {
    let matching = Matching::new(conn, organisation, filter).await?;
    let (as_of, start) = begin(conn, cursor).await?;
    let Keys { keys, next } = failed_keys(conn, &matching, as_of, start, limit).await?;
    Ok(DeliveryPage {
        rows: details::deliveries(conn, &keys).await?,
        next: next.map(|position| position.cursor(as_of)),
    })
}

/// Deliveries with an attempt in the window, newest attempt first, that are in a state now. The
/// filter names no events.
pub(super) async fn deliveries_by_outcome(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: &DeliveryFilter,
    state: Option<DeliveryState>,
    cursor: Option<DeliveryCursor>,
    limit: usize,
) -> Result<DeliveryPage> {
    let matching = Matching::new(conn, organisation, filter).await?;
    let matching = Matching { outcomes: Outcomes::Any(state), ..matching };
    let (as_of, start) = begin(conn, cursor).await?;
    let limit = limit.clamp(1, WORK);
    let Keys { keys, next } = scan::keys(conn, &matching, as_of, start, limit, WORK).await?;
    Ok(DeliveryPage {
        rows: details::deliveries(conn, &keys).await?,
        next: next.map(|position| position.cursor(as_of)),
    })
}

/// Where a page begins, and the last attempt that belongs to the snapshot.
pub(super) async fn begin(
    conn: &mut Connection,
    cursor: Option<DeliveryCursor>,
) -> Result<(i64, ScanPosition)> {
    Ok(match cursor {
        Some(at) => {
            let finished_at = Timestamp::from_micros(at.finished_at);
            (at.as_of, ScanPosition { finished_at, attempt: at.attempt, sequence: at.sequence })
        }
        None => (newest_attempt(conn).await?, ScanPosition::START),
    })
}

/// The keys of failed deliveries after `start`, newest failure first.
pub(super) async fn failed_keys(
    conn: &mut Connection,
    matching: &Matching,
    as_of: i64,
    start: ScanPosition,
    limit: usize,
) -> Result<Keys> {
    let limit = limit.clamp(1, WORK);
    if matching.filter.names_events() {
        named::keys(conn, matching, as_of, start, limit).await
    } else {
        scan::keys(conn, matching, as_of, start, limit, WORK).await
    }
}

/// The newest attempt on record. Later ones do not belong to the snapshot.
async fn newest_attempt(conn: &mut Connection) -> Result<i64> {
    Ok(query_scalar!(r#"select coalesce(max(attempt), 0) as "newest!: i64" from attempts"#)
        .fetch_one(conn)
        .await?)
}

/// The key of a gateway, which may be deleted.
pub(super) async fn any_key(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<GatewayKey> {
    query_scalar!(
        r#"select gateway as "gateway!: i64" from gateways where id = $1 and organisation = $2"#,
        id as _,
        organisation.0
    )
    .fetch_optional(conn)
    .await?
    .map(GatewayKey)
    .ok_or(StoreError::NotFound("gateway"))
}
