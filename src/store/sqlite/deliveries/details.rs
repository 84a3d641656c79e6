//! Deliveries in full: where they stand and every attempt, for keys that are known.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::{Key, as_json, maybe};
use crate::clock::Timestamp;
use crate::event::Sequence;
use crate::store::sqlite::gateways::parsed;
use crate::store::{Attempt, Delivery, DeliveryState, Result};

/// A delivery without its attempts.
pub(in crate::store::sqlite) struct Standing {
    pub(in crate::store::sqlite) key: Key,
    pub(in crate::store::sqlite) delivery: Delivery,
}

/// The deliveries of these keys, in their order.
pub(in crate::store::sqlite) async fn deliveries(
    connection: &mut SqliteConnection,
    keys: &[Key],
) -> Result<Vec<Delivery>> {
    let standings = standings(connection, keys).await?;
    let mut attempts = attempts(connection, keys).await?;
    Ok(standings
        .into_iter()
        .map(|Standing { key, mut delivery }| {
            delivery.attempts = attempts.remove(&key).unwrap_or_default();
            summarise(&mut delivery);
            delivery
        })
        .collect())
}

/// Fills in what follows from the attempts.
fn summarise(delivery: &mut Delivery) {
    let failures = || delivery.attempts.iter().filter(|attempt| attempt.outcome == "failed");
    let count = u32::try_from(failures().count()).unwrap_or(u32::MAX);
    let first = failures().next().map(|attempt| attempt.finished_at);
    let last = failures().next_back().map(|attempt| (attempt.finished_at, attempt.reason));
    delivery.failures = count;
    delivery.first_failure_at = first;
    delivery.last_failure_at = last.map(|(at, _)| at);
    delivery.reason = last.and_then(|(_, reason)| reason);
    delivery.delivered_since = count > 0 && delivery.state == DeliveryState::Delivered;
}

/// Where the deliveries of these keys stand, in the order of the keys. A dead
/// letter is failed whatever the cursor says; then the cursor decides.
pub(in crate::store::sqlite) async fn standings(
    connection: &mut SqliteConnection,
    keys: &[Key],
) -> Result<Vec<Standing>> {
    let keys = as_json(keys)?;
    let rows = sqlx::query!(
        r#"
        with wanted as materialized (
            select key as nth, value ->> 0 as gateway, value ->> 1 as sequence from json_each($1)
        )
        select w.gateway as "gateway!: i64", w.sequence as "sequence!: i64",
            g.id as "gateway_id!: String", g.name as "gateway_name!: String",
            e.id as "event_id?: String", e.type as "event_type?: String",
            e.correlation_id as "correlation_id?: String", e.appended_at as "appended_at?: i64",
            coalesce((select received from cursors c where c.gateway = w.gateway and c.instance = ''),
                     (select max(received) from cursors c where c.gateway = w.gateway), 0) as "confirmed!: i64",
            coalesce((select d.last_sequence >= w.sequence from dead_letters d
                      where d.gateway = w.gateway and d.first_sequence <= w.sequence
                      order by d.first_sequence desc limit 1), 0) as "dead!: bool",
            coalesce((select d.last_sequence >= w.sequence and d.redriven_at is not null from dead_letters d
                      where d.gateway = w.gateway and d.first_sequence <= w.sequence
                      order by d.first_sequence desc limit 1), 0) as "redriven!: bool"
        from wanted w
        cross join gateways g on g.gateway = w.gateway
        left join outbox o on o.gateway = w.gateway and o.sequence = w.sequence
        left join events e on e.event = o.event
        order by w.nth
        "#,
        keys
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let state = if row.dead {
                DeliveryState::Failed
            } else if row.sequence <= row.confirmed {
                DeliveryState::Delivered
            } else {
                DeliveryState::Pending
            };
            let delivery = Delivery {
                gateway_id: parsed("gateway id", &row.gateway_id)?,
                gateway_name: row.gateway_name,
                sequence: Sequence(row.sequence),
                event_id: maybe("event id", row.event_id.as_deref())?,
                event_type: maybe("event type", row.event_type.as_deref())?,
                correlation_id: maybe("correlation id", row.correlation_id.as_deref())?,
                appended_at: row.appended_at.map(Timestamp::from_micros),
                state,
                delivered_since: false,
                redriven: row.redriven,
                failures: 0,
                first_failure_at: None,
                last_failure_at: None,
                reason: None,
                attempts: Vec::new(),
            };
            Ok(Standing { key: (row.gateway, row.sequence), delivery })
        })
        .collect()
}

/// The newest hundred attempts at each, oldest first.
async fn attempts(
    connection: &mut SqliteConnection,
    keys: &[Key],
) -> Result<HashMap<Key, Vec<Attempt>>> {
    let keys = as_json(keys)?;
    let rows = sqlx::query!(
        r#"
        with wanted as materialized (
            select distinct value ->> 0 as gateway, value ->> 1 as sequence from json_each($1)
        ),
        covering as (
            select w.gateway, w.sequence, a.attempt, a.outcome, a.reason, a.detail, a.connection,
                a.started_at, a.finished_at,
                row_number() over (partition by w.gateway, w.sequence
                                   order by a.finished_at desc, a.attempt desc) as nth
            from wanted w
            cross join attempts a indexed by attempts_by_sequence
                on a.gateway = w.gateway and a.first_sequence between w.sequence - 999 and w.sequence
               and a.last_sequence >= w.sequence
        )
        select gateway as "gateway!: i64", sequence as "sequence!: i64", outcome as "outcome!: String",
            reason as "reason?: String", detail as "detail?: String", connection as "connection?: String",
            started_at as "started_at!: i64", finished_at as "finished_at!: i64"
        from covering where nth <= 100
        order by gateway, sequence, nth desc
        "#,
        keys
    )
    .fetch_all(connection)
    .await?;
    let mut attempts: HashMap<Key, Vec<Attempt>> = HashMap::new();
    for row in rows {
        attempts.entry((row.gateway, row.sequence)).or_default().push(Attempt {
            outcome: row.outcome,
            reason: maybe("reason", row.reason.as_deref())?,
            detail: row.detail,
            connection_id: maybe("connection id", row.connection.as_deref())?,
            started_at: Timestamp::from_micros(row.started_at),
            finished_at: Timestamp::from_micros(row.finished_at),
        });
    }
    Ok(attempts)
}
