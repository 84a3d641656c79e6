//! Rows of the ledger: attempts and dead letters. They are ranges of limited length, which bounds
//! the search for the rows that cover a sequence.

use std::time::Duration;

use async_trait::async_trait;

use super::Backend;
use super::access::{Access as _, run};
use super::deliveries;
use super::dialect::{Connection, query, query_as};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{ConnectionId, EventId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence};
use crate::store::{
    Actor, DeliveryCursor, DeliveryFilter, DeliveryKey, DeliveryPage, DeliveryState, EventHistory,
    Ledger, Outcome, Range, Record, RedriveSelection, Redriven, Result, Rollout, RolloutOf,
    StatePage, SummaryBy, SummaryRow, Totals, storable,
};

pub(crate) mod history;
pub(crate) mod logged;
pub(crate) mod record;
pub(crate) mod reports;
pub(crate) mod rollout;

use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::ranges::cut;

#[async_trait]
impl Ledger for Backend {
    async fn record(&self, records: Vec<Record>) -> Result<()> {
        self.writer.record(records).await
    }

    async fn totals(&self, organisation: OrganisationKey) -> Result<Totals> {
        run!(self.query, |conn| history::totals(conn, organisation))
    }

    async fn event_history(
        &self,
        organisation: OrganisationKey,
        id: &EventId,
    ) -> Result<Option<EventHistory>> {
        let id = id.clone();
        run!(self.query, |conn| history::event_history(conn, organisation, &id))
    }

    async fn rollout(&self, organisation: OrganisationKey, of: &RolloutOf) -> Result<Rollout> {
        let of = of.clone();
        run!(self.query, |conn| rollout::rollout(conn, organisation, &of))
    }

    async fn failed_deliveries(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let filter = filter.clone();
        run!(self.query, |conn| deliveries::failed_deliveries(
            conn,
            organisation,
            &filter,
            cursor,
            limit
        ))
    }

    async fn deliveries_by_outcome(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryCursor>,
        limit: usize,
    ) -> Result<DeliveryPage> {
        let filter = filter.clone();
        run!(self.query, |conn| deliveries::deliveries_by_outcome(
            conn,
            organisation,
            &filter,
            state,
            cursor,
            limit
        ))
    }

    async fn deliveries_in_state(
        &self,
        organisation: OrganisationKey,
        filter: &DeliveryFilter,
        state: Option<DeliveryState>,
        cursor: Option<DeliveryKey>,
        limit: usize,
    ) -> Result<StatePage> {
        let filter = filter.clone();
        run!(self.query, |conn| deliveries::states::deliveries_in_state(
            conn,
            organisation,
            filter,
            state,
            cursor,
            limit
        ))
    }

    async fn failure_summary(
        &self,
        organisation: OrganisationKey,
        window: TimeWindow,
        bucket: Duration,
        by: SummaryBy,
    ) -> Result<Vec<SummaryRow>> {
        run!(self.query, |conn| deliveries::summary::failure_summary(
            conn,
            organisation,
            window,
            bucket,
            by
        ))
    }

    async fn redrive(
        &self,
        actor: &Actor,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        self.run_redrive(actor, selection, dry_run).await
    }
}

/// Attempts with the same outcome.
pub(super) struct Ended<'a> {
    pub(super) gateway: GatewayKey,
    /// The connection that attempted them; `None` if no gateway was connected.
    pub(super) connection: Option<ConnectionId>,
    pub(super) range: Range,
    pub(super) how: How<'a>,
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
}

