//! Edits a rejected row. If its event is valid now, the transaction that publishes it removes the
//! row, as a drain does.

use std::collections::BTreeSet;

use super::super::dialect::{Connection, InboxStatements, query};
use super::super::log::append::{self, Grown};
use super::super::log::targets;
use super::rejected::{MISSING, one};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, OrganisationKey};
use crate::store::audit::entries;
use crate::store::{
    Appended, Audited, Conflict, EditedRow, Publish, Published, RejectedEdit, RejectedRow,
    Rejection, Result,
};

/// The outcome for the row, and the streams that grew.
type Edited = (EditedRow, Vec<Grown>);

pub(super) async fn edit(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    edit: RejectedEdit,
    dry_run: bool,
) -> Result<Audited<Edited>> {
    let before = current(conn, organisation, &edit).await?;
    let rejection = match &edit.result {
        Ok(new) => {
            let publish =
                Publish { organisation, events: vec![Ok(new.clone())], idempotency: None };
            let publishes = [&publish];
            let mut targets = targets::resolve(conn, &publishes).await?;
            let touched: BTreeSet<GatewayKey> = targets.gateways().collect();
            let now = targets.lock(conn, &touched).await?;
            match append::check(conn, &publish, &targets).await? {
                Err(refusal) => refusal.into(),
                Ok((id, gateways)) if dry_run => {
                    return Ok(unchanged(EditedRow::WouldPublish(id, gateways)));
                }
                Ok(_) => {
                    // Locks the row, after the streams.
                    take(conn, organisation, &edit).await?;
                    let outcome = append::append(conn, now, &publishes, &targets).await?;
                    let appended = only(outcome.published)?;
                    let entry = entries::rejected_published(&before, &new.event, edit.has_payload);
                    let edited = EditedRow::Published(appended);
                    return Ok(Audited::new((edited, outcome.grown), [entry]));
                }
            }
        }
        Err(rejection) => rejection.clone(),
    };
    if dry_run || edit.changes_nothing(&before, &rejection) {
        return Ok(unchanged(EditedRow::Rejected(rejection, Box::new(before))));
    }
    if !replace(conn, now, &edit, &rejection).await? {
        // Another node changed it meanwhile.
        return Err(current(conn, organisation, &edit).await.err().unwrap_or(MISSING));
    }
    let after = one(conn, organisation, edit.id).await?.ok_or(MISSING)?;
    let entry = entries::rejected_edited(&before, &after, edit.has_payload);
    let edited = EditedRow::Rejected(rejection, Box::new(after));
    Ok(Audited::new((edited, Vec::new()), [entry]))
}

/// The outcome of an edit that changes nothing.
fn unchanged(edited: EditedRow) -> Audited<Edited> {
    Audited::new((edited, Vec::new()), [])
}

/// Removes the row, if it was not changed meanwhile.
async fn take(
    conn: &mut Connection,
    organisation: OrganisationKey,
    edit: &RejectedEdit,
) -> Result<()> {
    let done = query!(
        "delete from inbox_rejected where id = $1 and version = $2 and retried_at is null",
        edit.id,
        edit.version
    )
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() > 0 {
        return Ok(());
    }
    Err(current(conn, organisation, edit).await.err().unwrap_or(MISSING))
}

/// Replaces the columns of the row, if it was not changed meanwhile. Returns whether it was not.
async fn replace(
    conn: &mut Connection,
    now: Timestamp,
    edit: &RejectedEdit,
    rejection: &Rejection,
) -> Result<bool> {
    let content = &edit.content;
    let reason = rejection.reason.as_str();
    let gateway_id = content.gateway_id.as_deref().and_then(Connection::rejected_gateway_id);
    let expires_at = content.expires_at.as_deref().and_then(Connection::rejected_expiry);
    let done = query!(
        r#"
        update inbox_rejected
        set version = version + 1, type = $3, payload = $4, gateway_id = $5, target = $6,
            event_id = $7, correlation_id = $8, user_id = $9, expires_at = $10,
            traceparent = $11, collapse_key = $12, reason = $13, detail = $14, rejected_at = $15
        where id = $1 and version = $2 and retried_at is null
        "#,
        edit.id,
        edit.version,
        content.event_type,
        content.payload,
        gateway_id as _,
        content.target.as_deref(),
        content.event_id.as_deref(),
        content.correlation_id.as_deref(),
        content.user_id.as_deref(),
        expires_at as _,
        content.traceparent.as_deref(),
        content.collapse_key.as_deref(),
        reason,
        rejection.detail,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The result of the only event of the only request, which was checked before.
fn only(mut published: Vec<Published>) -> Result<Appended> {
    match published.pop() {
        Some(Published::Done(mut results)) => match results.pop() {
            Some(Ok(appended)) => Ok(appended),
            _ => Err(Conflict::Concurrent.into()),
        },
        _ => Err(Conflict::Concurrent.into()),
    }
}

/// The row, if it has the version that was edited and was not put back.
async fn current(
    conn: &mut Connection,
    organisation: OrganisationKey,
    edit: &RejectedEdit,
) -> Result<RejectedRow> {
    let row = one(conn, organisation, edit.id).await?.ok_or(MISSING)?;
    if row.retried_at.is_some() {
        return Err(Conflict::PutBack(row.id).into());
    }
    if row.version != edit.version {
        return Err(Conflict::Edited { id: row.id, version: row.version }.into());
    }
    Ok(row)
}
