//! Opens connections in reliable mode. [`start`] decides where they start.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::connections::cursor;
use super::super::connections::sent::sent_behind;
use super::super::cursors::{self, Move, NEVER, Reach};
use super::super::dialect::{Connection, query, query_as, query_scalar};
use super::super::ledger::record::{By, revive};
use super::super::ledger::{self, How, reports};
use super::outcomes::Connected;
use super::{insert_connection, outcomes, resync};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, Epoch, EventId, GatewayKey, NodeId, Reason, Sequence};
use crate::store::instances::{Start, check_new_name, is_over_for, start};
use crate::store::limits::MAX_RANGE_LENGTH;
use crate::store::positions::Repeats;
use crate::store::{
    Conflict, EarlierNacks, Level, LogState, MAX_INSTANCES, NewConnection, OpenInstance, Opened,
    OpenedInstance, Range, ReplacedConnection, Result, ResumeFrom, StoreError,
};
use crate::wake::Control;

/// What is stored before the connection is opened.
struct Before {
    /// The instance's cursor, or the position of an unnamed connection.
    received: Sequence,
    applied: Sequence,
    /// Whether an instance has no cursor yet.
    is_new: bool,
    /// Whether the instance confirmed by what it applied, and now does by what it receives.
    is_lowered: bool,
    is_unsure: bool,
    repeats: Repeats,
}

impl Before {
    const fn position(&self, level: Level) -> Sequence {
        match level {
            Level::Received => self.received,
            Level::Applied => self.applied,
        }
    }

    /// What the instance has received and applied, once its position is at least `first`.
    fn moved(&self, level: Level, first: Sequence) -> (Sequence, Sequence) {
        let (received, applied) =
            if self.is_new { (first, Sequence::ZERO) } else { (self.received, self.applied) };
        let applied = if level == Level::Applied { applied.max(first) } else { applied };
        (received.max(first), applied)
    }
}

/// Opens a connection. Returns `NotFound` or `Conflict` before it writes anything.
pub(crate) async fn open_instance(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    opening: &OpenInstance,
) -> Result<OpenedInstance> {
    let OpenInstance { connection: new, confirm, resume } = opening;
    let stream = query!(
        r#"
        select s.epoch as "epoch!: Epoch", s.head as "head!: Sequence", s.floor as "floor!: Sequence",
            g.replicas as "replicas!: i64", s.revision as "revision!: i64",
            (g.paused_at is not null) as "is_paused!: bool",
            exists (
                select 1 from outbox o
                where o.gateway = s.gateway and o.collapse_key is not null and o.sequence > s.attended
            ) as "is_collapsible!: bool"
        from streams s join gateways g using (gateway)
        where s.gateway = $1 and g.deleted_at is null and g.disabled_at is null
        "#,
        new.gateway.0
    )
    .fetch_optional(&mut *conn)
    .await?
    .ok_or(StoreError::NotFound("gateway"))?;
    let log = LogState { epoch: stream.epoch, head: stream.head, floor: stream.floor };
    let before = if new.instance.is_empty() {
        let at = cursor::open(conn, now, new.gateway, stream.replicas).await?;
        Before {
            received: at.position,
            applied: at.position,
            is_new: false,
            is_lowered: false,
            is_unsure: at.is_unsure,
            repeats: at.repeats,
        }
    } else {
        named(conn, new, *confirm).await?
    };
    let own = before.position(*confirm);
    let named_event = named_event(conn, new.gateway, resume).await?;
    let start = start(log, resume, own, named_event != NamedEvent::Other);
    let (position, gap) = match start {
        Start::At(position) => (position, None),
        Start::Gap(gap) => (own, Some(gap)),
    };
    insert_connection(conn, now, node, new).await?;
    let replaces = replace(conn, new).await?;
    // A new instance that has to read a snapshot keeps what can be read.
    let first = if gap.is_some() && before.is_new { log.floor } else { position };
    insert_cursor(conn, now, opening, first).await?;
    if before.is_lowered {
        // What was received counts now, and is not sent again.
        cursors::follow_instances(conn, new.gateway).await?;
    }
    let settled = own.max(log.floor);
    if gap.is_none() && named_event == NamedEvent::Same {
        confirm_named(conn, now, node, opening, settled, position).await?;
    }
    if gap.is_none() && position > own.min(cursors::confirmed(conn, new.gateway).await?) {
        settle_before(conn, now, node, opening, settled, position).await?;
    }
    // After the position is settled: a snapshot replaces what follows it.
    let is_resync = resync::begin(conn, now, new).await?;
    let gap = if is_resync { Some(resync::gap(position, gap, log.head)) } else { gap };
    let (sent, suspect) = sent_behind(conn, new.gateway, position).await?;
    let nacked = nacked(conn, new, position).await?;
    let control = Control { revision: stream.revision, is_paused: stream.is_paused };
    let (received, applied) = before.moved(*confirm, first);
    let Before { is_unsure, repeats, .. } = before;
    let (epoch, head) = (log.epoch, log.head);
    let is_unsure = is_unsure || !replaces.is_empty();
    // A snapshot replaces what is before its end.
    let is_collapsible = stream.is_collapsible && gap.is_none();
    let opened = Opened {
        epoch,
        position,
        head,
        sent,
        suspect,
        is_unsure,
        repeats,
        is_collapsible,
        control,
    };
    Ok(OpenedInstance { opened, floor: log.floor, received, applied, nacked, gap, replaces })
}

