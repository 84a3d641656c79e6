//! Dead letters that are old, and whose deliveries are gone from the log: as
//! long as these are there, their dead letters say that they were not delivered.
//! And until every position has passed them they keep a connection that comes
//! late from recording them as lost again.

use std::collections::BTreeMap;

use super::super::dialect::{self, Connection, query, query_scalar};
use super::super::ledger::{self, LONGEST_RANGE};
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::{Range, Result, TrimMark};

/// Looks at the next old ones. Those whose deliveries are still there are
/// passed for good: they go when the log is trimmed. Answers how many were
/// looked at.
pub(super) async fn forget_old(
    connection: &mut Connection,
    before: Timestamp,
    batch: i64,
    mark: &mut TrimMark,
) -> Result<u64> {
    let (dead_at, gateway, first) = mark.letter;
    let rows = query!(
        r#"
        select dead_at as "dead_at!: Timestamp", gateway as "gateway!: i64",
            first_sequence as "first!: i64"
        from dead_letters
        where (dead_at, gateway, first_sequence) > ($1, $2, $3) and dead_at < $4
        order by dead_at, gateway, first_sequence limit $5
        "#,
        dead_at as _,
        gateway,
        first,
        before as _,
        batch
    )
    .fetch_all(&mut *connection)
    .await?;
    let Some(last) = rows.last() else {
        if std::mem::take(&mut mark.letters_wait) {
            mark.letter = TrimMark::default().letter;
        }
        return Ok(0);
    };
    let gateways = rows.iter().map(|row| GatewayKey(row.gateway)).collect();
    dialect::lock_streams(connection, &gateways).await?;
    let gone = query!(
        r#"
        delete from dead_letters where (gateway, first_sequence) in (
            select d.gateway, d.first_sequence
            from dead_letters d join streams s on s.gateway = d.gateway
            where (d.dead_at, d.gateway, d.first_sequence) > ($1, $2, $3)
              and (d.dead_at, d.gateway, d.first_sequence) <= ($4, $5, $6)
              and d.last_sequence <= s.floor
              and d.last_sequence <= coalesce(
                  (select min(u.received) from cursors u where u.gateway = d.gateway),
                  (select d.last_sequence from gateways g where g.gateway = d.gateway and g.deleted_at is not null),
                  0
              )
        )
        returning gateway as "gateway!: GatewayKey",
            case when redriven_at is null then last_sequence - first_sequence + 1 else 0 end as "dead!: i64"
        "#,
        dead_at as _,
        gateway,
        first,
        last.dead_at as _,
        last.gateway,
        last.first
    )
    .fetch_all(&mut *connection)
    .await?;
    mark.letter = (last.dead_at, last.gateway, last.first);
    mark.letters_wait |= query_scalar!(
        r#"
        select exists (
            select 1 from dead_letters d join streams s on s.gateway = d.gateway
            where (d.dead_at, d.gateway, d.first_sequence) > ($1, $2, $3)
              and (d.dead_at, d.gateway, d.first_sequence) <= ($4, $5, $6)
              and d.last_sequence <= s.floor
        ) as "waits!: bool"
        "#,
        dead_at as _,
        gateway,
        first,
        last.dead_at as _,
        last.gateway,
        last.first
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut counts: BTreeMap<GatewayKey, i64> = BTreeMap::new();
    for row in gone {
        *counts.entry(row.gateway).or_default() += row.dead;
    }
    for (gateway, count) in counts {
        ledger::count_dead(connection, gateway, -count).await?;
    }
    Ok(rows.len() as u64)
}

/// Removes those that are old among what was just trimmed from a log, up to
/// where every position has passed.
pub(super) async fn forget_trimmed(
    connection: &mut Connection,
    before: Timestamp,
    gateway: GatewayKey,
    trimmed: Range,
    passed: i64,
) -> Result<()> {
    let Range { first: Sequence(first), last: Sequence(last) } = trimmed;
    let last = last.min(passed);
    let reaching = first - LONGEST_RANGE;
    let gone = query!(
        r#"
        delete from dead_letters
        where gateway = $1 and first_sequence > $2 and first_sequence <= $3
            and last_sequence <= $3 and dead_at < $4
        returning case when redriven_at is null then last_sequence - first_sequence + 1 else 0 end as "dead!: i64"
        "#,
        gateway.0,
        reaching,
        last,
        before as _
    )
    .fetch_all(&mut *connection)
    .await?;
    let count: i64 = gone.iter().map(|row| row.dead).sum();
    if count > 0 { ledger::count_dead(connection, gateway, -count).await } else { Ok(()) }
}
