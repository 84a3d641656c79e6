//! Notifications and their attempts.

use std::time::Duration;

use super::super::dialect::{Connection, NodeStatements, query, query_scalar};
use super::definitions::destination;
use crate::clock::Timestamp;
use crate::event::{NodeId, OrganisationKey};
use crate::store::{
    AfterAttempt, AlertEvent, AttemptEnd, ClaimedNotification, KEPT_ATTEMPTS, NotificationState,
    Result, StoredAttempt, StoredNotification, storable,
};

/// Whether a notification is due that no node has claimed.
pub(super) async fn has_work(conn: &mut Connection) -> Result<bool> {
    let now = conn.now().await?;
    let found = query_scalar!(
        r#"
        select n.notification as "notification!: i64" from alert_notifications n
        where n.ended_at is null and n.due_at <= $1
            and (n.claimed_until is null or n.claimed_until <= $1)
            and not exists (
                select 1 from alert_notifications e
                where e.ended_at is null and e.organisation = n.organisation
                    and e.destination = n.destination and e.rule = n.rule
                    and e.group_key = n.group_key and e.notification < n.notification
            )
        limit 1
        "#,
        now as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

pub(super) async fn claim(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    lease: Duration,
    per_destination: i64,
    limit: i64,
) -> Result<Vec<ClaimedNotification>> {
    // Those that are being sent come first, so that they count towards their destination's limit. Then
    // destinations are served round-robin: one that does not respond, with many pending notifications,
    // must not take all slots.
    let due = query_scalar!(
        r#"
        with waiting as (
            select n.notification, n.due_at, n.claimed_until, row_number() over (
                partition by n.organisation, n.destination
                order by case when n.claimed_until > $1 then 0 else 1 end, n.due_at, n.notification
            ) as place
            from alert_notifications n
            where n.ended_at is null and (n.due_at <= $1 or n.claimed_until > $1)
                and not exists (
                    select 1 from alert_notifications e
                    where e.ended_at is null and e.organisation = n.organisation
                        and e.destination = n.destination and e.rule = n.rule
                        and e.group_key = n.group_key and e.notification < n.notification
                )
        )
        select notification as "notification!: i64" from waiting
        where place <= $2 and (claimed_until is null or claimed_until <= $1)
        order by place, due_at, notification limit $3
        "#,
        now as _,
        per_destination,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut claimed = Vec::with_capacity(due.len());
    for key in due {
        claimed.extend(claim_one(conn, now, node, lease, key).await?);
    }
    Ok(claimed)
}

/// `None` if another node was faster.
async fn claim_one(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    lease: Duration,
    key: i64,
) -> Result<Option<ClaimedNotification>> {
    let until = now.plus(lease);
    let row = query!(
        r#"
        update alert_notifications
        set claimed_until = $2, claimed_by = $3, attempts = attempts + 1
        where notification = $1 and ended_at is null
            and (claimed_until is null or claimed_until <= $4)
        returning id as "id!: String", organisation as "organisation!: OrganisationKey",
            rule as "rule!: String", group_key as "group_key!: String",
            destination as "destination!: String", event as "event!: String",
            body as "body!: String", attempts as "attempts!: i64",
            created_at as "created_at!: Timestamp"
        "#,
        key,
        until as _,
        node as _,
        now as _
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    query!(
        "insert into alert_attempts (notification, attempt, node, started_at) values ($1, $2, $3, $4)",
        key,
        row.attempts,
        node as _,
        now as _
    )
    .execute(&mut *conn)
    .await?;
    let forgotten = row.attempts - KEPT_ATTEMPTS;
    query!("delete from alert_attempts where notification = $1 and attempt <= $2", key, forgotten)
        .execute(&mut *conn)
        .await?;
    let destination = destination(conn, row.organisation, &row.destination).await?;
    Ok(Some(ClaimedNotification {
        key,
        id: row.id,
        organisation: row.organisation,
        rule: row.rule,
        group: row.group_key,
        event: AlertEvent::stored(&row.event),
        body: row.body,
        attempt: row.attempts,
        created_at: row.created_at,
        claimed_at: now,
        destination,
    }))
}

pub(super) async fn end(
    conn: &mut Connection,
    now: Timestamp,
    key: i64,
    attempt: i64,
    end: &AttemptEnd,
) -> Result<()> {
    let detail = storable(&end.detail);
    query!(
        r#"
        update alert_attempts set ended_at = $3, status = $4, detail = $5
        where notification = $1 and attempt = $2 and ended_at is null
        "#,
        key,
        attempt,
        now as _,
        end.status,
        detail.as_ref()
    )
    .execute(&mut *conn)
    .await?;
    match end.then {
        // It has arrived, even if another attempt was begun meanwhile.
        AfterAttempt::Delivered => {
            conclude(conn, now, key, None, NotificationState::Delivered).await
        }
        AfterAttempt::GivenUp => {
            conclude(conn, now, key, Some(attempt), NotificationState::Failed).await
        }
        AfterAttempt::Retry(pause) => {
            let due_at = now.plus(pause);
            query!(
                r#"
                update alert_notifications set due_at = $3, claimed_until = null, claimed_by = null
                where notification = $1 and attempts = $2 and ended_at is null
                "#,
                key,
                attempt,
                due_at as _
            )
            .execute(conn)
            .await?;
            Ok(())
        }
    }
}

/// Ends a notification, if this attempt is its newest one.
async fn conclude(
    conn: &mut Connection,
    now: Timestamp,
    key: i64,
    newest: Option<i64>,
    state: NotificationState,
) -> Result<()> {
    let (newest, state) = (newest.unwrap_or(0), state.as_str());
    query!(
        r#"
        update alert_notifications
        set state = $3, ended_at = $4, claimed_until = null, claimed_by = null
        where notification = $1 and (cast($2 as bigint) = 0 or attempts = $2) and ended_at is null
        "#,
        key,
        newest,
        state,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn list(
    conn: &mut Connection,
    organisation: OrganisationKey,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<StoredNotification>> {
    let before = before.unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = query!(
        r#"
        select notification as "key!: i64", id as "id!: String", rule as "rule!: String",
            group_key as "group_key!: String", destination as "destination!: String",
            event as "event!: String", state as "state!: String", attempts as "attempts!: i64",
            due_at as "due_at!: Timestamp", created_at as "created_at!: Timestamp",
            ended_at as "ended_at?: Timestamp"
        from alert_notifications where organisation = $1 and notification < $2
        order by notification desc limit $3
        "#,
        organisation.0,
        before,
        limit
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut found: Vec<StoredNotification> = rows
        .into_iter()
        .map(|row| StoredNotification {
            key: row.key,
            id: row.id,
            rule: row.rule,
            group: row.group_key,
            destination: row.destination,
            event: AlertEvent::stored(&row.event),
            state: NotificationState::stored(&row.state),
            attempt_count: row.attempts,
            due_at: row.due_at,
            created_at: row.created_at,
            ended_at: row.ended_at,
            attempts: Vec::new(),
        })
        .collect();
    let (Some(newest), Some(oldest)) = (found.first(), found.last()) else { return Ok(found) };
    let rows = query!(
        r#"
        select a.notification as "notification!: i64", a.attempt as "attempt!: i64",
            a.node as "node!: NodeId", a.started_at as "started_at!: Timestamp",
            a.ended_at as "ended_at?: Timestamp", a.status as "status?: i64",
            a.detail as "detail!: String"
        from alert_attempts a join alert_notifications n on n.notification = a.notification
        where n.organisation = $1 and n.notification between $2 and $3
        order by a.notification, a.attempt
        "#,
        organisation.0,
        oldest.key,
        newest.key
    )
    .fetch_all(conn)
    .await?;
    for row in rows {
        let Ok(at) = found.binary_search_by(|one| row.notification.cmp(&one.key)) else { continue };
        found[at].attempts.push(StoredAttempt {
            number: row.attempt,
            node: row.node,
            started_at: row.started_at,
            ended_at: row.ended_at,
            status: row.status,
            detail: row.detail,
        });
    }
    Ok(found)
}

/// Removes up to `batch` notifications that ended before an instant, and up to `batch` alerts that were
/// resolved before it. Returns the larger of the two numbers.
pub(in super::super) async fn forget(
    conn: &mut Connection,
    before: Timestamp,
    batch: i64,
) -> Result<u64> {
    let ended = query_scalar!(
        r#"
        select notification as "notification!: i64" from alert_notifications
        where ended_at < $1 order by ended_at limit $2
        "#,
        before as _,
        batch
    )
    .fetch_all(&mut *conn)
    .await?;
    for key in &ended {
        query!("delete from alert_attempts where notification = $1", key)
            .execute(&mut *conn)
            .await?;
        query!("delete from alert_notifications where notification = $1", key)
            .execute(&mut *conn)
            .await?;
    }
    let resolved = query!(
        r#"
        delete from alerts where (organisation, rule, group_key) in (
            select organisation, rule, group_key from alerts
            where resolved_at < $1 order by resolved_at limit $2
        )
        "#,
        before as _,
        batch
    )
    .execute(conn)
    .await?;
    Ok(resolved.rows_affected().max(u64::try_from(ended.len()).unwrap_or(u64::MAX)))
}
