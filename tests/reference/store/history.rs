//! The history of one event, and the totals of an organisation.

use std::sync::Arc;

use gateway_events::event::{EventId, OrganisationKey};
use gateway_events::store::supersession::BARRIER;
use gateway_events::store::{EventHistory, Result, Totals};

use super::tables::Tables;

impl Tables {
    pub(super) fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>> {
        let Some(event) = self.event_keys.get(&(organisation, id.clone())) else {
            return Ok(None);
        };
        let Some(row) = self.events.get(event) else { return Ok(None) };
        let mut collapse_key = None;
        let mut keys = Vec::new();
        for (key, _) in self.deliveries().filter(|(_, of)| of == event) {
            keys.push((&self.gateway_row(key.0)?.name, key.1, key.0));
            collapse_key = collapse_key.or_else(|| self.collapse_keys.get(&key).cloned());
        }
        keys.sort_unstable();
        let deliveries = keys.into_iter().map(|(_, sequence, of)| self.delivery((of, sequence)));
        Ok(Some(EventHistory {
            event: Arc::clone(&row.event),
            appended_at: row.appended_at,
            target: Some(row.target.clone()),
            matched: row.matched,
            collapse_key: collapse_key.filter(|key| key != BARRIER),
            purged: row.purged.clone(),
            deliveries: deliveries.collect::<Result<_>>()?,
        }))
    }

    /// Confirmed and failed deliveries of deleted gateways are included; pending ones and dead
    /// letters are not.
    pub(super) fn totals(&self, organisation: OrganisationKey) -> Result<Totals> {
        let mut totals = Totals {
            confirmed: 0,
            failed_attempts: 0,
            dead_letters: 0,
            pending: 0,
            last_failure: None,
        };
        for (gateway, row) in &self.gateways {
            if row.organisation != organisation {
                continue;
            }
            let stream = &row.stream;
            totals.confirmed += stream.confirmed_total;
            totals.failed_attempts += stream.failed_total;
            if let Some((at, _)) = stream.last_failure
                && totals.last_failure.is_none_or(|(last, _)| last < at)
            {
                totals.last_failure = stream.last_failure;
            }
            if row.deleted_at.is_none() {
                totals.dead_letters += stream.dead_total;
                let pending = self.pending(*gateway)?;
                totals.pending += i64::try_from(pending.len()).unwrap_or(i64::MAX);
            }
        }
        Ok(totals)
    }
}
