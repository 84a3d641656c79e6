//! Evidence for a diagnosis, and the history of gateways.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use gateway_events::store::diagnosis::LISTED;
use gateway_events::store::{
    Diagnosis, EventEvidence, FailureDetail, GatewayEvidence, GatewayHistory, GatewayState,
    LabelTarget, Outcome, PendingDelivery, PublishedTarget, ReasonTally, RejectedFilter, Result,
    StoreError, TokenInfo, TruncatedList,
};

use super::MemoryStore;
use super::tables::Tables;

#[async_trait]
impl Diagnosis for MemoryStore {
    async fn gateway_evidence(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<GatewayEvidence>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.gateway_evidence(now, organisation, id)).await
    }

    async fn event_evidence(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
        gateway: Option<GatewayId>,
    ) -> Result<Option<EventEvidence>> {
        self.read(|tables| tables.event_evidence(organisation, id, gateway)).await
    }
}

impl Tables {
    /// Records a gateway's state if it has changed.
    pub(super) fn note_state(&mut self, now: Timestamp, gateway: GatewayKey, by: &str) {
        let Some(row) = self.gateways.get_mut(&gateway) else { return };
        let state = GatewayState {
            changed_at: now,
            replaced_at: None,
            name: row.name.clone(),
            labels: row.labels.clone(),
            disabled_at: row.disabled_at,
            deleted_at: row.deleted_at,
            changed_by: by.to_owned(),
        };
        let values =
            |it: &GatewayState| (it.name.clone(), it.labels.clone(), it.disabled_at, it.deleted_at);
        if let Some(last) = row.history.first_mut() {
            if values(last) == values(&state) {
                return;
            }
            last.replaced_at = Some(now);
        }
        row.history.insert(0, state);
    }

    /// Removes states that were replaced before this; returns how many.
    pub(super) fn trim_history(&mut self, before: Timestamp, batch: usize) -> usize {
        let mut removed = 0;
        for row in self.gateways.values_mut() {
            row.history.retain(|state| {
                let is_old = state.replaced_at.is_some_and(|at| at < before) && removed < batch;
                removed += usize::from(is_old);
                !is_old
            });
        }
        removed
    }

