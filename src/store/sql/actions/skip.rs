//! Skips a pending delivery: it becomes a dead letter, and connections pass over it when its turn
//! comes.

use super::super::deliveries::details;
use super::super::dialect::{Connection, query};
use super::super::gateways::live::locked;
use super::super::ledger::logged::{Failed, named};
use super::super::ledger::{self, Ended, How};
use super::revise;
use crate::clock::Timestamp;
use crate::event::{GatewayId, NodeId, Reason, Sequence};
use crate::store::audit::entries;
use crate::store::{
    Actor, Audited, Conflict, DeliveryKey, DeliveryState, Gateway, Range, Result, Skipped,
    StoreError, UndeliveredRange,
};

const MISSING: StoreError = StoreError::NotFound("delivery");

pub(super) async fn skip(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    actor: &Actor,
    (id, sequence): (GatewayId, Sequence),
    reason: &str,
    dry_run: bool,
) -> Result<Audited<Skipped>> {
    let gateway = locked(conn, actor.organisation, id).await?;
    if !(Sequence(1)..=gateway.head).contains(&sequence) {
        return Err(MISSING);
    }
    let key = gateway.key;
    let changed = !is_skipped(conn, &gateway, sequence).await?;
    let delivery = delivery(conn, &gateway, sequence).await?;
    if dry_run || !changed {
        return Ok(Audited::new(Skipped { key, changed, delivery, control: None }, []));
    }
    let range = delivery.range;
    let detail = Skipped::detail(&actor.principal.name, reason);
    let how = How::Failed(Reason::Skipped, &detail);
    let ended =
        Ended { gateway: key, connection: None, range, how, started_at: now, finished_at: now };
    ledger::insert_attempts(conn, node, &ended).await?;
    ledger::dead_letter(conn, key, range, Reason::Skipped, now).await?;
    query!(
        "update outbox set withheld = $3 where gateway = $1 and sequence = $2",
        key.0,
        sequence.0,
        Reason::Skipped as _
    )
    .execute(&mut *conn)
    .await?;
    let control = Some(revise(conn, now, key).await?);
    let entry = entries::delivery_skipped(&gateway, sequence, delivery.events.first(), reason);
    Ok(Audited::new(Skipped { key, changed, delivery, control }, [entry]))
}

/// Whether it was skipped before. A conflict if it is neither skipped nor pending.
async fn is_skipped(conn: &mut Connection, gateway: &Gateway, sequence: Sequence) -> Result<bool> {
    let dead = query!(
        r#"
        select reason as "reason!: Reason" from dead_letters
        where gateway = $1 and first_sequence <= $2 and last_sequence >= $2
            and first_sequence > $2 - 1000
        "#,
        gateway.key.0,
        sequence.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    match dead.map(|row| row.reason) {
        Some(Reason::Skipped) => return Ok(true),
        Some(reason) => return Err(Conflict::GivenUp { sequence, reason }.into()),
        None => {}
    }
    let of = DeliveryKey { gateway: gateway.key, sequence };
    let standing = details::standings(conn, &[of]).await?.pop().ok_or(MISSING)?;
    match standing.delivery.state {
        DeliveryState::Pending if sequence > gateway.floor => Ok(false),
        DeliveryState::Pending => Err(MISSING),
        DeliveryState::Delivered
        | DeliveryState::Filtered
        | DeliveryState::Superseded
        | DeliveryState::Failed => Err(Conflict::Delivered(sequence).into()),
    }
}

async fn delivery(
    conn: &mut Connection,
    gateway: &Gateway,
    sequence: Sequence,
) -> Result<UndeliveredRange> {
    let failed = Failed {
        gateway: gateway.key,
        gateway_id: gateway.id,
        gateway_name: gateway.name.clone(),
        range: Range { first: sequence, last: sequence },
    };
    named(conn, vec![failed]).await?.pop().ok_or(MISSING)
}