/// Events after a position that an instance, or unnamed connections, could not apply, and those that
/// were given up for all.
async fn nacked(
    conn: &mut Connection,
    new: &NewConnection,
    position: Sequence,
) -> Result<Vec<EarlierNacks>> {
    let (first, last) = (position.next(), Sequence(position.0 + MAX_RANGE_LENGTH));
    let letters = ledger::dead_letters(conn, new.gateway, Range { first, last }).await?;
    let mut nacked = BTreeMap::new();
    for letter in letters.iter().filter(|letter| letter.reason.ends_connections()) {
        for sequence in letter.first.max(first).0..=letter.last.min(last).0 {
            let (sequence, reason) = (Sequence(sequence), letter.reason);
            let given_up = EarlierNacks { sequence, count: 0, reason, is_given_up: true };
            nacked.insert(sequence, given_up);
        }
    }
    let rows = query!(
        r#"
        select first_sequence as "sequence!: Sequence", reason as "reason!: Reason",
            count(*) as "count!: i64"
        from attempts
        where gateway = $1 and first_sequence between $2 and $3 and last_sequence = first_sequence
            and outcome = 'failed' and connection is not null and instance = $4
        group by first_sequence, reason order by first_sequence
        "#,
        new.gateway.0,
        first.0,
        last.0,
        new.instance
    )
    .fetch_all(&mut *conn)
    .await?;
    let open = match (rows.first(), rows.last()) {
        (Some(first), Some(last)) => {
            let range = Range { first: first.sequence, last: last.sequence };
            ledger::not_dead(conn, new.gateway, range).await?
        }
        _ => Vec::new(),
    };
    for row in rows {
        let (sequence, reason) = (row.sequence, row.reason);
        let letter = letters.iter().find(|it| (it.first..=it.last).contains(&sequence));
        let is_given_up = match letter {
            Some(letter) => {
                is_over_for(&new.instance, letter.reason, letter.rejected_by.as_deref())
            }
            // It was redriven, unless it is open.
            None => !open.iter().any(|part| (part.first..=part.last).contains(&sequence)),
        };
        let count = match u32::try_from(row.count).unwrap_or(u32::MAX) {
            count if reason.is_reported() => count,
            // The connections were lost, which counts for all instances.
            _ if is_given_up && reason.ends_connections() => 0,
            _ => continue,
        };
        let none = EarlierNacks { sequence, count: 0, reason, is_given_up };
        let all = nacked.entry(sequence).or_insert(none);
        all.count = all.count.saturating_add(count);
    }
    Ok(nacked.into_values().collect())
}

/// The stored cursor of an instance.
pub(crate) struct Stored {
    received: Sequence,
    applied: Sequence,
    confirm: String,
}

impl Stored {
    fn level(&self) -> Level {
        Level::stored(&self.confirm)
    }

    pub(crate) fn position(&self) -> Sequence {
        match self.level() {
            Level::Received => self.received,
            Level::Applied => self.applied,
        }
    }
}