/// The outcome of an attempt.
#[derive(Clone, Copy)]
pub(super) enum How<'a> {
    /// The gateway received it, with details.
    Received(&'a str),
    /// The gateway applied it, with details.
    Applied(&'a str),
    /// The gateway filtered it, with details.
    Filtered(&'a str),
    /// The gateway has read a snapshot instead, for this reason.
    Snapshot(&'a str),
    /// It failed, for this reason, with details.
    Failed(Reason, &'a str),
    /// Unknown, with details.
    Unknown(&'a str),
}

/// Inserts attempts, and adds failed ones to the stream's totals.
pub(super) async fn insert_attempts(
    conn: &mut Connection,
    node: NodeId,
    ended: &Ended<'_>,
) -> Result<()> {
    let (outcome, reason, detail) = match ended.how {
        How::Received(detail) => (Outcome::Received, None, Some(detail)),
        How::Applied(detail) => (Outcome::Applied, None, Some(detail)),
        How::Filtered(detail) => (Outcome::Filtered, None, Some(detail)),
        How::Snapshot(detail) => (Outcome::Snapshot, None, Some(detail)),
        How::Failed(reason, detail) => (Outcome::Failed, Some(reason), Some(detail)),
        How::Unknown(detail) => (Outcome::Unknown, None, Some(detail)),
    };
    let detail = detail.filter(|detail| !detail.is_empty()).map(storable);
    for piece in cut(ended.range) {
        query!(
            r#"
            insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, detail,
                connection, instance, node, started_at, finished_at)
            values ($1, $2, $3, $4, $5, $6, $7,
                coalesce((select instance from connections where id = $7), ''), $8, $9, $10)
            "#,
            ended.gateway.0,
            piece.first.0,
            piece.last.0,
            outcome as _,
            reason as _,
            detail.as_deref(),
            ended.connection as _,
            node as _,
            ended.started_at as _,
            ended.finished_at as _
        )
        .execute(&mut *conn)
        .await?;
    }
    if let Some(reason) = reason {
        let count = (ended.range.last.0 - ended.range.first.0 + 1).max(0);
        query!(
            r#"
            update streams set failed_total = failed_total + $2,
                last_failure_reason = case when last_failure_at > $3 then last_failure_reason else $4 end,
                last_failure_at = case when last_failure_at > $3 then last_failure_at else $3 end
            where gateway = $1
            "#,
            ended.gateway.0,
            count,
            ended.finished_at as _,
            reason as _
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// The parts of a range that are not dead letters.
pub(super) async fn not_dead(
    conn: &mut Connection,
    gateway: GatewayKey,
    range: Range,
) -> Result<Vec<Range>> {
    let begin = range.first.0 - MAX_RANGE_LENGTH;
    let dead = query!(
        r#"
        select first_sequence as "first!: i64", last_sequence as "last!: i64" from dead_letters
        where gateway = $1 and first_sequence between $2 and $3 and last_sequence >= $4
        order by first_sequence
        "#,
        gateway.0,
        begin,
        range.last.0,
        range.first.0
    )
    .fetch_all(conn)
    .await?;
    let mut parts = Vec::new();
    let mut first = range.first.0;
    for row in dead {
        if first < row.first {
            parts.push(Range { first: Sequence(first), last: Sequence(row.first - 1) });
        }
        first = first.max(row.last + 1);
    }
    if first <= range.last.0 {
        parts.push(Range { first: Sequence(first), last: range.last });
    }
    Ok(parts)
}

/// Adds to the number of dead letters that can be redriven.
pub(super) async fn count_dead(conn: &mut Connection, gateway: GatewayKey, by: i64) -> Result<()> {
    query!("update streams set dead_total = dead_total + $2 where gateway = $1", gateway.0, by)
        .execute(conn)
        .await?;
    Ok(())
}

/// Inserts dead letters. Parts that are dead letters already stay unchanged.
pub(super) async fn dead_letter(
    conn: &mut Connection,
    gateway: GatewayKey,
    range: Range,
    reason: Reason,
    at: Timestamp,
) -> Result<()> {
    rejected(conn, gateway, range, reason, None, at).await
}

/// The same, of deliveries that an instance has rejected; that is `""` for an unnamed connection.
pub(super) async fn rejected(
    conn: &mut Connection,
    gateway: GatewayKey,
    range: Range,
    reason: Reason,
    by: Option<&str>,
    at: Timestamp,
) -> Result<()> {
    let mut count = 0;
    for part in not_dead(conn, gateway, range).await? {
        count += part.last.0 - part.first.0 + 1;
        for piece in cut(part) {
            query!(
                r#"
                insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at,
                    rejected_by)
                values ($1, $2, $3, $4, $5, $6)
                "#,
                gateway.0,
                piece.first.0,
                piece.last.0,
                reason as _,
                at as _,
                by
            )
            .execute(&mut *conn)
            .await?;
        }
    }
    if count > 0 { count_dead(conn, gateway, count).await } else { Ok(()) }
}

/// A range of dead letters.
pub(crate) struct DeadLetter {
    pub(crate) first: Sequence,
    pub(crate) last: Sequence,
    pub(crate) reason: Reason,
    pub(crate) dead_at: Timestamp,
    /// The instance that rejected it, or `""` for an unnamed connection.
    pub(crate) rejected_by: Option<String>,
}

/// The dead letters that overlap with a range and were not redriven.
pub(super) async fn dead_letters(
    conn: &mut Connection,
    gateway: GatewayKey,
    range: Range,
) -> Result<Vec<DeadLetter>> {
    let begin = range.first.0 - MAX_RANGE_LENGTH;
    Ok(query_as!(
        DeadLetter,
        r#"
        select first_sequence as "first!: Sequence", last_sequence as "last!: Sequence",
            reason as "reason!: Reason", dead_at as "dead_at!: Timestamp",
            rejected_by as "rejected_by?: String"
        from dead_letters
        where gateway = $1 and first_sequence between $2 and $3 and last_sequence >= $4
            and redriven_at is null
        order by first_sequence
        "#,
        gateway.0,
        begin,
        range.last.0,
        range.first.0
    )
    .fetch_all(conn)
    .await?)
}

/// Removes the deliveries of a range from the dead letters that `may_remove` accepts. Returns the
/// parts that were dead letters. Keeps those that were redriven, for the record.
pub(super) async fn remove_dead_letters(
    conn: &mut Connection,
    gateway: GatewayKey,
    range: Range,
    may_remove: impl Fn(&DeadLetter) -> bool + Send,
) -> Result<Vec<Range>> {
    let letters = dead_letters(conn, gateway, range).await?;
    let mut removed = Vec::new();
    for letter in letters.into_iter().filter(may_remove) {
        query!(
            "delete from dead_letters where gateway = $1 and first_sequence = $2",
            gateway.0,
            letter.first.0
        )
        .execute(&mut *conn)
        .await?;
        count_dead(conn, gateway, -(letter.last.0 - letter.first.0 + 1)).await?;
        let part =
            Range { first: letter.first.max(range.first), last: letter.last.min(range.last) };
        let others = [
            Range { first: letter.first, last: Sequence(part.first.0 - 1) },
            Range { first: part.last.next(), last: letter.last },
        ];
        for other in others.into_iter().filter(|other| other.first <= other.last) {
            let by = letter.rejected_by.as_deref();
            rejected(conn, gateway, other, letter.reason, by, letter.dead_at).await?;
        }
        removed.push(part);
    }
    Ok(removed)
}
