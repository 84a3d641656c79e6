//! Events of a time window. A list is read along one index, in rounds; each round marks the events
//! that match the other conditions. The work per call is bounded: a call that reaches the bound
//! returns what it has found, and where to continue.
//!
//! Which index that is depends on the filter. An artifact, a user, an id's beginning and the window
//! have an index of their own; a gateway has its log. A correlation id or a deployment usually has
//! few events, which are read at once.

use super::super::deliveries::any_key;
use super::super::dialect::browse::{EventMatching, Examined, SummaryRow};
use super::super::dialect::{BrowseStatements, Connection, query_as, query_scalar};
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::{
    EventCursor, EventFilter, EventOrder, EventPage, EventSummary, PublishedTarget, Result,
    TimedKey,
};

#[cfg(test)]
mod tests;

/// Events examined per call, at most.
const WORK: usize = 5_000;
/// Events examined per round, at most: a narrow filter needs many rounds.
const ROUND: usize = 2_000;
/// Events examined in excess of the page in the first round; later rounds double.
const SPARE: usize = 32;
/// Events of a correlation id or a deployment that are read at once. More are found like those of
/// other filters.
const FEW: usize = 1_000;

/// The keys of a page, and where the next one begins.
struct Keys {
    keys: Vec<i64>,
    next: Option<EventCursor>,
}

pub(crate) async fn events(
    conn: &mut Connection,
    organisation: OrganisationKey,
    filter: EventFilter,
    cursor: Option<EventCursor>,
    limit: usize,
) -> Result<EventPage> {
    let gateway = match filter.gateway_id {
        Some(id) => Some(any_key(conn, organisation, id).await?),
        None => None,
    };
    let matching = EventMatching { organisation, gateway, filter };
    let limit = limit.clamp(1, WORK);
    let Keys { keys, next } = match few(conn, &matching, cursor.as_ref(), limit).await? {
        Some(keys) => keys,
        None => scan(conn, &matching, cursor, limit, WORK).await?,
    };
    Ok(EventPage { rows: summaries(conn, &keys).await?, next })
}

/// The events of a correlation id or a deployment; `None` if the filter has neither, or if there
/// are many.
async fn few(
    conn: &mut Connection,
    matching: &EventMatching,
    cursor: Option<&EventCursor>,
    limit: usize,
) -> Result<Option<Keys>> {
    let filter = &matching.filter;
    let is_named = filter.correlation_id.is_some() || filter.deployment_id.is_some();
    if !is_named || filter.order() != EventOrder::Age {
        return Ok(None);
    }
    let most = i64::try_from(FEW + 1).unwrap_or(i64::MAX);
    let mut rows = conn.events_named(matching, most).await?;
    if rows.len() > FEW {
        return Ok(None);
    }
    rows.retain(|row| row.matches);
    let mut places: Vec<TimedKey> =
        rows.into_iter().map(|row| TimedKey { at: row.appended_at, key: row.event }).collect();
    if let Some(EventCursor::Age(last)) = cursor {
        places.retain(|place| place < last);
    }
    places.sort_unstable_by(|a, b| b.cmp(a));
    let is_last = places.len() <= limit;
    places.truncate(limit);
    let next = places.last().filter(|_| !is_last).copied().map(EventCursor::Age);
    Ok(Some(Keys { keys: places.into_iter().map(|place| place.key).collect(), next }))
}

/// Examines the events after a cursor, or from the beginning of the list.
async fn scan(
    conn: &mut Connection,
    matching: &EventMatching,
    cursor: Option<EventCursor>,
    limit: usize,
    work: usize,
) -> Result<Keys> {
    let mut keys = Vec::new();
    let mut at = match cursor {
        Some(at) => at,
        None => start(conn, matching).await?,
    };
    let (mut left, mut most) = (work, limit.saturating_add(SPARE));
    while left > 0 {
        let size = most.min(ROUND).min(left);
        most = most.saturating_mul(2);
        let rows = round(conn, matching, &at, size).await?;
        left -= rows.len().min(left);
        let was_last = rows.len() < size;
        for row in rows {
            if row.is_past {
                return Ok(Keys { keys, next: None });
            }
            at = match at {
                EventCursor::Age(_) => {
                    EventCursor::Age(TimedKey { at: row.appended_at, key: row.event })
                }
                EventCursor::Log(_) => EventCursor::Log(row.sequence),
                EventCursor::Id(_) => EventCursor::Id(row.id.to_string()),
            };
            if row.matches && !row.is_repeat {
                keys.push(row.event);
                if keys.len() == limit {
                    // The next call finds out whether anything follows.
                    return Ok(Keys { keys, next: Some(at) });
                }
            }
        }
        if was_last {
            return Ok(Keys { keys, next: None });
        }
    }
    Ok(Keys { keys, next: Some(at) })
}