/// `None` if there is no such instance.
pub(crate) async fn stored(
    conn: &mut Connection,
    gateway: GatewayKey,
    instance: &str,
) -> Result<Option<Stored>> {
    Ok(query_as!(
        Stored,
        r#"
        select received as "received!: Sequence", applied_up_to as "applied!: Sequence",
            confirm as "confirm!: String"
        from cursors where gateway = $1 and instance = $2 and confirm is not null
        "#,
        gateway.0,
        instance
    )
    .fetch_optional(conn)
    .await?)
}

/// The cursor of an instance. A new one starts at the gateway's position.
async fn named(conn: &mut Connection, new: &NewConnection, confirm: Level) -> Result<Before> {
    let (is_unsure, repeats) = (false, Repeats::default());
    if let Some(row) = stored(conn, new.gateway, &new.instance).await? {
        // What it has confirmed so far, by whatever level, is not sent again when the level changes.
        let is_raised = confirm == Level::Applied && row.level() == Level::Received;
        let applied = if is_raised { row.received } else { row.applied };
        let is_lowered = confirm == Level::Received && row.level() == Level::Applied;
        let (received, is_new) = (row.received, false);
        return Ok(Before { received, applied, is_new, is_lowered, is_unsure, repeats });
    }
    check_new_name(&new.instance)?;
    let count = query_scalar!(
        r#"
        select count(*) as "count!: i64" from cursors
        where gateway = $1 and confirm is not null
        "#,
        new.gateway.0
    )
    .fetch_one(&mut *conn)
    .await?;
    if count >= MAX_INSTANCES {
        return Err(Conflict::Instances { most: MAX_INSTANCES }.into());
    }
    let position = cursors::confirmed(conn, new.gateway).await?;
    let (is_new, is_lowered) = (true, false);
    let (received, applied) = (position, position);
    Ok(Before { received, applied, is_new, is_lowered, is_unsure, repeats })
}

/// The event that the gateway names at its position.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamedEvent {
    /// None, or it is not known any more.
    Unknown,
    /// The one at this position of the log: the gateway has received it.
    Same,
    /// The log has another event at this position.
    Other,
}

async fn named_event(
    conn: &mut Connection,
    gateway: GatewayKey,
    resume: &ResumeFrom,
) -> Result<NamedEvent> {
    let ResumeFrom::After { sequence, event_id: Some(id), .. } = resume else {
        return Ok(NamedEvent::Unknown);
    };
    let found = query_scalar!(
        r#"
        select e.id as "id!: EventId" from (
            select event from outbox where gateway = $1 and sequence = $2
            union all
            select event from trimmed where gateway = $1 and sequence = $2
        ) as d join events e on e.event = d.event
        "#,
        gateway.0,
        sequence.0
    )
    .fetch_optional(conn)
    .await?;
    Ok(match found {
        // There is no event zero.
        _ if *sequence <= Sequence::ZERO => NamedEvent::Other,
        Some(found) if found == *id => NamedEvent::Same,
        Some(_) => NamedEvent::Other,
        None => NamedEvent::Unknown,
    })
}

/// Marks older live connections of the same instance as replaced.
async fn replace(conn: &mut Connection, new: &NewConnection) -> Result<Vec<ReplacedConnection>> {
    if new.instance.is_empty() {
        return Ok(Vec::new());
    }
    Ok(query_as!(
        ReplacedConnection,
        r#"
        update connections set replaced_by = $3
        where gateway = $1 and instance = $2 and closed_at is null and id <> $3
        returning id as "id!: ConnectionId", node as "node!: NodeId"
        "#,
        new.gateway.0,
        new.instance,
        new.id as _
    )
    .fetch_all(conn)
    .await?)
}

