//! Reads of the feed.

use std::ops::RangeInclusive;

use super::super::sql::dialect::FeedStatements;
use super::super::sql::dialect::feed::{AttemptRow, ConnectionRow, EventRow};
use super::{Connection, column, query_as};
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, NodeId, OrganisationKey, Reason,
    Sequence,
};
use crate::store::{FeedDetails, Outcome, Result};

/// First and last keys as two arrays.
fn bounds(spans: &[RangeInclusive<i64>]) -> (Vec<i64>, Vec<i64>) {
    (column(spans, |span| *span.start()), column(spans, |span| *span.end()))
}

/// Each span is a scan of the primary key, and is limited by itself: `lateral`.
impl FeedStatements for Connection {
    const FEED_HAS_GAPS: bool = true;

    async fn feed_events(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
        details: &FeedDetails,
    ) -> Result<Vec<EventRow>> {
        let (firsts, lasts) = bounds(spans);
        let gateways = column(&details.gateways, |id| id.0);
        let rows = query_as!(
            EventRow,
            r#"
            select e.event as "key!: i64", e.organisation as "organisation!: OrganisationKey",
                e.appended_at as "at!: Timestamp", e.id as "id!: EventId",
                e.type as "event_type!: EventType",
                e.correlation_id as "correlation_id!: CorrelationId",
                e.user_id as "user_id?: String", e.matched as "matched?: i64",
                case when cardinality($4::uuid[]) > 0 then (
                    select string_agg(g.id::text, ',') from outbox o
                    join gateways g on g.gateway = o.gateway
                    where o.event = e.event and g.id = any($4)
                ) end as "gateways?: String"
            from unnest($1::bigint[], $2::bigint[]) as span (first, last)
            cross join lateral (
                select event, organisation, appended_at, id, type, correlation_id, user_id, matched
                from events where event between span.first and span.last
                order by event limit $3
            ) e
            order by e.event
            "#,
            &firsts,
            &lasts,
            limit,
            &gateways
        );
        Ok(rows.fetch_all(self).await?)
    }

    async fn feed_attempts(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
        details: &FeedDetails,
    ) -> Result<Vec<AttemptRow>> {
        let (firsts, lasts) = bounds(spans);
        let rows = query_as!(
            AttemptRow,
            r#"
            select a.attempt as "key!: i64", g.organisation as "organisation!: OrganisationKey",
                a.finished_at as "at!: Timestamp", a.started_at as "started_at!: Timestamp",
                g.id as "gateway_id!: GatewayId",
                g.name as "gateway_name!: String",
                a.first_sequence as "first!: Sequence", a.last_sequence as "last!: Sequence",
                a.outcome as "outcome!: Outcome", a.reason as "reason?: Reason",
                left(a.detail, 1024) as "detail?: String",
                a.connection as "connection?: ConnectionId",
                case when a.first_sequence = a.last_sequence then (
                    select e.id from outbox o join events e on e.event = o.event
                    where o.gateway = a.gateway and o.sequence = a.first_sequence
                ) end as "event_id?: EventId",
                case when $4 or a.first_sequence = a.last_sequence then (
                    select string_agg(distinct e.type, ',') from outbox o
                    join events e on e.event = o.event
                    where o.gateway = a.gateway
                        and o.sequence between a.first_sequence and a.last_sequence
                ) end as "types?: String"
            from unnest($1::bigint[], $2::bigint[]) as span (first, last)
            cross join lateral (
                select * from attempts where attempt between span.first and span.last
                order by attempt limit $3
            ) a
            join gateways g on g.gateway = a.gateway
            order by a.attempt
            "#,
            &firsts,
            &lasts,
            limit,
            details.types
        );
        Ok(rows.fetch_all(self).await?)
    }

    async fn feed_connections(
        &mut self,
        spans: &[RangeInclusive<i64>],
        limit: i64,
    ) -> Result<Vec<ConnectionRow>> {
        let (firsts, lasts) = bounds(spans);
        let rows = query_as!(
            ConnectionRow,
            r#"
            select h.change as "key!: i64", g.organisation as "organisation!: OrganisationKey",
                h.at as "at!: Timestamp", g.id as "gateway_id!: GatewayId",
                g.name as "gateway_name!: String", h.connection as "connection!: ConnectionId",
                h.closed as "closed!: bool", c.transport as "transport?: String",
                c.remote_address as "remote_address?: String", c.node as "node?: NodeId",
                case when h.closed then c.close_reason end as "reason?: Reason"
            from unnest($1::bigint[], $2::bigint[]) as span (first, last)
            cross join lateral (
                select * from connection_changes where change between span.first and span.last
                order by change limit $3
            ) h
            join gateways g on g.gateway = h.gateway
            left join connections c on c.id = h.connection
            order by h.change
            "#,
            &firsts,
            &lasts,
            limit
        );
        Ok(rows.fetch_all(self).await?)
    }
}