async fn round(
    conn: &mut Connection,
    matching: &EventMatching,
    at: &EventCursor,
    size: usize,
) -> Result<Vec<Examined>> {
    let limit = i64::try_from(size).unwrap_or(i64::MAX);
    match at {
        EventCursor::Age(before) => conn.events_by_age(matching, *before, limit).await,
        EventCursor::Log(before) => conn.events_of_log(matching, *before, limit).await,
        EventCursor::Id(before) => conn.events_by_id(matching, before, limit).await,
    }
}

/// Where the list begins.
async fn start(conn: &mut Connection, matching: &EventMatching) -> Result<EventCursor> {
    let filter = &matching.filter;
    Ok(match (filter.order(), &filter.id_prefix, matching.gateway) {
        // Ids are visible ASCII, which all precedes U+007F.
        (EventOrder::Id, Some(prefix), _) => EventCursor::Id(format!("{prefix}\u{7f}")),
        (EventOrder::Log, _, Some(gateway)) => {
            let end = end_of_log(conn, gateway, filter.window.to()).await?;
            EventCursor::Log(end.max(last_resent(conn, gateway).await?.next()))
        }
        _ => EventCursor::Age(TimedKey { at: filter.window.to(), key: 0 }),
    })
}

/// A sequence that all of a log's first deliveries before `to` precede. Sequences are assigned in
/// the order of appending, so it is found by bisection. A redrive appears to be older than its
/// neighbours, which makes the result too high and never too low.
pub(crate) async fn end_of_log(
    conn: &mut Connection,
    gateway: GatewayKey,
    to: Timestamp,
) -> Result<Sequence> {
    let Some(newest) = logged(conn, gateway, Sequence::MAX).await? else {
        return Ok(Sequence::ZERO);
    };
    if newest.appended_at < to {
        return Ok(newest.sequence.next());
    }
    let (mut low, mut high) = (0, newest.sequence.0);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match logged(conn, gateway, Sequence(middle)).await? {
            Some(row) if row.appended_at >= to => high = row.sequence.0.max(low + 1),
            _ => low = middle,
        }
    }
    Ok(Sequence(high))
}

/// The last sequence of a log whose event was resent to this gateway: it is listed at that place,
/// however old it is. 0 if there is none.
async fn last_resent(conn: &mut Connection, gateway: GatewayKey) -> Result<Sequence> {
    Ok(query_scalar!(
        r#"
        select coalesce(max(sequence), 0) as "last!: Sequence" from (
            select max(sequence) as sequence from outbox
            where gateway = $1 and repeats is null and appended_at is not null
            union all
            select max(sequence) from trimmed
            where gateway = $1 and repeats is null and appended_at is not null
        ) as resent
        "#,
        gateway.0
    )
    .fetch_one(conn)
    .await?)
}

/// A delivery in a log, or trimmed from it.
struct Logged {
    sequence: Sequence,
    appended_at: Timestamp,
}

/// The last delivery up to a sequence.
async fn logged(
    conn: &mut Connection,
    gateway: GatewayKey,
    up_to: Sequence,
) -> Result<Option<Logged>> {
    // All sequences in the log are above the trimmed ones.
    Ok(query_as!(
        Logged,
        r#"
        select d.sequence as "sequence!: Sequence", e.appended_at as "appended_at!: Timestamp"
        from (
            select coalesce(
                (select max(sequence) from outbox where gateway = $1 and sequence <= $2),
                (select max(sequence) from trimmed where gateway = $1 and sequence <= $2)
            ) as sequence
        ) as d
        join events e on e.event = coalesce(
            (select event from outbox where gateway = $1 and sequence = d.sequence),
            (select event from trimmed where gateway = $1 and sequence = d.sequence)
        )
        "#,
        gateway.0,
        up_to.0
    )
    .fetch_optional(conn)
    .await?)
}

async fn summaries(conn: &mut Connection, events: &[i64]) -> Result<Vec<EventSummary>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    Ok(conn.event_summaries(events).await?.into_iter().map(SummaryRow::summary).collect())
}

impl SummaryRow {
    fn summary(self) -> EventSummary {
        let gateways = self.gateways.unwrap_or_default();
        let gateways: Vec<GatewayId> =
            gateways.split(',').filter_map(|id| id.parse().ok()).collect();
        let target = self.target.and_then(|stored| PublishedTarget::read(&stored, gateways));
        EventSummary {
            id: self.id,
            event_type: self.event_type,
            correlation_id: self.correlation_id,
            user_id: self.user_id,
            occurred_at: self.occurred_at,
            appended_at: self.appended_at,
            expires_at: self.expires_at,
            artifact_id: self.artifact_id,
            deployment_id: self.deployment_id,
            target,
            matched: self.matched,
        }
    }
}
