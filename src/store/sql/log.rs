//! The log: appends, and reads for gateways and admins.

use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::{epochs, supersession};
use crate::clock::TimeWindow;
use crate::event::{GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::deployments::CANDIDATES;
use crate::store::supersession::Supersession;
use crate::store::{
    DeploymentKey, DeploymentMatch, EventCursor, EventFilter, EventPage, HighWater, Log, LogPage,
    LogSpan, OutboxPage, Publish, Published, PublishedCount, Result,
};

pub(crate) mod append;
mod browse;
pub(crate) mod counts;
pub(crate) mod events;
pub(crate) mod idempotency;
pub(crate) mod read;
pub(crate) mod targets;

#[async_trait]
impl Log for Backend {
    async fn append(&self, publish: Publish) -> Result<Published> {
        self.writer.append(publish).await
    }

    async fn read(
        &self,
        gateway: GatewayKey,
        after: Sequence,
        limit: usize,
        max_bytes: usize,
    ) -> Result<OutboxPage> {
        run!(self.point_read, |conn| read::read(conn, gateway, after, limit, max_bytes))
    }

    async fn find_deployment(
        &self,
        gateway: GatewayKey,
        key: &DeploymentKey,
    ) -> Result<Option<DeploymentMatch>> {
        let key = key.clone();
        run!(self.point_read, |conn| read::find_deployment(conn, gateway, &key, CANDIDATES))
    }

    async fn events(
        &self,
        organisation: OrganisationKey,
        filter: &EventFilter,
        cursor: Option<EventCursor>,
        limit: usize,
    ) -> Result<EventPage> {
        let filter = filter.clone();
        run!(self.query, |conn| events::events(conn, organisation, filter, cursor, limit))
    }

    async fn gateway_log(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
        span: LogSpan,
    ) -> Result<Option<LogPage>> {
        run!(self.query, |conn| browse::gateway_log(conn, organisation, id, span))
    }

    async fn supersede(&self, backlog: Supersession) -> Result<Supersession> {
        let node = self.node;
        run!(self.write_tx, |conn, now| supersession::supersede(conn, now, node, backlog))
    }

    async fn count_published(&self, settled: i64) -> Result<bool> {
        match run!(self.query, |conn| counts::next(conn, settled))? {
            Some(counted) => {
                run!(self.write_tx, |conn, _now| counts::store(conn, counted))?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn published_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
    ) -> Result<Vec<PublishedCount>> {
        run!(self.query, |conn| counts::published(conn, organisation, window, bucket))
    }

    async fn high_water(&self) -> Result<HighWater> {
        run!(self.query, |conn| epochs::high_water(conn))
    }
}
