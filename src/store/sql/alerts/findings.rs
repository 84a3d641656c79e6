//! What an evaluation reads. Each function is one or two statements, whatever the number of gateways.

use std::collections::HashMap;

use super::super::dialect::{Connection, Manifests, query};
use super::super::gateways::details::details;
use crate::clock::Timestamp;
use crate::event::{GatewayId, GatewayKey, NodeId, OrganisationKey};
use crate::store::{
    AlertState, ExpiringToken, FailureCount, NodeCondition, NodeHealth, Result, StoreError,
    StoredAlert, UsedAddress, WatchedGateway,
};

pub(super) async fn organisations(conn: &mut Connection) -> Result<Vec<OrganisationKey>> {
    let rows = query!(
        r#"
        select organisation as "organisation!: OrganisationKey" from organisations
        order by organisation
        "#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.organisation).collect())
}

pub(super) async fn alerts(
    conn: &mut Connection,
    organisation: OrganisationKey,
) -> Result<Vec<StoredAlert>> {
    let rows = query!(
        r#"
        select rule as "rule!: String", group_key as "group_key!: String", state as "state!: String",
            since as "since!: Timestamp", fired_at as "fired_at?: Timestamp",
            clear_since as "clear_since?: Timestamp", resolved_at as "resolved_at?: Timestamp",
            found as "found!: String", notified as "notified!: String",
            notified_at as "notified_at?: Timestamp"
        from alerts where organisation = $1 order by rule, group_key
        "#,
        organisation.0
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|row| {
            let notified = serde_json::from_str(&row.notified)
                .map_err(|error| StoreError::Corrupt(format!("notified destinations: {error}")))?;
            Ok(StoredAlert {
                rule: row.rule,
                group: row.group_key,
                state: AlertState::stored(&row.state),
                since: row.since,
                fired_at: row.fired_at,
                clear_since: row.clear_since,
                resolved_at: row.resolved_at,
                found: row.found,
                notified,
                notified_at: row.notified_at,
            })
        })
        .collect()
}

pub(super) async fn gateways(
    conn: &mut Connection,
    organisation: OrganisationKey,
) -> Result<Vec<WatchedGateway>> {
    let rows = query!(
        r#"
        select gateway as "gateway!: GatewayKey", s.dead_total as "dead_letters!: i64"
        from gateways g join streams s using (gateway)
        where g.organisation = $1 and g.deleted_at is null
        "#,
        organisation.0
    )
    .fetch_all(&mut *conn)
    .await?;
    let dead_letters: HashMap<GatewayKey, i64> =
        rows.iter().map(|row| (row.gateway, row.dead_letters)).collect();
    let keys: Vec<GatewayKey> = rows.iter().map(|row| row.gateway).collect();
    let gateways = details(conn, &keys, Manifests::Omit).await?;
    let watched = gateways.into_iter().map(|gateway| WatchedGateway {
        id: gateway.id,
        name: gateway.name,
        labels: gateway.labels,
        is_stopped: gateway.disabled_at.is_some() || gateway.paused.is_some(),
        is_connected: gateway.live_connections > 0,
        left_at: gateway.left.map_or(gateway.created_at, |(at, _)| at),
        pending: gateway.pending,
        oldest_pending_at: gateway.oldest_pending_at,
        dead_letters: dead_letters.get(&gateway.key).copied().unwrap_or(0),
    });
    Ok(watched.collect())
}

pub(super) async fn failures(
    conn: &mut Connection,
    organisation: OrganisationKey,
    count: &FailureCount,
) -> Result<Vec<(GatewayId, i64)>> {
    let reason = count.reason.map_or("", |reason| reason.as_str());
    let Some(event_type) = &count.event_type else {
        let rows = query!(
            r#"
            select g.id as "id!: GatewayId",
                cast(sum(a.last_sequence - a.first_sequence + 1) as bigint) as "count!: i64"
            from attempts a cross join gateways g
            where g.gateway = a.gateway and a.outcome = 'failed' and a.finished_at >= $2 and g.organisation = $1
                and g.deleted_at is null and ($3 = '' or a.reason = $3)
            group by g.id
            "#,
            organisation.0,
            count.since as _,
            reason
        )
        .fetch_all(conn)
        .await?;
        return Ok(rows.into_iter().map(|row| (row.id, row.count)).collect());
    };
    let rows = query!(
        r#"
        select g.id as "id!: GatewayId", count(*) as "count!: i64"
        from attempts a cross join gateways g
        join outbox o on o.gateway = a.gateway
            and o.sequence between a.first_sequence and a.last_sequence
        join events e on e.event = o.event
        where g.gateway = a.gateway and a.outcome = 'failed' and a.finished_at >= $2
            and g.organisation = $1 and g.deleted_at is null and ($3 = '' or a.reason = $3)
            and e.type = $4
        group by g.id
        "#,
        organisation.0,
        count.since as _,
        reason,
        event_type.as_str()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.count)).collect())
}

