//! The evaluation lease, and what an evaluation changes.

use std::time::Duration;

use super::super::dialect::{Connection, query};
use crate::clock::Timestamp;
use crate::event::{NodeId, OrganisationKey};
use crate::store::{
    AlertChange, AlertEvent, EvaluationLease, NewNotification, NodeHealth, NotificationState,
    Result, StoreError, StoredAlert,
};

pub(super) async fn acquire_lease(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    lease: Duration,
) -> Result<Option<EvaluationLease>> {
    let until = now.plus(lease);
    let row = query!(
        r#"
        update alert_turn set turn = turn + 1, node = $1, until = $2
        where node is null or node = $1 or until <= $3
        returning turn as "turn!: i64"
        "#,
        node as _,
        until as _,
        now as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| EvaluationLease { number: row.turn, at: now }))
}

pub(super) async fn apply(
    conn: &mut Connection,
    now: Timestamp,
    lease: EvaluationLease,
    organisation: OrganisationKey,
    changes: &[AlertChange],
) -> Result<bool> {
    // Changes nothing, but locks the row, so that no other node acquires the lease meanwhile.
    let own = query!("update alert_turn set turn = turn where turn = $1", lease.number)
        .execute(&mut *conn)
        .await?;
    if own.rows_affected() == 0 {
        return Ok(false);
    }
    for change in changes {
        if change.is_forgotten {
            forget(conn, organisation, &change.alert).await?;
        } else {
            save(conn, organisation, &change.alert).await?;
        }
        for notification in &change.notifications {
            enqueue(conn, now, organisation, &change.alert, notification).await?;
        }
    }
    Ok(true)
}

async fn forget(
    conn: &mut Connection,
    organisation: OrganisationKey,
    alert: &StoredAlert,
) -> Result<()> {
    query!(
        "delete from alerts where organisation = $1 and rule = $2 and group_key = $3",
        organisation.0,
        alert.rule,
        alert.group
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn save(
    conn: &mut Connection,
    organisation: OrganisationKey,
    alert: &StoredAlert,
) -> Result<()> {
    let state = alert.state.as_str();
    let notified = serde_json::to_string(&alert.notified)
        .map_err(|error| StoreError::Corrupt(format!("destinations: {error}")))?;
    query!(
        r#"
        insert into alerts (organisation, rule, group_key, state, since, fired_at, clear_since,
            resolved_at, found, notified, notified_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (organisation, rule, group_key) do update
        set state = $4, since = $5, fired_at = $6, clear_since = $7, resolved_at = $8, found = $9,
            notified = $10, notified_at = $11
        "#,
        organisation.0,
        alert.rule,
        alert.group,
        state,
        alert.since as _,
        alert.fired_at as _,
        alert.clear_since as _,
        alert.resolved_at as _,
        alert.found,
        notified,
        alert.notified_at as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores a notification. If an alert is resolved before the notification that it fires was attempted,
/// neither of both needs to be sent.
async fn enqueue(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    alert: &StoredAlert,
    new: &NewNotification,
) -> Result<()> {
    let is_superseded = new.event == AlertEvent::Resolved
        && supersede_begin(conn, now, organisation, alert, &new.destination).await?;
    let state =
        if is_superseded { NotificationState::Superseded } else { NotificationState::Pending };
    let (event, state, ended_at) =
        (new.event.as_str(), state.as_str(), is_superseded.then_some(now));
    query!(
        r#"
        insert into alert_notifications
            (id, organisation, rule, group_key, destination, event, body, state, due_at, created_at,
            ended_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10)
        "#,
        new.id,
        organisation.0,
        alert.rule,
        alert.group,
        new.destination,
        event,
        new.body,
        state,
        now as _,
        ended_at as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends the newest notification of an alert to a destination, if it says that the alert fires, was not
/// attempted, and follows a pending one that the alert was resolved, which then is the last one. Returns
/// whether it did. If a node claims the notification at the same time, the first one to change the row
/// succeeds.
async fn supersede_begin(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    alert: &StoredAlert,
    destination: &str,
) -> Result<bool> {
    let superseded = query!(
        r#"
        update alert_notifications set state = 'superseded', ended_at = $5
        where ended_at is null and attempts = 0 and event = 'firing'
            and notification = (
                select max(n.notification) from alert_notifications n
                where n.ended_at is null and n.organisation = $1 and n.destination = $2
                    and n.rule = $3 and n.group_key = $4
            )
            and 'resolved' = (
                select n.event from alert_notifications n
                where n.ended_at is null and n.organisation = $1 and n.destination = $2
                    and n.rule = $3 and n.group_key = $4
                    and n.notification < alert_notifications.notification
                order by n.notification desc limit 1
            )
        "#,
        organisation.0,
        destination,
        alert.rule,
        alert.group,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(superseded.rows_affected() > 0)
}

pub(super) async fn note_health(
    conn: &mut Connection,
    node: NodeId,
    health: NodeHealth,
) -> Result<()> {
    query!(
        r#"
        update nodes set disk_free_bytes = $2, disk_total_bytes = $3, certificate_expires_at = $4
        where id = $1
        "#,
        node as _,
        health.disk_free,
        health.disk_total,
        health.certificate_expires_at as _
    )
    .execute(conn)
    .await?;
    Ok(())
}
