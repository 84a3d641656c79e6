//! Old dead letters whose deliveries were trimmed from the log. While a delivery is in the log, its
//! dead letter marks it as not delivered. Until every position has passed it, its dead letter keeps
//! a late connection from recording it as failed again.

use std::collections::BTreeMap;

use super::super::dialect::{
    Connection, NodeStatements, RetentionStatements, query, query_as, query_scalar,
};
use super::super::ledger;
use super::SpentEvents;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Sequence};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::{DeadLetterPlace, Range, Result, TrimMark, Trimmed};

/// Examines the next dead letters that are older than the ledger. Those whose deliveries are still
/// in the log are not examined again: they are removed when the log is trimmed. The same holds for
/// those that are kept for redrives. Returns how many were examined.
pub(crate) async fn forget_spent(
    conn: &mut Connection,
    before: Timestamp,
    most_events: i64,
    batch: i64,
    mark: &mut TrimMark,
) -> Result<u64> {
    let rows = next(conn, mark.dead_letter, before, batch).await?;
    let Some(last) = rows.last().map(Row::place) else {
        if std::mem::take(&mut mark.dead_letters_wait) {
            mark.dead_letter = DeadLetterPlace::FIRST;
            mark.old_dead_letter = DeadLetterPlace::FIRST;
        }
        return Ok(0);
    };
    let gateways = rows.iter().map(|row| GatewayKey(row.gateway)).collect();
    conn.lock_streams(&gateways).await?;
    let from = std::mem::replace(&mut mark.dead_letter, last);
    forget(conn, from, last, Some(most_events)).await?;
    mark.dead_letters_wait |= waits(conn, from, last, Some(most_events)).await?;
    Ok(rows.len() as u64)
}

/// Examines the next dead letters that are too old to be kept in any case, and deletes the events
/// that were kept for them. A batch has at most `batch` rows and about as many deliveries.
pub(crate) async fn forget_old(
    conn: &mut Connection,
    before: Timestamp,
    spent: SpentEvents,
    batch: i64,
    mark: &mut TrimMark,
    trimmed: &mut Trimmed,
) -> Result<u64> {
    let mut rows = next(conn, mark.old_dead_letter, before, batch).await?;
    let found = rows.len() as u64;
    let mut deliveries = 0;
    let fitting = rows.iter().take_while(|row| {
        deliveries += row.length();
        deliveries <= batch
    });
    let fitting = fitting.count().max(1);
    let is_cut = fitting < rows.len();
    rows.truncate(fitting);
    let Some(last) = rows.last().map(Row::place) else { return Ok(0) };
    let gateways = rows.iter().map(|row| GatewayKey(row.gateway)).collect();
    conn.lock_streams(&gateways).await?;
    let from = std::mem::replace(&mut mark.old_dead_letter, last);
    let mut events = Vec::new();
    for gone in forget(conn, from, last, None).await? {
        let of = query_scalar!(
            r#"
            select event as "event!: i64" from trimmed
            where gateway = $1 and sequence between $2 and $3
            "#,
            gone.gateway.0,
            gone.first,
            gone.last
        );
        events.append(&mut of.fetch_all(&mut *conn).await?);
    }
    trimmed.events += conn.delete_spent_events(&events, spent, mark).await?;
    mark.dead_letters_wait |= waits(conn, from, last, None).await?;
    Ok(if is_cut { u64::MAX } else { found })
}

/// A range of dead letters, ordered by age.
struct Row {
    dead_at: Timestamp,
    gateway: i64,
    first: i64,
    last: i64,
}

impl Row {
    const fn place(&self) -> DeadLetterPlace {
        DeadLetterPlace {
            dead_at: self.dead_at,
            gateway: GatewayKey(self.gateway),
            first: Sequence(self.first),
        }
    }

    const fn length(&self) -> i64 {
        self.last - self.first + 1
    }
}

async fn next(
    conn: &mut Connection,
    after: DeadLetterPlace,
    before: Timestamp,
    batch: i64,
) -> Result<Vec<Row>> {
    Ok(query_as!(
        Row,
        r#"
        select dead_at as "dead_at!: Timestamp", gateway as "gateway!: i64",
            first_sequence as "first!: i64", last_sequence as "last!: i64"
        from dead_letters
        where (dead_at, gateway, first_sequence) > ($1, $2, $3) and dead_at < $4
        order by dead_at, gateway, first_sequence limit $5
        "#,
        after.dead_at as _,
        after.gateway.0,
        after.first.0,
        before as _,
        batch
    )
    .fetch_all(conn)
    .await?)
}

/// A deleted range.
struct Gone {
    gateway: GatewayKey,
    first: i64,
    last: i64,
    /// How many of its deliveries could still be redriven.
    open: i64,
}

