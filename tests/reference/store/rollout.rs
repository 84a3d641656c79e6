//! Rollouts.

use gateway_events::event::OrganisationKey;
use gateway_events::store::rollout::{self, RolloutRow, is_reported};
use gateway_events::store::{
    Confirmation, Level, Outcome, Result, Rollout, RolloutEvent, RolloutOf,
};

use super::tables::{EventRow, Tables};

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
                of_event.push(RolloutRow {
                    event_id: row.event.id.clone(),
                    gateway_id: of.id,
                    gateway_name: of.name.clone(),
                    sequence: gateway_events::event::Sequence(sequence),
                    is_confirmed: sequence <= self.shown_position(gateway),
                    dead: self.dead_letter_at(delivery).map(|(_, letter)| letter.reason),
                    is_applied,
                    applied_up_to: gateway_events::event::Sequence(applied_up_to),
                    needs_all: of.stream.confirmation == Confirmation::All
                        && self.instances_of(gateway).next().is_some(),
                    acknowledges: self
                        .instances_of(gateway)
                        .any(|cursor| cursor.confirm == Some(Level::Applied)),
                    is_connected: self.live_connections(gateway) > 0,
                });
            }
            of_event
                .sort_by(|a, b| (&a.gateway_name, a.sequence).cmp(&(&b.gateway_name, b.sequence)));
            rows.extend(of_event);
        }
        Ok(Rollout { events, targets: rollout::targets(rows), more: false })
    }
}
