//! Searching for deliveries that can be redriven.

use super::super::sql::dialect::RedriveStatements;
use super::super::sql::dialect::redrive::{Candidate, DeadRange};
use super::{Connection, pairs, query_as};
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
            select d.gateway as "gateway!: i64", d.first_sequence as "first!: i64",
                d.last_sequence as "last!: i64",
                (g.organisation = $5 and g.deleted_at is null) as "matches!: bool"
            from dead_letters d indexed by dead_letters_open
            cross join gateways g on g.gateway = d.gateway
            where d.redriven_at is null and (d.gateway, d.first_sequence) > ($1, $2) and d.gateway <= $4
              and not (d.gateway = $1 and d.last_sequence <= $3)
            order by d.gateway, d.first_sequence limit $6
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
        let keys = pairs(keys)?;
        Ok(query_as!(
            Candidate,
            r#"
            select g.gateway as "gateway!: GatewayKey", g.id as "gateway_id!: GatewayId",
                g.name as "gateway_name!: String",
                k.value ->> 1 as "sequence!: i64", d.first_sequence as "range_first!: i64",
                e.event as "event?: i64", e.id as "event_id?: EventId",
                e.expires_at as "expires_at?: Timestamp", (e.purged_at is not null) as "is_purged!: bool",
                coalesce(
                    (select appended_at from outbox where gateway = g.gateway and sequence = k.value ->> 1),
                    (select appended_at from trimmed where gateway = g.gateway and sequence = k.value ->> 1)
                ) is not null as "appended_again!: bool"
            from json_each($1) k
            cross join gateways g on g.gateway = k.value ->> 0
            cross join dead_letters d on d.gateway = g.gateway and d.first_sequence = (
                select max(x.first_sequence) from dead_letters x
                where x.gateway = g.gateway and x.first_sequence <= k.value ->> 1
            )
            left join events e on e.event = coalesce(
                (select event from outbox where gateway = g.gateway and sequence = k.value ->> 1),
                (select event from trimmed where gateway = g.gateway and sequence = k.value ->> 1)
            )
            where d.last_sequence >= k.value ->> 1 and d.redriven_at is null and g.deleted_at is null
            order by 1, 4
            "#,
            keys
        )
        .fetch_all(self)
        .await?)
    }
}
