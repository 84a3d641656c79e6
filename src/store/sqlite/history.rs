//! One event everywhere, and an organisation's totals.

use std::sync::Arc;

use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use super::deliveries::{Key, details};
use super::gateways::parsed;
use crate::clock::Timestamp;
use crate::event::{Event, EventId, OrganisationKey};
use crate::store::{EventHistory, Result, StoreError, Totals};

pub(super) async fn event_history(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
    id: &EventId,
) -> Result<Option<EventHistory>> {
    let text = id.as_str();
    let row = sqlx::query!(
        r#"
        select event as "event!: i64", type as "event_type!: String", payload as "payload!: String",
            correlation_id as "correlation_id!: String", user_id as "user_id?: String",
            occurred_at as "occurred_at!: i64", appended_at as "appended_at!: i64",
            expires_at as "expires_at?: i64"
        from events where organisation = $1 and id = $2
        "#,
        organisation.0,
        text
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let keys: Vec<Key> = sqlx::query!(
        r#"
        select o.gateway as "gateway!: i64", o.sequence as "sequence!: i64"
        from outbox o join gateways g using (gateway)
        where o.event = $1 and g.organisation = $2
        order by g.name, o.sequence
        "#,
        row.event,
        organisation.0
    )
    .fetch_all(&mut *connection)
    .await?
    .into_iter()
    .map(|row| (row.gateway, row.sequence))
    .collect();
    let event = Event {
        id: id.clone(),
        event_type: parsed("event type", &row.event_type)?,
        payload: RawValue::from_string(row.payload)
            .map_err(|error| StoreError::Corrupt(format!("the payload of event {id}: {error}")))?,
        correlation_id: parsed("correlation id", &row.correlation_id)?,
        user_id: row.user_id,
        occurred_at: Timestamp::from_micros(row.occurred_at),
        expires_at: row.expires_at.map(Timestamp::from_micros),
    };
    Ok(Some(EventHistory {
        event: Arc::new(event),
        appended_at: Timestamp::from_micros(row.appended_at),
        deliveries: details::deliveries(connection, &keys).await?,
    }))
}

/// What was confirmed or failed counts for deleted gateways too; what is still
/// to come, or could still be redriven, does not.
pub(super) async fn totals(
    connection: &mut SqliteConnection,
    organisation: OrganisationKey,
) -> Result<Totals> {
    let streams = sqlx::query!(
        r#"
        with positions as materialized (
            select g.gateway, g.deleted_at, s.head, s.confirmed_total, s.failed_total,
                max(s.floor,
                    coalesce((select received from cursors c where c.gateway = g.gateway and c.instance = ''),
                             (select max(received) from cursors c where c.gateway = g.gateway), 0)) as position
            from gateways g join streams s using (gateway)
            where g.organisation = $1
        ),
        letters as materialized (
            select sum(case when d.redriven_at is null then d.last_sequence - d.first_sequence + 1 else 0 end) as dead,
                sum(max(0, d.last_sequence - max(d.first_sequence - 1, p.position))) as ahead
            from positions p join dead_letters d using (gateway)
            where p.deleted_at is null
        )
        select coalesce(sum(confirmed_total), 0) as "confirmed!: i64",
            coalesce(sum(failed_total), 0) as "failed!: i64",
            coalesce((select dead from letters), 0) as "dead!: i64",
            coalesce(sum(case when deleted_at is null then max(0, head - position) else 0 end), 0)
                - coalesce((select ahead from letters), 0) as "pending!: i64"
        from positions
        "#,
        organisation.0
    )
    .fetch_one(&mut *connection)
    .await?;
    let last = sqlx::query!(
        r#"
        select s.last_failure_at as "at!: i64", s.last_failure_reason as "reason!: String"
        from streams s join gateways g using (gateway)
        where g.organisation = $1 and s.last_failure_at is not null and s.last_failure_reason is not null
        order by s.last_failure_at desc limit 1
        "#,
        organisation.0
    )
    .fetch_optional(connection)
    .await?;
    let last_failure = last
        .map(|row| {
            Ok::<_, StoreError>((Timestamp::from_micros(row.at), parsed("reason", &row.reason)?))
        })
        .transpose()?;
    Ok(Totals {
        confirmed: streams.confirmed,
        failed_attempts: streams.failed,
        dead_letters: streams.dead,
        pending: streams.pending,
        last_failure,
    })
}