pub(super) async fn rejected(
    conn: &mut Connection,
    organisation: OrganisationKey,
    most: i64,
) -> Result<i64> {
    let row = query!(
        r#"
        select count(*) as "count!: i64" from (
            select 1 as one from inbox_rejected
            where organisation = (select name from organisations where organisation = $1)
                and retried_at is null limit $2
        ) as open
        "#,
        organisation.0,
        most
    )
    .fetch_one(conn)
    .await?;
    Ok(row.count)
}

pub(super) async fn nodes(
    conn: &mut Connection,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<NodeCondition>> {
    let rows = query!(
        r#"
        select id as "id!: NodeId", host as "host?: String", started_at as "started_at!: Timestamp",
            heartbeat_at as "heartbeat_at!: Timestamp", stopped_at as "stopped_at?: Timestamp",
            lost_at as "lost_at?: Timestamp", disk_free_bytes as "disk_free?: i64",
            disk_total_bytes as "disk_total?: i64",
            certificate_expires_at as "certificate_expires_at?: Timestamp"
        from nodes where heartbeat_at >= $1 order by started_at desc, id limit $2
        "#,
        since as _,
        limit
    )
    .fetch_all(conn)
    .await?;
    let nodes = rows.into_iter().map(|row| NodeCondition {
        id: row.id,
        host: row.host,
        started_at: row.started_at,
        heartbeat_at: row.heartbeat_at,
        stopped_at: row.stopped_at,
        lost_at: row.lost_at,
        health: NodeHealth {
            disk_free: row.disk_free,
            disk_total: row.disk_total,
            certificate_expires_at: row.certificate_expires_at,
        },
    });
    Ok(nodes.collect())
}

pub(super) async fn expiring(
    conn: &mut Connection,
    organisation: OrganisationKey,
    from: Timestamp,
    to: Timestamp,
    used_since: Timestamp,
    limit: i64,
) -> Result<Vec<ExpiringToken>> {
    let keys = query!(
        r#"
        select t.id as "id!: String", g.id as "gateway!: GatewayId", g.name as "name!: String",
            t.expires_at as "expires_at!: Timestamp"
        from gateway_tokens t cross join gateways g
        where g.gateway = t.gateway and t.revoked_at is null and t.expires_at >= $2 and t.expires_at <= $3
            and g.organisation = $1 and g.deleted_at is null
            and not exists (
                select 1 from gateway_tokens o
                where o.gateway = t.gateway and o.revoked_at is null and o.id <> t.id
                    and (o.expires_at is null or o.expires_at > t.expires_at)
            )
        order by t.expires_at, t.id limit $4
        "#,
        organisation.0,
        from as _,
        to as _,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let tokens = query!(
        r#"
        select id as "id!: String", name as "name!: String", expires_at as "expires_at!: Timestamp"
        from access_tokens
        where revoked_at is null and expires_at >= $2 and expires_at <= $3 and organisation = $1
            and last_used_at >= $4
        order by expires_at, id limit $5
        "#,
        organisation.0,
        from as _,
        to as _,
        used_since as _,
        limit
    )
    .fetch_all(conn)
    .await?;
    let keys = keys.into_iter().map(|row| ExpiringToken {
        id: row.id,
        gateway: Some(row.gateway),
        name: row.name,
        expires_at: row.expires_at,
    });
    let tokens = tokens.into_iter().map(|row| ExpiringToken {
        id: row.id,
        gateway: None,
        name: row.name,
        expires_at: row.expires_at,
    });
    Ok(keys.chain(tokens).collect())
}

pub(super) async fn addresses(
    conn: &mut Connection,
    organisation: OrganisationKey,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<UsedAddress>> {
    let rows = query!(
        r#"
        select g.id as "gateway!: GatewayId", c.token as "token!: String",
            c.remote_address as "address!: String"
        from connections c cross join gateways g
        where g.gateway = c.gateway and c.closed_at is null and g.organisation = $1 and g.deleted_at is null
        union
        select g.id, c.token, c.remote_address
        from connections c cross join gateways g
        where g.gateway = c.gateway and c.closed_at >= $2 and g.organisation = $1 and g.deleted_at is null
        order by 1, 2, 3 limit $3
        "#,
        organisation.0,
        since as _,
        limit
    )
    .fetch_all(conn)
    .await?;
    let used = rows.into_iter().map(|row| UsedAddress {
        gateway: row.gateway,
        token: row.token,
        address: row.address,
    });
    Ok(used.collect())
}