    fn gateway_evidence(
        &self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<GatewayEvidence>> {
        let Some(key) = self.any_key(organisation, id) else { return Ok(None) };
        let row = self.gateway_row(key)?;
        let gateway = self.shown(now, key)?;
        let of_keys = self.gateway_tokens.values().filter(|token| token.of == key);
        let mut keys: Vec<TokenInfo> = of_keys.map(|token| token.info.clone()).collect();
        let is_live = |key: &TokenInfo| key.revoked_at.is_none();
        keys.sort_by_key(|key| Reverse((is_live(key), key.created_at, key.id.clone())));
        let connections = self.list_connections(organisation, Some(id), false, None, usize::MAX);
        let failed = self.attempts.values().filter(|attempt| attempt.gateway == key);
        let failed = failed.filter(|attempt| attempt.outcome == Outcome::Failed);
        let failures = failed.filter_map(|attempt| {
            Some((attempt.reason?, attempt.last - attempt.first + 1, attempt.finished_at))
        });
        let open = self.dead_letters.range((key, 0)..=(key, i64::MAX));
        let open = open.filter(|(_, letter)| letter.redriven_at.is_none());
        let dead = open.map(|((_, first), it)| (it.reason, it.last - first + 1, it.dead_at));
        let mut pending = Vec::new();
        for sequence in self.pending(key)?.into_iter().take(LISTED) {
            let Some(row) = self.event_at((key, sequence)) else { continue };
            pending.push(PendingDelivery {
                sequence: Sequence(sequence),
                event_id: row.event.id.clone(),
                event_type: row.event.event_type.clone(),
                correlation_id: row.event.correlation_id.clone(),
                appended_at: self.again_at((key, sequence)).unwrap_or(row.appended_at),
                expires_at: row.event.expires_at,
            });
        }
        let labelled = self.events.iter().rev().filter(|(_, row)| row.organisation == organisation);
        let label_targets = labelled.filter_map(|(event, row)| match &row.target {
            PublishedTarget::Labels(labels) => Some(LabelTarget {
                event_id: row.event.id.clone(),
                event_type: row.event.event_type.clone(),
                appended_at: row.appended_at,
                labels: labels.clone(),
                matched: row.matched,
                is_logged: self.outbox.iter().any(|(of, it)| of.0 == key && it == event),
            }),
            PublishedTarget::All | PublishedTarget::Gateways(_) => None,
        });
        let label_targets: Vec<LabelTarget> = label_targets.collect();
        let mut shared_labels = GatewayEvidence::own_labels(&row.labels, &row.history);
        shared_labels.retain(|(name, value)| {
            let mut others = self.gateways.iter().filter(|(other, _)| **other != key);
            !label_targets.is_empty()
                && others.any(|(_, other)| {
                    other.organisation == organisation
                        && other.deleted_at.is_none()
                        && other.labels.get(name) == Some(value)
                })
        });
        let open = RejectedFilter::default();
        Ok(Some(GatewayEvidence {
            deleted_at: row.deleted_at,
            dead_total: row.stream.dead_total,
            history: row.history.clone(),
            keys: TruncatedList::of(keys),
            connections: TruncatedList::of(connections.rows),
            resyncs: TruncatedList::of(self.list_resyncs(key)),
            failures: by_reason(failures),
            dead_letters: by_reason(dead),
            pending,
            rejected: self.list_rejected(organisation, &open, None, usize::MAX),
            label_targets,
            shared_labels,
            said: self.newest_details(key),
            gateway,
        }))
    }

    /// What the gateway said about its newest failure of each reason.
    fn newest_details(&self, gateway: GatewayKey) -> Vec<FailureDetail> {
        let mut newest: BTreeMap<&'static str, (Timestamp, i64, FailureDetail)> = BTreeMap::new();
        let failed = self.attempts.iter().filter(|(_, attempt)| {
            attempt.gateway == gateway && attempt.outcome == Outcome::Failed
        });
        for (key, attempt) in failed {
            let detail = attempt.detail.clone().filter(|detail| !detail.is_empty());
            let (Some(reason), Some(detail)) = (attempt.reason, detail) else { continue };
            let said = (attempt.finished_at, *key, FailureDetail { reason, detail });
            let place = newest.entry(reason.as_str()).or_insert_with(|| said.clone());
            if (place.0, place.1) < (said.0, said.1) {
                *place = said;
            }
        }
        newest.into_values().map(|(.., said)| said).collect()
    }

    fn event_evidence(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
        gateway: Option<GatewayId>,
    ) -> Result<Option<EventEvidence>> {
        let Some(event) = self.event_history(organisation, id)? else { return Ok(None) };
        if let Some(id) = gateway {
            self.any_key(organisation, id).ok_or(StoreError::NotFound("gateway"))?;
        }
        let rows = self.gateways.values().rev().filter(|row| {
            row.organisation == organisation && gateway.is_none_or(|wanted| row.id == wanted)
        });
        let gateways = rows.map(|row| GatewayHistory {
            id: row.id,
            registered_at: row.created_at,
            changes: row.history.clone(),
        });
        Ok(Some(EventEvidence { event, gateways: gateways.collect(), more: false }))
    }
}

/// Sums deliveries by reason, the last one first.
fn by_reason(rows: impl Iterator<Item = (Reason, i64, Timestamp)>) -> Vec<ReasonTally> {
    let mut tallies: BTreeMap<&'static str, ReasonTally> = BTreeMap::new();
    for (reason, count, at) in rows {
        let tally = tallies.entry(reason.as_str()).or_insert(ReasonTally {
            reason,
            count: 0,
            first_at: at,
            last_at: at,
        });
        tally.count += count;
        tally.first_at = tally.first_at.min(at);
        tally.last_at = tally.last_at.max(at);
    }
    let mut tallies: Vec<ReasonTally> = tallies.into_values().collect();
    tallies.sort_by_key(|tally| Reverse(tally.last_at));
    tallies
}
