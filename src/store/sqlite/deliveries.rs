//! Failed deliveries, newest first. The ledger holds ranges; this room walks
//! them in pages, expands them in memory and shows each delivery once, at its
//! newest failure that matches. It refuses to work without a bound: a call that
//! has looked at enough hands back what it has, and where to go on.

use sqlx::SqliteConnection;

use super::gateways::parsed;
use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};
use crate::store::{DeliveryCursor, DeliveryFilter, DeliveryPage, Result, StoreError};

pub(super) mod details;
#[cfg(test)]
pub(super) mod fixture;
pub(super) mod named;
mod newest;
mod scan;
pub(super) mod summary;
#[cfg(test)]
mod tests;

/// Ledger rows looked at per call, and deliveries expanded per call, at the most.
pub(super) const WORK: usize = 20_000;

/// The longest range that an attempt covers (the schema checks it), so that the
/// attempts at a sequence are found within this many first sequences below it.
pub(super) const LONGEST_RANGE: i64 = 1000;

/// One delivery: gateway (inside key) and sequence.
pub(super) type Key = (i64, i64);

/// A filter in the shape that statements bind.
pub(super) struct Matching {
    pub(super) organisation: i64,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) gateway: Option<i64>,
    pub(super) reason: Option<&'static str>,
    pub(super) event_type: Option<String>,
    pub(super) event_id: Option<String>,
    pub(super) correlation_id: Option<String>,
}

impl Matching {
    /// Resolves the gateway; deleted ones are found too, for their history stays.
    pub(super) async fn new(
        connection: &mut SqliteConnection,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
    ) -> Result<Self> {
        let gateway = match filter.gateway_id {
            Some(id) => Some(any_key(connection, organisation, id).await?),
            None => None,
        };
        Ok(Self {
            organisation: organisation.0,
            from: filter.from.map_or(i64::MIN, Timestamp::micros),
            to: filter.to.map_or(i64::MAX, Timestamp::micros),
            gateway,
            reason: filter.reason.map(crate::event::Reason::as_str),
            event_type: filter.event_type.as_ref().map(ToString::to_string),
            event_id: filter.event_id.as_ref().map(ToString::to_string),
            correlation_id: filter.correlation_id.as_ref().map(ToString::to_string),
        })
    }

    /// Whether it names events, which are then the shortest way in.
    pub(super) fn names_events(&self) -> bool {
        self.event_id.is_some() || self.correlation_id.is_some()
    }
}

/// A place in the order of the answer. What lies behind it is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) finished_at: i64,
    pub(super) attempt: i64,
    pub(super) sequence: i64,
}

impl Place {
    /// Before the newest row of all.
    pub(super) const START: Self =
        Self { finished_at: i64::MAX, attempt: i64::MAX, sequence: i64::MAX };
}

/// A delivery at one of its failures.
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) place: Place,
}

/// A page of keys, and how far the ledger was looked at when there is more.
pub(super) struct Keys {
    pub(super) keys: Vec<Key>,
    pub(super) next: Option<Place>,
}

pub(super) async fn failed_deliveries(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    filter: &DeliveryFilter,
    cursor: Option<DeliveryCursor>,
    limit: usize,
) -> Result<DeliveryPage> {
    let matching = Matching::new(connection, organisation, filter).await?;
    let (as_of, start) = match cursor {
        Some(at) => {
            let place =
                Place { finished_at: at.finished_at, attempt: at.attempt, sequence: at.sequence };
            (at.as_of, place)
        }
        None => (newest_attempt(connection).await?, Place::START),
    };
    let Keys { keys, next } = failed_keys(connection, &matching, as_of, start, limit).await?;
    Ok(DeliveryPage {
        rows: details::deliveries(connection, &keys).await?,
        next: next.map(|place| DeliveryCursor {
            as_of,
            finished_at: place.finished_at,
            attempt: place.attempt,
            sequence: place.sequence,
        }),
    })
}

/// The keys of failed deliveries behind `start`, newest failure first.
pub(super) async fn failed_keys(
    connection: &mut SqliteConnection,
    matching: &Matching,
    as_of: i64,
    start: Place,
    limit: usize,
) -> Result<Keys> {
    let limit = limit.clamp(1, WORK);
    if matching.names_events() {
        named::keys(connection, matching, as_of, start, limit).await
    } else {
        scan::keys(connection, matching, as_of, start, limit, WORK).await
    }
}

/// The newest attempt on record: what comes later is not part of the picture.
pub(super) async fn newest_attempt(connection: &mut SqliteConnection) -> Result<i64> {
    Ok(sqlx::query_scalar!(r#"select coalesce(max(attempt), 0) as "newest!: i64" from attempts"#)
        .fetch_one(connection)
        .await?)
}

async fn any_key(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: GatewayId,
) -> Result<i64> {
    let id = id.to_string();
    sqlx::query_scalar!(
        r#"select gateway as "gateway!: i64" from gateways where id = $1 and organisation = $2"#,
        id,
        organisation.0
    )
    .fetch_optional(connection)
    .await?
    .ok_or(StoreError::NotFound("gateway"))
}

/// Reads an optional text that this service wrote itself.
pub(super) fn maybe<T: std::str::FromStr>(what: &str, text: Option<&str>) -> Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    text.map(|text| parsed(what, text)).transpose()
}

/// Keys as one JSON parameter.
pub(super) fn as_json(keys: &[Key]) -> Result<String> {
    serde_json::to_string(keys).map_err(|error| StoreError::Corrupt(format!("keys: {error}")))
}
