//! Reads of the feed.

use std::ops::RangeInclusive;

use super::super::sql::dialect::FeedStatements;
use super::super::sql::dialect::feed::{AttemptRow, ConnectionRow, EventRow};
use super::{Connection, json, query_as};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, NodeId, OrganisationKey, Reason,
    Sequence,
};
use crate::store::{FeedDetails, Outcome, Result};

/// One connection writes, so rows become visible in the order of their keys, and there is hardly
/// ever more than one span.
impl FeedStatements for Connection {
    const FEED_HAS_GAPS: bool = false;

    async fn feed_events(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
        details: &FeedDetails,
    ) -> Result<Vec<EventRow>> {
        let gateways = json(&details.gateways)?;
        let mut rows = Vec::new();
        for span in spans {
            let found = query_as!(
                EventRow,
                r#"
                select e.event as "key!: i64", e.organisation as "organisation!: OrganisationKey",
                    e.appended_at as "at!: Timestamp", e.id as "id!: EventId",
                    e.type as "event_type!: EventType",
                    e.correlation_id as "correlation_id!: CorrelationId",
                    e.user_id as "user_id?: String", e.matched as "matched?: i64",
                    case when $4 <> '[]' then (
                        select group_concat(g.id, ',') from outbox o indexed by outbox_by_event
                        cross join gateways g on g.gateway = o.gateway
                        where o.event = e.event and g.id in (select value from json_each($4))
                    ) end as "gateways?: String"
                from events e where e.event between $1 and $2 order by e.event limit $3
                "#,
                span.start(),
                span.end(),
                limit,
                gateways
            );
            rows.extend(found.fetch_all(&mut *self).await?);
        }
        Ok(rows)
    }

    async fn feed_attempts(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
        details: &FeedDetails,
    ) -> Result<Vec<AttemptRow>> {
        let mut rows = Vec::new();
        for span in spans {
            let found = query_as!(
                AttemptRow,
                r#"
                select a.attempt as "key!: i64", g.organisation as "organisation!: OrganisationKey",
                    a.finished_at as "at!: Timestamp", a.started_at as "started_at!: Timestamp",
                    g.id as "gateway_id!: GatewayId",
                    g.name as "gateway_name!: String",
                    a.first_sequence as "first!: Sequence", a.last_sequence as "last!: Sequence",
                    a.outcome as "outcome!: Outcome", a.reason as "reason?: Reason",
                    substr(a.detail, 1, 1024) as "detail?: String",
                    a.connection as "connection?: ConnectionId",
                    case when a.first_sequence = a.last_sequence then (
                        select e.id from outbox o cross join events e on e.event = o.event
                        where o.gateway = a.gateway and o.sequence = a.first_sequence
                    ) end as "event_id?: EventId",
                    case when $4 or a.first_sequence = a.last_sequence then (
                        select group_concat(distinct e.type) from outbox o
                        cross join events e on e.event = o.event
                        where o.gateway = a.gateway
                            and o.sequence between a.first_sequence and a.last_sequence
                    ) end as "types?: String"
                from attempts a cross join gateways g on g.gateway = a.gateway
                where a.attempt between $1 and $2 order by a.attempt limit $3
                "#,
                span.start(),
                span.end(),
                limit,
                details.types
            );
            rows.extend(found.fetch_all(&mut *self).await?);
        }
        Ok(rows)
    }

    async fn feed_connections(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
    ) -> Result<Vec<ConnectionRow>> {
        let mut rows = Vec::new();
        for span in spans {
            let found = query_as!(
                ConnectionRow,
                r#"
                select h.change as "key!: i64", g.organisation as "organisation!: OrganisationKey",
                    h.at as "at!: Timestamp", g.id as "gateway_id!: GatewayId",
                    g.name as "gateway_name!: String", h.connection as "connection!: ConnectionId",
                    h.closed as "closed!: bool", c.transport as "transport?: String",
                    c.remote_address as "remote_address?: String", c.node as "node?: NodeId",
                    case when h.closed then c.close_reason end as "reason?: Reason"
                from connection_changes h
                cross join gateways g on g.gateway = h.gateway
                left join connections c on c.id = h.connection
                where h.change between $1 and $2 order by h.change limit $3
                "#,
                span.start(),
                span.end(),
                limit
            );
            rows.extend(found.fetch_all(&mut *self).await?);
        }
        Ok(rows)
    }
}
