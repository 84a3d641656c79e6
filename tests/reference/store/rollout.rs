//! Rollouts.

use std::collections::BTreeMap;

use gateway_events::event::{OrganisationKey, Sequence};
use gateway_events::store::rollout::{self, RolloutRow, is_reported};
use gateway_events::store::{
    Confirmation, DeliveryKey, Level, Outcome, Result, Rollout, RolloutEvent, RolloutOf,
};

use super::tables::{EventRow, Key, Tables};

impl Tables {
    pub(super) fn rollout(&self, organisation: OrganisationKey, of: &RolloutOf) -> Result<Rollout> {
        let is_of = |row: &EventRow| {
            row.organisation == organisation
                && match of {
                    RolloutOf::Event(id) => row.event.id == *id,
                    RolloutOf::Correlation(id) => row.event.correlation_id == *id,
                }
        };
        let (mut events, mut rows) = (Vec::new(), Vec::new());
        let mut all_filtered = BTreeMap::new();
        for (key, row) in self.events.iter().filter(|(_, row)| is_of(row)) {
            let (artifact, deployment) = (row.artifact_id.as_deref(), row.deployment_id.as_deref());
            events.push(RolloutEvent {
                id: row.event.id.clone(),
                event_type: row.event.event_type.clone(),
                is_reported: is_reported(&row.event.event_type, artifact, deployment),
            });
            let mut of_event = Vec::new();
            for (delivery, _) in self.deliveries().filter(|(_, event)| event == key) {
                let (gateway, sequence) = delivery;
                let of = self.gateway_row(gateway)?;
                let is_applied = self.attempts.values().any(|attempt| {
                    (attempt.gateway, attempt.first) == delivery
                        && attempt.outcome == Outcome::Applied
                });
                let shared = self.cursors.get(&(gateway, String::new()));
                let applied_up_to = shared.map_or(0, |cursor| cursor.applied_up_to);
                let filtered = self.filtered(delivery);
                of_event.push(RolloutRow {
                    event_id: row.event.id.clone(),
                    gateway_id: of.id,
                    gateway,
                    gateway_name: of.name.clone(),
                    sequence: Sequence(sequence),
                    is_confirmed: sequence <= self.shown_position(gateway),
                    dead: self.dead_letter_at(delivery).map(|(_, letter)| letter.reason),
                    is_applied,
                    applied_up_to: Sequence(applied_up_to),
                    needs_all: of.stream.confirmation == Confirmation::All
                        && self.instances_of(gateway).next().is_some(),
                    acknowledges: self
                        .instances_of(gateway)
                        .any(|cursor| cursor.confirm == Some(Level::Applied)),
                    is_connected: self.live_connections(gateway) > 0,
                    is_behind: self.is_behind(delivery),
                    is_filtered: filtered.is_some(),
                });
                if let Some(filtered) = filtered {
                    let key = DeliveryKey { gateway, sequence: Sequence(sequence) };
                    all_filtered.insert(key, filtered);
                }
            }
            of_event
                .sort_by(|a, b| (&a.gateway_name, a.sequence).cmp(&(&b.gateway_name, b.sequence)));
            rows.extend(of_event);
        }
        Ok(Rollout { events, targets: rollout::targets(rows, &all_filtered), more: false })
    }

    /// Whether a live connection has not passed a delivery.
    fn is_behind(&self, (gateway, sequence): Key) -> bool {
        let live = self.connections.iter();
        let mut live = live.filter(|(_, row)| row.gateway == gateway && row.closed.is_none());
        live.any(|(id, row)| {
            let name = if row.instance.is_empty() { id.to_string() } else { row.instance.clone() };
            self.cursors.get(&(gateway, name)).is_some_and(|cursor| cursor.position() < sequence)
        })
    }
}
