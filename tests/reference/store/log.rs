//! Logs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use gateway_events::store::deployments::{CANDIDATES, choose, performed_at};
use gateway_events::store::supersession::Supersession;
use gateway_events::store::{
    DeploymentKey, DeploymentMatch, EventCursor, EventFilter, EventPage, HighWater, Log, LogPage,
    LogSpan, OutboxPage, OutboxRow, Publish, Published, PublishedCount, Result, StoreError,
    bucket_start, bucket_width, storable,
};

use super::MemoryStore;
use super::append::{Growth, grown};
use super::tables::Tables;

#[async_trait]
impl Log for MemoryStore {
    async fn append(&self, publish: Publish) -> Result<Published> {
        self.check_space()?;
        let (mut published, _) = self
            .write_then(
                |tables, now| {
                    let mut growth = Growth::new();
                    Ok((tables.append(now, &publish, &mut growth), growth))
                },
                |(_, growth)| self.appended(grown(growth.clone())),
            )
            .await?;
        self.database.fault_hook().appended(&mut published);
        Ok(published)
    }

    async fn read(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage> {
        let mut page = self.read(|tables| tables.page(gateway, after, limit, max_bytes)).await?;
        self.database.fault_hook().page(&mut page);
        Ok(page)
    }

    async fn supersede(&self, backlog: Supersession) -> Result<Supersession> {
        self.write(|tables, now| tables.supersede(now, backlog)).await
    }

    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<DeploymentMatch>> {
        self.read(|tables| Ok(tables.find_deployment(gateway, key))).await
    }

    async fn events(
        &self,
        organisation: OrganisationKey,
        filter: &EventFilter,
        cursor: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage> {
        self.read(|tables| tables.browse_events(organisation, filter, cursor.as_ref(), limit)).await
    }

    async fn gateway_log(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>> {
        let now = (self.database.0.clock)();
        self.read(|tables| tables.gateway_log(now, organisation, id, span)).await
    }

    async fn count_published(&self, _: i64) -> Result<bool> {
        Ok(false)
    }

    async fn published_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
    ) -> Result<Vec<PublishedCount>> {
        self.read(|tables| {
            let width = bucket_width(bucket);
            let mut buckets = BTreeMap::<i64, i64>::new();
            for row in tables.events.values().filter(|row| row.organisation == organisation) {
                if window.contains(row.appended_at) {
                    *buckets.entry(bucket_start(row.appended_at, width)).or_default() += 1;
                }
            }
            let count =
                |(begin, count)| PublishedCount { from: Timestamp::from_micros(begin), count };
            Ok(buckets.into_iter().map(count).collect())
        })
        .await
    }

    async fn high_water(&self) -> Result<HighWater> {
        self.read(|tables| {
            let epoch = tables.gateways.values().next().map(|row| row.stream.epoch);
            let sequences = tables.gateways.values().map(|row| row.stream.head).sum();
            Ok(HighWater { epoch, sequences })
        })
        .await
    }
}

impl Tables {
    pub(super) fn page(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage> {
        let stream = &self.gateways.get(&gateway).ok_or(StoreError::NotFound("gateway"))?.stream;
        let behind = (gateway, after.0.saturating_add(1))..=(gateway, i64::MAX);
        let mut rows: Vec<OutboxRow> = Vec::new();
        let mut bytes = 0_usize;
        for ((_, sequence), event) in self.outbox.range(behind).take(limit) {
            let Some(row) = self.events.get(event) else { continue };
            bytes = bytes.saturating_add(row.event.payload.get().len());
            if bytes > max_bytes && !rows.is_empty() {
                break;
            }
            let withheld = if self.superseded.contains(&(gateway, *sequence)) {
                Some(Reason::Superseded)
            } else if row.purged.is_some() {
                Some(Reason::Purged)
            } else {
                self.skipped.contains(&(gateway, *sequence)).then_some(Reason::Skipped)
            };
            let (sequence, event) = (Sequence(*sequence), Arc::clone(&row.event));
            rows.push(OutboxRow { sequence, event, withheld });
        }
        let (head, floor) = (Sequence(stream.head), Sequence(stream.floor));
        Ok(OutboxPage { rows, head, floor, unreadable: None })
    }

    pub(super) fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Option<DeploymentMatch> {
        let deployment = storable(&key.deployment_id);
        let artifact = storable(&key.artifact_id);
        let suffix = format!(".{}", key.suffix);
        let log = self.outbox.range((gateway, 0)..=(gateway, key.sent.0)).rev();
        let rows =
            log.filter_map(|((_, sequence), event)| Some((*sequence, self.events.get(event)?)));
        let fitting = rows.filter(|(sequence, row)| {
            row.deployment_id.as_deref() == Some(&deployment)
                && row.artifact_id.as_deref() == Some(&artifact)
                && row.event.event_type.as_str().ends_with(&suffix)
                && !self.was_never_sent((gateway, *sequence))
        });
        let candidates: Vec<_> = fitting
            .take(CANDIDATES)
            .map(|(sequence, row)| (Sequence(sequence), performed_at(row.event.payload.get())))
            .collect();
        choose(&candidates, key.performed_at, CANDIDATES)
    }

    /// Whether it expired or was trimmed before it was sent.
    fn was_never_sent(&self, (gateway, sequence): (GatewayKey, i64)) -> bool {
        let attempts: Vec<_> = self
            .attempts
            .values()
            .filter(|attempt| {
                attempt.gateway == gateway && (attempt.first..=attempt.last).contains(&sequence)
            })
            .map(|attempt| {
                let passed = matches!(attempt.reason, Some(Reason::Expired | Reason::Retention));
                (passed, attempt.connection.is_some())
            })
            .collect();
        self.is_dead((gateway, sequence))
            && attempts.iter().any(|(passed, _)| *passed)
            && !attempts.contains(&(false, true))
    }
}
