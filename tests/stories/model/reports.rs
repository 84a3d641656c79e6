//! What gateways reported, and that a delivery which was reported as failed stays failed, whatever
//! is given up or confirmed before or after that.

use std::collections::{BTreeMap, BTreeSet};

use gateway_events::event::{EventId, GatewayId, GatewayKey, OrganisationKey};
use gateway_events::store::{DeliveryState, InstanceOutcome, Level, Record, Store};

use super::steps::IDS;

/// The newest reports by gateway and sequence, with whether the event was applied.
#[derive(Default)]
pub(crate) struct Reports {
    applied: BTreeMap<(GatewayKey, i64), bool>,
    /// Gateways of which it is not known what was applied.
    unclear: BTreeSet<GatewayKey>,
    /// Set when the reports are not known any more.
    is_unknown: bool,
}

impl Reports {
    /// Adds what was recorded.
    pub(crate) fn add(&mut self, records: &[Record]) {
        for record in records {
            match record {
                Record::Reported { gateway, sequence, result, .. } => {
                    let applied = self.applied.entry((*gateway, sequence.0)).or_default();
                    // A late failure does not count.
                    *applied |= result.is_ok();
                }
                Record::Instance {
                    gateway,
                    outcome: InstanceOutcome::Acknowledged { level: Level::Applied, range, .. },
                    ..
                } => {
                    for sequence in range.first.0..=range.last.0 {
                        self.applied.insert((*gateway, sequence), true);
                    }
                }
                Record::Unmatched { gateway, result: Ok(()), .. } => {
                    self.unclear.insert(*gateway);
                }
                _ => {}
            }
        }
    }

    /// Retention has removed reports.
    pub(crate) fn forget(&mut self) {
        self.is_unknown = true;
    }

    /// Checks the deliveries that were reported as failed and not as applied.
    pub(crate) async fn check(
        &self,
        store: &dyn Store,
        organisation: OrganisationKey,
        gateways: &[(GatewayId, GatewayKey)],
    ) {
        if self.is_unknown {
            return;
        }
        for id in 0..IDS {
            let id = EventId::new(format!("e{id}")).unwrap();
            let history = store.event_history(organisation, &id).await.unwrap();
            for delivery in history.into_iter().flat_map(|history| history.deliveries) {
                let of = gateways.iter().find(|(id, _)| *id == delivery.gateway_id);
                let of = of.map(|(_, key)| *key).filter(|key| !self.unclear.contains(key));
                let key = of.map(|key| (key, delivery.sequence.0));
                if key.is_some_and(|key| self.applied.get(&key) == Some(&false)) {
                    assert_eq!(delivery.state, DeliveryState::Failed, "{delivery:?}");
                }
            }
        }
    }
}
