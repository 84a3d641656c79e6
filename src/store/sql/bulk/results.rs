//! Results that are kept for repeats of a request.

use super::super::dialect::log::StoredResponse;
use super::super::dialect::{Connection, LogStatements};
use super::jobs;
use crate::clock::Timestamp;
use crate::store::{Actor, Conflict, EarlierResult, KeptResult, RequestKey, Result, StoreError};

/// The result of an earlier request with the actor's key.
pub(super) async fn earlier(conn: &mut Connection, actor: &Actor) -> Result<Option<EarlierResult>> {
    let Some(key) = &actor.request_key else { return Ok(None) };
    let Some(row) = kept(conn, actor, key).await? else { return Ok(None) };
    if row.digest.as_slice() != key.digest {
        return Err(Conflict::KeyReused { key: key.key.clone() }.into());
    }
    let result = KeptResult::stored(&row.response)?;
    let job = match result.job() {
        Some(id) => jobs::one(conn, actor.organisation, id).await?,
        None => None,
    };
    result.earlier(job).map(Some)
}

/// Keeps a result, in the transaction of what it reports. An error, which undoes the transaction,
/// if a concurrent request has kept one under the key. The streams are locked, and the head of the
/// audit log is not yet.
pub(in super::super) async fn keep(
    conn: &mut Connection,
    now: Timestamp,
    actor: &Actor,
    result: &KeptResult,
) -> Result<()> {
    let Some(key) = actor.request_key.as_ref().filter(|_| result.is_kept()) else { return Ok(()) };
    let response = result.to_stored()?;
    let row = StoredResponse {
        organisation: actor.organisation,
        key: key.name(),
        digest: key.digest.to_vec(),
        response: response.clone(),
    };
    match conn.store_responses(now, vec![row]).await {
        // A concurrent transaction has inserted it.
        Err(StoreError::Conflict(Conflict::Concurrent)) => return Err(raced()),
        done => done?,
    }
    // A row that was there before stays as it is.
    let is_own = kept(conn, actor, key).await?.is_some_and(|row| row.response == response);
    if is_own { Ok(()) } else { Err(raced()) }
}

async fn kept(
    conn: &mut Connection,
    actor: &Actor,
    key: &RequestKey,
) -> Result<Option<StoredResponse>> {
    let name = key.name();
    Ok(conn.stored_responses(&[(actor.organisation, name.as_str())]).await?.pop())
}

fn raced() -> StoreError {
    StoreError::Unavailable(
        "a concurrent request with the same Idempotency-Key was faster".to_owned(),
    )
}
