//! Events of a time window, deliveries in a state, and a gateway's log with delivery states.

use gateway_events::clock::Timestamp;
use gateway_events::event::{GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use gateway_events::store::limits::LISTED_GATEWAYS;
use gateway_events::store::{
    DeliveryFilter, DeliveryKey, DeliveryState, EventCursor, EventFilter, EventOrder, EventPage,
    EventSummary, LogPage, LogRow, LogSpan, OutboxRow, Progress, PublishedTarget, Result,
    StatePage, StoreError, TimedKey, storable,
};

use super::tables::{EventRow, Key, Tables};

impl Tables {
    pub(super) fn browse_events(
        &self,
        organisation: OrganisationKey,
        filter: &EventFilter,
        cursor: Option<&EventCursor>,
        limit: usize,
    ) -> Result<EventPage> {
        let find = |id| self.any_key(organisation, id).ok_or(StoreError::NotFound("gateway"));
        let gateway = filter.gateway_id.map(find).transpose()?;
        let mut rows: Vec<(EventCursor, &EventRow)> = self
            .events
            .iter()
            .filter(|(_, row)| row.organisation == organisation && has(row, filter))
            .filter_map(|(event, row)| {
                let first = match gateway {
                    Some(gateway) => self.first_sequence(gateway, *event)?,
                    None => 0,
                };
                let place = match filter.order() {
                    EventOrder::Age => {
                        EventCursor::Age(TimedKey { at: row.appended_at, key: *event })
                    }
                    EventOrder::Log => EventCursor::Log(Sequence(first)),
                    EventOrder::Id => EventCursor::Id(row.event.id.to_string()),
                };
                Some((place, row))
            })
            .filter(|(place, _)| cursor.is_none_or(|last| is_below(place, last)))
            .collect();
        rows.sort_by(|(a, _), (b, _)| is_below(a, b).cmp(&is_below(b, a)));
        let limit = limit.max(1);
        rows.truncate(limit);
        let next = rows.last().filter(|_| rows.len() == limit).map(|(place, _)| place.clone());
        Ok(EventPage { rows: rows.iter().map(|(_, row)| summary(row)).collect(), next })
    }

    pub(super) fn deliveries_in_state(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryKey>,
        limit: usize,
    ) -> Result<StatePage> {
        let find = |id| self.any_key(organisation, id).ok_or(StoreError::NotFound("gateway"));
        let gateway = filter.gateway_id.map(find).transpose()?;
        let mut keys = Vec::new();
        for (key, event) in self.deliveries() {
            let Some(row) = self.events.get(&event) else { continue };
            let place = DeliveryKey { gateway: key.0, sequence: Sequence(key.1) };
            if row.organisation == organisation
                && gateway.is_none_or(|gateway| gateway == key.0)
                && filter.window.contains(row.appended_at)
                && filter.event_id.as_ref().is_none_or(|it| *it == row.event.id)
                && filter.event_type.as_ref().is_none_or(|it| *it == row.event.event_type)
                && filter.correlation_id.as_ref().is_none_or(|it| *it == row.event.correlation_id)
                && cursor.is_none_or(|last| place < last)
                && self.is_in(key, state)?
            {
                keys.push((place, key));
            }
        }
        keys.sort_unstable_by(|a, b| b.cmp(a));
        let limit = limit.max(1);
        keys.truncate(limit);
        let next = keys.last().filter(|_| keys.len() == limit).map(|(place, _)| *place);
        let rows = keys.iter().map(|(_, key)| self.delivery(*key)).collect::<Result<_>>()?;
        Ok(StatePage { rows, next })
    }

    /// Whether a delivery is in a state; all are in none.
    pub(super) fn is_in(&self, key: Key, state: Option<DeliveryState>) -> Result<bool> {
        Ok(match state {
            Some(state) => self.standing(key)?.state == state,
            None => true,
        })
    }

    /// The first sequence of an event in a gateway's log, including what was trimmed from it.
    fn first_sequence(&self, gateway: GatewayKey, event: i64) -> Option<i64> {
        let of = self.deliveries().filter(|((of, _), it)| *of == gateway && *it == event);
        of.map(|((_, sequence), _)| sequence).min()
    }

    pub(super) fn gateway_log(
        &self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>> {
        let Some(gateway) = self.gateway(now, organisation, id)? else { return Ok(None) };
        let mut rows = Vec::new();
        let mut progress = Progress::new(span);
        while progress.next.limit > 0 {
            let LogSpan { after, limit, max_bytes } = progress.next;
            let page = self.page(gateway.key, after, limit, max_bytes)?;
            let bytes = page.rows.iter().map(|row| row.event.payload.get().len()).sum();
            let (read, last) = (page.rows.len(), page.rows.last().map(|row| row.sequence));
            for OutboxRow { sequence, event, withheld } in page.rows {
                let delivery = self.standing((gateway.key, sequence.0))?;
                let Some(appended_at) = delivery.appended_at else { continue };
                let (state, is_purged) = (delivery.state, withheld == Some(Reason::Purged));
                rows.push(LogRow { sequence, event, appended_at, state, is_purged });
            }
            progress.advance(last, read, bytes, span.limit.saturating_sub(rows.len()));
        }
        Ok(Some(LogPage { gateway, rows }))
    }
}

fn has(row: &EventRow, filter: &EventFilter) -> bool {
    let event = &row.event;
    let is_text = |wanted: &Option<String>, is: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| is == Some(&*storable(wanted)))
    };
    filter.window.contains(row.appended_at)
        && filter.event_type.as_ref().is_none_or(|it| *it == event.event_type)
        && filter.correlation_id.as_ref().is_none_or(|it| *it == event.correlation_id)
        && filter.id_prefix.as_ref().is_none_or(|it| event.id.as_str().starts_with(it.as_str()))
        && is_text(&filter.user_id, event.user_id.as_deref())
        && is_text(&filter.artifact_id, row.artifact_id.as_deref())
        && is_text(&filter.deployment_id, row.deployment_id.as_deref())
}

/// Whether a place is below another one in the same order, and therefore listed after it.
fn is_below(place: &EventCursor, other: &EventCursor) -> bool {
    match (place, other) {
        (EventCursor::Age(place), EventCursor::Age(other)) => place < other,
        (EventCursor::Log(place), EventCursor::Log(other)) => place < other,
        (EventCursor::Id(place), EventCursor::Id(other)) => place < other,
        _ => false,
    }
}

fn summary(row: &EventRow) -> EventSummary {
    let event = &row.event;
    let mut target = row.target.clone();
    if let PublishedTarget::Gateways(ids) = &mut target {
        ids.truncate(usize::try_from(LISTED_GATEWAYS).unwrap_or(usize::MAX));
    }
    EventSummary {
        id: event.id.clone(),
        event_type: event.event_type.clone(),
        correlation_id: event.correlation_id.clone(),
        user_id: event.user_id.clone(),
        occurred_at: event.occurred_at,
        appended_at: row.appended_at,
        expires_at: event.expires_at,
        artifact_id: row.artifact_id.clone(),
        deployment_id: row.deployment_id.clone(),
        target: Some(target),
        matched: row.matched,
    }
}