/// Inserts a gateway's position if it has none. It moves with those of its instances, so it must
/// exist.
pub(crate) async fn insert_gateway_position(
    conn: &mut Connection,
    gateway: GatewayKey,
) -> Result<()> {
    query!(
        r#"
        insert into cursors (gateway, instance, received, updated_at) values ($1, '', 0, $2)
        on conflict (gateway, instance) do nothing
        "#,
        gateway.0,
        NEVER as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn insert_cursor(
    conn: &mut Connection,
    now: Timestamp,
    OpenInstance { connection: new, confirm, .. }: &OpenInstance,
    position: Sequence,
) -> Result<()> {
    if new.instance.is_empty() {
        let instance = new.id.to_string();
        query!(
            r#"
            insert into cursors (gateway, instance, received, updated_at, connected_at)
            values ($1, $2, $3, $4, $4)
            on conflict (gateway, instance) do nothing
            "#,
            new.gateway.0,
            instance,
            position.0,
            now as _
        )
        .execute(conn)
        .await?;
        return Ok(());
    }
    insert_gateway_position(conn, new.gateway).await?;
    let applied = if *confirm == Level::Applied { position } else { Sequence::ZERO };
    let confirm = confirm.as_str();
    query!(
        r#"
        insert into cursors (gateway, instance, received, applied_up_to, confirm, updated_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (gateway, instance) do update
        set applied_up_to = case
                when excluded.confirm = 'applied' and cursors.confirm = 'received' then cursors.received
                else cursors.applied_up_to
            end,
            confirm = excluded.confirm, updated_at = excluded.updated_at, connected_at = null,
            superseded_at = null, left_at = null
        "#,
        new.gateway.0,
        new.instance,
        position.0,
        applied.0,
        confirm,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The connection that is being opened.
fn connected<'a>(new: &NewConnection, instance: &'a Arc<str>, now: Timestamp) -> Connected<'a> {
    let (gateway, connection) = (new.gateway, new.id);
    Connected { gateway, connection, instance, at: now, seen_at: now }
}

const fn resumed(confirm: Level) -> How<'static> {
    const DETAIL: &str = "resumed after it";
    match confirm {
        Level::Received => How::Received(DETAIL),
        Level::Applied => How::Applied(DETAIL),
    }
}

/// The gateway has received the event at its position, because it knows the id. If the event was
/// withdrawn after it had been sent, because it expired for example, it stops being a dead letter.
async fn confirm_named(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    OpenInstance { connection: new, confirm, .. }: &OpenInstance,
    own: Sequence,
    sequence: Sequence,
) -> Result<()> {
    let (gateway, range) = (new.gateway, Range { first: sequence, last: sequence });
    let instance: Arc<str> = new.instance.as_str().into();
    let is_revived = revive(conn, gateway, range, &[&*instance], By::Receipts).await?;
    // What lies above the instance's own position is recorded as settled anyway.
    if is_revived && sequence <= own {
        let on = connected(new, &instance, now);
        outcomes::settle(conn, node, &on, range, resumed(*confirm)).await?;
    }
    Ok(())
}

/// Settles what lies between the stored position and a later one where the connection starts: the
/// gateway has confirmed it before, or does not want it.
async fn settle_before(
    conn: &mut Connection,
    now: Timestamp,
    node: NodeId,
    OpenInstance { connection: new, confirm, resume }: &OpenInstance,
    own: Sequence,
    position: Sequence,
) -> Result<()> {
    let instance: Arc<str> = new.instance.as_str().into();
    let (gateway, connection) = (new.gateway, new.id);
    let on = connected(new, &instance, now);
    let range = Range { first: own.next(), last: position };
    match resume {
        ResumeFrom::Latest => {
            let confirmed = cursors::confirmed(conn, gateway).await?;
            if let Some(open) = cursors::above(range, confirmed) {
                let how = How::Filtered("started at the end of the log");
                outcomes::settle(conn, node, &on, open, how).await?;
            }
            outcomes::advance(conn, &on, Some(position)).await
        }
        ResumeFrom::After { .. } | ResumeFrom::Confirmed { .. } => {
            // Also at or below the gateway's position, which may have passed them because another
            // instance filtered them.
            if range.first <= range.last {
                outcomes::settle(conn, node, &on, range, resumed(*confirm)).await?;
                revive(conn, gateway, range, &[&*instance], By::Position).await?;
            }
            let past = Move {
                gateway,
                connection,
                instance: Arc::clone(&instance),
                to: position,
                reach: Reach::Acknowledged { level: *confirm, confirms: true },
                at: now,
                seen_at: Some(now),
            };
            cursors::raise(conn, &[past]).await?;
            reports::acknowledged(conn, std::iter::once((gateway, range))).await
        }
        ResumeFrom::Server | ResumeFrom::Earliest | ResumeFrom::Received { .. } => Ok(()),
    }
}
