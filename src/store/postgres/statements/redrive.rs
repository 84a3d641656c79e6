//! Searching for deliveries that can be redriven.

use super::super::sql::dialect::RedriveStatements;
use super::super::sql::dialect::redrive::{Candidate, DeadRange};
use super::{Connection, column, query_as};
use crate::clock::Timestamp;
use crate::event::{EventId, GatewayId, GatewayKey, OrganisationKey};
use crate::store::{DeliveryKey, Result};

impl RedriveStatements for Connection {
    async fn open_dead_letters(
        &mut self,
        organisation: OrganisationKey,
        after: DeliveryKey,
        up_to: GatewayKey,
        limit: i64,
    ) -> Result<Vec<DeadRange>> {
        let lowest = after.sequence.0 - 1000;
        Ok(query_as!(
            DeadRange,
            r#"
            with page as materialized (
                select d.gateway, d.first_sequence, d.last_sequence
                from dead_letters d
                where d.redriven_at is null and (d.gateway, d.first_sequence) > ($1, $2) and d.gateway <= $4
                  and not (d.gateway = $1 and d.last_sequence <= $3)
                order by d.gateway, d.first_sequence limit $6
            )
            select p.gateway as "gateway!: i64", p.first_sequence as "first!: i64",
                p.last_sequence as "last!: i64",
                (g.organisation = $5 and g.deleted_at is null) as "matches!: bool"
            from page p join gateways g on g.gateway = p.gateway
            order by p.gateway, p.first_sequence
            "#,
            after.gateway.0,
            lowest,
            after.sequence.0,
            up_to.0,
            organisation.0,
            limit
        )
        .fetch_all(self)
        .await?)
    }

    async fn open_deliveries(&mut self, keys: &[DeliveryKey]) -> Result<Vec<Candidate>> {
        Ok(query_as!(
            Candidate,
            r#"
            select g.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
                g.name as "gateway_name!: String",
                k.sequence as "sequence!: i64", d.first_sequence as "range_first!: i64",
                e.event as "event?: i64", e.id as "event_id?: EventId",
                e.expires_at as "expires_at?: Timestamp", (e.purged_at is not null) as "is_purged!: bool",
                coalesce(
                    (select appended_at from outbox where gateway = k.gateway and sequence = k.sequence),
                    (select appended_at from trimmed where gateway = k.gateway and sequence = k.sequence)
                ) is not null as "appended_again!: bool"
            from unnest($1::bigint[], $2::bigint[]) as k (gateway, sequence)
            join gateways g on g.gateway = k.gateway
            cross join lateral (
                select first_sequence, last_sequence, redriven_at from dead_letters
                where gateway = k.gateway and first_sequence <= k.sequence
                order by first_sequence desc limit 1
            ) d
            left join events e on e.event = coalesce(
                (select event from outbox where gateway = k.gateway and sequence = k.sequence),
                (select event from trimmed where gateway = k.gateway and sequence = k.sequence)
            )
            where d.last_sequence >= k.sequence and d.redriven_at is null and g.deleted_at is null
            order by 1, 4
            "#,
            &column(keys, |key| key.gateway.0),
            &column(keys, |key| key.sequence.0)
        )
        .fetch_all(self)
        .await?)
    }
}