/// Deletes dead letters in a span of the index if every position has passed them and they were
/// trimmed from the log. With `kept_among`, keeps the open ones among that many last events of a
/// gateway.
async fn forget(
    conn: &mut Connection,
    from: DeadLetterPlace,
    to: DeadLetterPlace,
    kept_among: Option<i64>,
) -> Result<Vec<Gone>> {
    let gone = query_as!(
        Gone,
        r#"
        delete from dead_letters where (gateway, first_sequence) in (
            select d.gateway, d.first_sequence
            from dead_letters d join streams s on s.gateway = d.gateway
            join gateways g on g.gateway = d.gateway
            where (d.dead_at, d.gateway, d.first_sequence) > ($1, $2, $3)
              and (d.dead_at, d.gateway, d.first_sequence) <= ($4, $5, $6)
              and d.last_sequence <= s.floor
              and d.last_sequence <= coalesce(
                  (select min(case when u.confirm = 'applied' then u.applied_up_to else u.received end)
                   from cursors u where u.gateway = d.gateway and g.deleted_at is null),
                  case when g.deleted_at is not null then d.last_sequence end,
                  0
              )
              and (d.last_sequence <= s.head - $7 or $7 is null or d.redriven_at is not null or d.reason = 'retention'
                  or g.deleted_at is not null)
        )
        returning gateway as "gateway!: GatewayKey", first_sequence as "first!: i64",
            last_sequence as "last!: i64",
            case when redriven_at is null then last_sequence - first_sequence + 1 else 0 end as "open!: i64"
        "#,
        from.dead_at as _,
        from.gateway.0,
        from.first.0,
        to.dead_at as _,
        to.gateway.0,
        to.first.0,
        kept_among
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut counts: BTreeMap<GatewayKey, i64> = BTreeMap::new();
    for range in &gone {
        *counts.entry(range.gateway).or_default() += range.open;
    }
    for (gateway, count) in counts {
        ledger::count_dead(conn, gateway, -count).await?;
    }
    Ok(gone)
}

/// Whether some in a span of the index wait for a position to pass them.
async fn waits(
    conn: &mut Connection,
    from: DeadLetterPlace,
    to: DeadLetterPlace,
    kept_among: Option<i64>,
) -> Result<bool> {
    Ok(query_scalar!(
        r#"
        select exists (
            select 1 from dead_letters d join streams s on s.gateway = d.gateway
            join gateways g on g.gateway = d.gateway
            where (d.dead_at, d.gateway, d.first_sequence) > ($1, $2, $3)
              and (d.dead_at, d.gateway, d.first_sequence) <= ($4, $5, $6)
              and d.last_sequence <= s.floor
              and (d.last_sequence <= s.head - $7 or $7 is null or d.redriven_at is not null or d.reason = 'retention'
                  or g.deleted_at is not null)
        ) as "waits!: bool"
        "#,
        from.dead_at as _,
        from.gateway.0,
        from.first.0,
        to.dead_at as _,
        to.gateway.0,
        to.first.0,
        kept_among
    )
    .fetch_one(conn)
    .await?)
}

/// Dead letters that died before `spent` are deleted unless they are kept for redrives; those that
/// died before `dead` are deleted in any case.
pub(crate) struct Old {
    pub(crate) spent: Timestamp,
    pub(crate) dead: Timestamp,
}

/// Deletes old dead letters in a range that was just trimmed from a log, up to the lowest position.
pub(crate) async fn forget_trimmed(
    conn: &mut Connection,
    Old { spent, dead }: Old,
    most_events: i64,
    gateway: GatewayKey,
    trimmed: Range,
    passed: i64,
) -> Result<()> {
    let Range { first: Sequence(first), last: Sequence(last) } = trimmed;
    let last = last.min(passed);
    let reaching = first - MAX_RANGE_LENGTH;
    let gone = query!(
        r#"
        delete from dead_letters
        where gateway = $1 and first_sequence > $2 and first_sequence <= $3
            and last_sequence <= $3 and dead_at < $4
            and (dead_at < $6 or redriven_at is not null or reason = 'retention'
                or exists (select 1 from gateways g where g.gateway = $1 and g.deleted_at is not null)
                or last_sequence <= (select s.head from streams s where s.gateway = $1) - $5)
        returning case when redriven_at is null then last_sequence - first_sequence + 1 else 0 end as "dead!: i64"
        "#,
        gateway.0,
        reaching,
        last,
        spent as _,
        most_events,
        dead as _
    )
    .fetch_all(&mut *conn)
    .await?;
    let count: i64 = gone.iter().map(|row| row.dead).sum();
    if count > 0 { ledger::count_dead(conn, gateway, -count).await } else { Ok(()) }
}
