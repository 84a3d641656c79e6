//! Named instances, and connections in reliable mode.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use gateway_events::clock::Timestamp;
use gateway_events::event::{
    ConnectionId, GatewayId, GatewayKey, NodeId, OrganisationKey, Reason, Sequence,
};
use gateway_events::store::audit::entries;
use gateway_events::store::instances::{Start, check_new_name, is_over_for, start};
use gateway_events::store::limits::{MAX_RANGE_LENGTH, TRIMMED_STREAMS};
use gateway_events::store::positions::Repeats;
use gateway_events::store::ranges::above;
use gateway_events::store::{
    Actor, Audited, Conflict, EarlierNacks, ExpiredInstance, GapReason, InstanceConnection,
    InstanceInfo, InstanceList, InstanceOutcome, Instances, LISTED_EXPIRED, Level, LogState,
    MAX_INSTANCES, MAX_NACK_DETAIL_BYTES, NewConnection, OpenInstance, Opened, OpenedInstance,
    Outcome, Range, ReplacedConnection, Result, ResumeFrom, StoreError, TrimMark,
};

use super::MemoryStore;
use super::ledger::{Ended, How};
use super::positions::{Move, Reach};
use super::tables::{ConnectionRow, Cursor, Tables};

#[async_trait]
impl Instances for MemoryStore {
    async fn peek_log(&self, gateway: GatewayKey) -> Result<LogState> {
        self.read(|tables| tables.log_state(gateway)).await
    }

    async fn open_instance(&self, mut opening: OpenInstance) -> Result<OpenedInstance> {
        let node = self.node;
        let hook = self.database.fault_hook();
        hook.opening(&mut opening);
        let mut answer =
            self.commit(|tables, now| tables.open_instance(now, node, &opening), |_| ());
        let opened = answer.is_ok().then_some(opening.connection);
        let mut pending = super::PendingOpening { store: self, opened };
        tokio::task::yield_now().await;
        pending.opened = None;
        if let Ok(opened) = &mut answer {
            hook.opened(opened);
        }
        answer
    }

    async fn connections_to_end(&self) -> Result<Vec<(ConnectionId, Reason)>> {
        let node = self.node;
        self.read(|tables| {
            let of_node = |row: &ConnectionRow| row.node == node && row.closed.is_none();
            let all = tables.connections.iter();
            let ends = all.filter(|(_, row)| of_node(row)).filter_map(|(id, row)| {
                let resync = row.is_to_resync.then_some(Reason::Resync);
                let reason = row.is_replaced.then_some(Reason::Replaced).or(resync)?;
                Some((*id, reason))
            });
            Ok(ends.collect())
        })
        .await
    }

    async fn instances(
        &self,
        organisation: OrganisationKey,
        gateway: GatewayId,
    ) -> Result<Option<InstanceList>> {
        self.read(|tables| tables.list_instances(organisation, gateway)).await
    }

    async fn forget_instance(&self, actor: &Actor, gateway: GatewayId, name: &str) -> Result<()> {
        let organisation = actor.organisation;
        self.audited(actor, |tables, now| tables.forget_instance(now, organisation, gateway, name))
            .await
    }
}

/// The connection of an outcome.
pub(super) struct Connected<'a> {
    pub(super) gateway: GatewayKey,
    pub(super) connection: ConnectionId,
    pub(super) instance: &'a Arc<str>,
    pub(super) at: Timestamp,
    pub(super) seen_at: Timestamp,
}

/// The deliveries that an outcome writes attempts at.
pub(super) fn outcome_range(outcome: &InstanceOutcome) -> Option<Range> {
    match outcome {
        InstanceOutcome::Acknowledged { range, .. } | InstanceOutcome::Filtered { range, .. } => {
            Some(*range)
        }
        InstanceOutcome::Retried { sequence, .. } | InstanceOutcome::Rejected { sequence, .. } => {
            Some(Range { first: *sequence, last: *sequence })
        }
        InstanceOutcome::Covered { .. } => None,
    }
}

const fn resumed(confirm: Level) -> How<'static> {
    let detail = "resumed after it";
    match confirm {
        Level::Received => How::Received(detail),
        Level::Applied => How::Applied(detail),
    }
}

impl Tables {
    fn log_state(&self, gateway: GatewayKey) -> Result<LogState> {
        let open = self.gateways.get(&gateway);
        let open = open.filter(|row| row.deleted_at.is_none() && row.disabled_at.is_none());
        let stream = &open.ok_or(StoreError::NotFound("gateway"))?.stream;
        let (head, floor) = (Sequence(stream.head), Sequence(stream.floor));
        Ok(LogState { epoch: stream.epoch, head, floor })
    }

    fn open_instance(
        &mut self,
        now: Timestamp,
        node: NodeId,
        opening: &OpenInstance,
    ) -> Result<OpenedInstance> {
        let OpenInstance { connection: new, confirm, resume } = opening;
        let (gateway, confirm) = (new.gateway, *confirm);
        let log = self.log_state(gateway)?;
        let control = self.gateway_row(gateway)?.control();
        if self.connections.contains_key(&new.id) {
            return Err(Conflict::Concurrent.into());
        }
        let name = (gateway, new.instance.clone());
        let stored = self.cursors.get(&name).filter(|cursor| cursor.confirm.is_some());
        let is_new = !new.instance.is_empty() && stored.is_none();
        let is_lowered = confirm == Level::Received
            && stored.is_some_and(|cursor| cursor.confirm == Some(Level::Applied));
        let count = i64::try_from(self.instances_of(gateway).count()).unwrap_or(i64::MAX);
        if is_new {
            check_new_name(&new.instance)?;
        }
        if is_new && count >= MAX_INSTANCES {
            return Err(Conflict::Instances { most: MAX_INSTANCES }.into());
        }
        let (mut is_unsure, mut repeats) = (false, Repeats::default());
        let (received, applied) = match stored {
            Some(it) if confirm == Level::Applied => (it.received, it.applied_by()),
            Some(it) => (it.received, it.applied_up_to),
            None if new.instance.is_empty() => {
                let position;
                (position, is_unsure, repeats) = self.open_unnamed(now, gateway)?;
                (position, position)
            }
            None => (self.confirmed(gateway), self.confirmed(gateway)),
        };
        let own = Sequence(if confirm == Level::Applied { applied } else { received });
        let named_event = self.named_event(gateway, resume);
        let (position, gap) = match start(log, resume, own, named_event != Some(false)) {
            Start::At(position) => (position, None),
            Start::Gap(gap) => (own, Some(gap)),
        };
        let replaces = self.replace(new);
        self.insert_connection(now, node, new);
        let first = if gap.is_some() && is_new { log.floor } else { position };
        self.insert_cursor(now, opening, first.0);
        if is_lowered {
            self.follow_instances(gateway)?;
        }
        let settled = own.max(log.floor);
        if gap.is_none() && named_event == Some(true) {
            self.confirm_named(now, opening, settled, position)?;
        }
        if gap.is_none() && position.0 > own.0.min(self.confirmed(gateway)) {
            self.settle_before(now, opening, settled, position)?;
        }
        let gap = self.begin_resync(now, new, position, gap, log.head);
        let (sent, suspect) = self.sent_behind(gateway, position.0);
        let (sent, suspect) = (Sequence(sent), Sequence(suspect));
        let (received, applied) = if is_new { (first.0, 0) } else { (received, applied) };
        let applied = if confirm == Level::Applied { applied.max(first.0) } else { applied };
        let (epoch, head) = (log.epoch, log.head);
        is_unsure |= !replaces.is_empty();
        Ok(OpenedInstance {
            opened: Opened {
                epoch,
                position,
                head,
                sent,
                suspect,
                is_unsure,
                repeats,
                is_collapsible: gap.is_none() && self.is_collapsible(gateway),
                control,
            },
            floor: log.floor,
            received: Sequence(received).max(first),
            applied: Sequence(applied),
            nacked: self.nacked_after(new, position),
            gap,
            replaces,
        })
    }

    fn nacked_after(&self, new: &NewConnection, position: Sequence) -> Vec<EarlierNacks> {
        let mut nacked: BTreeMap<Sequence, EarlierNacks> = BTreeMap::new();
        for sequence in position.0 + 1..=position.0 + MAX_RANGE_LENGTH {
            let letter = self.dead_letter_at((new.gateway, sequence));
            let letter = letter.filter(|(_, it)| it.redriven_at.is_none());
            if let Some((_, it)) = letter.filter(|(_, it)| it.reason.ends_connections()) {
                let (sequence, reason) = (Sequence(sequence), it.reason);
                let given_up = EarlierNacks { sequence, count: 0, reason, is_given_up: true };
                nacked.insert(sequence, given_up);
            }
        }
        for row in self.attempts.values() {
            let Some(reason) = row.reason.filter(|_| row.outcome == Outcome::Failed) else {
                continue;
            };
            let letter = self.dead_letter_at((new.gateway, row.first));
            let is_given_up = letter.is_some_and(|(_, it)| {
                it.redriven_at.is_some()
                    || is_over_for(&new.instance, it.reason, it.rejected_by.as_deref())
            });
            let is_lost = is_given_up && reason.ends_connections();
            if !reason.is_reported() && !is_lost {
                continue;
            }
            let is_of = row.gateway == new.gateway
                && row
                    .connection
                    .and_then(|id| self.connections.get(&id))
                    .is_some_and(|it| it.instance == new.instance);
            if is_of
                && row.first == row.last
                && row.first > position.0
                && row.first <= position.0 + MAX_RANGE_LENGTH
            {
                let sequence = Sequence(row.first);
                let first = EarlierNacks { sequence, count: 0, reason, is_given_up };
                let all = nacked.entry(sequence).or_insert(first);
                all.count += u32::from(!is_lost);
            }
        }
        nacked.into_values().collect()
    }

    /// Whether the event that the gateway names at its position is the one there; `None` if it names
    /// none, or retention has removed it.
    fn named_event(&self, gateway: GatewayKey, resume: &ResumeFrom) -> Option<bool> {
        let ResumeFrom::After { sequence, event_id: Some(id), .. } = resume else { return None };
        if sequence.0 <= 0 {
            return Some(false);
        }
        self.event_at((gateway, sequence.0)).map(|row| row.event.id == *id)
    }

    /// The gateway has received the event that it names, even if it was withdrawn after that.
    fn confirm_named(
        &mut self,
        now: Timestamp,
        opening: &OpenInstance,
        own: Sequence,
        sequence: Sequence,
    ) -> Result<()> {
        let OpenInstance { connection: new, confirm, .. } = opening;
        let instance: Arc<str> = new.instance.as_str().into();
        let (gateway, connection, key) = (new.gateway, new.id, (new.gateway, sequence.0));
        let was_dead = self.is_dead(key);
        self.revive_confirmed(gateway, sequence.0, sequence.0, Some(&instance))?;
        if was_dead && !self.is_dead(key) && sequence <= own {
            let instance = &instance;
            let on = Connected { gateway, connection, instance, at: now, seen_at: now };
            self.settle(&on, Range { first: sequence, last: sequence }, resumed(*confirm))?;
        }
        Ok(())
    }

    fn replace(&mut self, new: &NewConnection) -> Vec<ReplacedConnection> {
        let is_older = |row: &ConnectionRow| {
            row.gateway == new.gateway && row.closed.is_none() && row.instance == new.instance
        };
        let mut replaced = Vec::new();
        for (id, row) in &mut self.connections {
            if !new.instance.is_empty() && is_older(row) {
                row.is_replaced = true;
                replaced.push(ReplacedConnection { id: *id, node: row.node });
            }
        }
        replaced
    }

    fn insert_cursor(&mut self, now: Timestamp, opening: &OpenInstance, position: i64) {
        let OpenInstance { connection: new, confirm, .. } = opening;
        let (received, updated_at) = (position, now);
        if new.instance.is_empty() {
            let connected_at = Some(now);
            let own = Cursor { received, updated_at, connected_at, ..Cursor::default() };
            self.cursors.entry((new.gateway, new.id.to_string())).or_insert(own);
            return;
        }
        self.cursors.entry((new.gateway, String::new())).or_default();
        let applied_up_to = if *confirm == Level::Applied { position } else { 0 };
        let fresh = Cursor { received, applied_up_to, updated_at, ..Cursor::default() };
        let own = self.cursors.entry((new.gateway, new.instance.clone())).or_insert(fresh);
        if *confirm == Level::Applied {
            own.applied_up_to = own.applied_by();
        }
        own.confirm = Some(*confirm);
        own.updated_at = now;
        (own.connected_at, own.superseded_at, own.left_at) = (None, None, None);
    }

    fn settle_before(
        &mut self,
        now: Timestamp,
        opening: &OpenInstance,
        own: Sequence,
        position: Sequence,
    ) -> Result<()> {
        let OpenInstance { connection: new, confirm, resume } = opening;
        let instance: Arc<str> = new.instance.as_str().into();
        let on = Connected {
            gateway: new.gateway,
            connection: new.id,
            instance: &instance,
            at: now,
            seen_at: now,
        };
        let range = Range { first: own.next(), last: position };
        let open = above(range, Sequence(self.confirmed(new.gateway)));
        let (open, how, reach) = match (resume, confirm) {
            (ResumeFrom::Latest, _) => {
                (open, How::Filtered("started at the end of the log"), Reach::Position)
            }
            (ResumeFrom::After { .. } | ResumeFrom::Confirmed { .. }, level) => {
                let range = (range.first <= range.last).then_some(range);
                (range, resumed(*level), Reach::Acknowledged { level: *level, confirms: true })
            }
            (ResumeFrom::Server | ResumeFrom::Earliest | ResumeFrom::Received { .. }, _) => {
                return Ok(());
            }
        };
        if let Some(open) = open {
            self.settle(&on, open, how)?;
        }
        if reach != Reach::Position {
            for sequence in own.0 + 1..=position.0 {
                // The position passes what was withdrawn before it was sent, too.
                let letter = self.dead_letter_at((new.gateway, sequence));
                if letter.is_none_or(|(_, letter)| !letter.reason.is_withdrawn()) {
                    self.revive_confirmed(new.gateway, sequence, sequence, Some(&instance))?;
                }
            }
        }
        self.advance(&on, Some(position), reach)?;
        if reach == Reach::Position { Ok(()) } else { self.end_failing(new.gateway, &[range]) }
    }

    /// Records an outcome other than an acknowledgement.
    pub(super) fn instance_outcome(
        &mut self,
        on: &Connected<'_>,
        outcome: &InstanceOutcome,
    ) -> Result<()> {
        match outcome {
            InstanceOutcome::Acknowledged { .. } => Ok(()),
            InstanceOutcome::Retried { sequence, code, detail, started_at } => {
                self.nacked(on, *sequence, *code, cut(detail), *started_at).map(drop)
            }
            InstanceOutcome::Rejected { sequence, code, detail, started_at, advance_to } => {
                let key = (on.gateway, sequence.0);
                let letter = self.dead_letters.get(&key);
                let by = letter.and_then(|letter| letter.rejected_by.as_deref());
                if by != Some(&**on.instance)
                    && self.nacked(on, *sequence, *code, cut(detail), *started_at)?
                {
                    self.count_failing(on.gateway, *sequence, *code, on.at)?;
                    self.revive_given_up(key)?;
                    let range = Range { first: *sequence, last: *sequence };
                    self.rejected(on.gateway, range, *code, Some(on.instance), on.at)?;
                }
                self.advance(on, *advance_to, Reach::Position)
            }
            InstanceOutcome::Filtered { range, advance_to } => {
                let confirmed = Sequence(self.confirmed(on.gateway));
                if let Some(open) = above(*range, confirmed) {
                    self.settle(on, open, How::Filtered(""))?;
                }
                self.advance(on, *advance_to, Reach::Position)
            }
            InstanceOutcome::Covered { reason, resume_at } => {
                let floor = self.gateway_row(on.gateway)?.stream.floor;
                let own = self.own(on.connection).map_or(0, |(position, _)| position);
                let first = Sequence(self.confirmed(on.gateway).max(floor).max(own) + 1);
                let pending = Range { first, last: *resume_at };
                self.settle(on, pending, How::Snapshot(reason.as_str()))?;
                if *reason == GapReason::Resync {
                    self.resync_done(on.seen_at, on.gateway, on.connection, *resume_at);
                }
                self.advance(on, Some(*resume_at), Reach::Position)
            }
        }
    }

    /// Records that an event was not applied. Returns whether the attempt failed.
    fn nacked(
        &mut self,
        on: &Connected<'_>,
        sequence: Sequence,
        code: Reason,
        detail: &str,
        started_at: Timestamp,
    ) -> Result<bool> {
        let has_failed = sequence.0 > self.confirmed(on.gateway);
        let unknown = format!("{code}: {detail}");
        self.write_attempts(&Ended {
            gateway: on.gateway,
            connection: Some(on.connection),
            range: Range { first: sequence, last: sequence },
            how: if has_failed { How::Failed(code, detail) } else { How::Unknown(&unknown) },
            started_at,
            finished_at: on.at,
        })?;
        Ok(has_failed)
    }

    fn settle(&mut self, on: &Connected<'_>, range: Range, how: How<'_>) -> Result<()> {
        for part in self.not_dead(on.gateway, range) {
            self.write_attempts(&Ended {
                gateway: on.gateway,
                connection: Some(on.connection),
                range: part,
                how,
                started_at: on.at,
                finished_at: on.at,
            })?;
        }
        Ok(())
    }

    fn advance(&mut self, on: &Connected<'_>, to: Option<Sequence>, reach: Reach) -> Result<()> {
        let moves = to.map(|to| Move {
            gateway: on.gateway,
            connection: on.connection,
            instance: Arc::clone(on.instance),
            to: to.0,
            reach,
            at: on.at,
            seen_at: Some(on.seen_at),
        });
        self.raise(moves.as_slice())
    }

    fn list_instances(
        &self,
        organisation: OrganisationKey,
        id: GatewayId,
    ) -> Result<Option<InstanceList>> {
        let Ok(gateway) = self.live_key(organisation, id) else { return Ok(None) };
        let stream = &self.gateway_row(gateway)?.stream;
        let named = self.cursors.iter().filter_map(|((of, name), cursor)| {
            let confirm = cursor.confirm.filter(|_| *of == gateway)?;
            let live = self.connections.iter().filter(|(_, row)| {
                row.gateway == gateway && row.closed.is_none() && row.instance == *name
            });
            let newest = live.max_by_key(|(id, row)| (row.connected_at, **id));
            let seen_at = newest.map_or(cursor.updated_at, |(_, row)| row.last_heartbeat_at);
            Some(InstanceInfo {
                name: name.clone(),
                confirm,
                received: Sequence(cursor.received),
                applied: Sequence(cursor.applied_up_to),
                lag: (stream.head - cursor.position().max(stream.floor)).max(0),
                connection: newest.map(|(id, row)| InstanceConnection {
                    id: *id,
                    transport: row.transport.to_owned(),
                    node: row.node,
                    connected_at: row.connected_at,
                }),
                last_seen_at: cursor.updated_at.max(seen_at),
            })
        });
        let instances = named.collect();
        let expired = self.expired_instances.iter().filter(|((of, _), _)| *of == gateway);
        let mut expired: Vec<_> = expired.map(|(_, row)| row.clone()).collect();
        expired.sort_by_key(|row| std::cmp::Reverse(row.expired_at));
        expired.truncate(usize::try_from(LISTED_EXPIRED).unwrap_or(usize::MAX));
        let resyncs = self.list_resyncs(gateway);
        Ok(Some(InstanceList { instances, expired, resyncs }))
    }

    fn is_connected(&self, gateway: GatewayKey, name: &str) -> bool {
        self.connections
            .values()
            .any(|row| row.gateway == gateway && row.closed.is_none() && row.instance == name)
    }

    fn forget_instance(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: GatewayId,
        name: &str,
    ) -> Result<Audited<()>> {
        let gateway = self.live_key(organisation, id)?;
        let shown = self.shown(now, gateway)?;
        if self.is_connected(gateway, name) {
            return Err(Conflict::InstanceConnected(name.to_owned()).into());
        }
        let gone = self.remove_instance(now, gateway, name)?;
        let gone = gone.ok_or(StoreError::NotFound("instance"))?;
        Ok(Audited::new((), [entries::instance_forgotten(&shown, &gone)]))
    }

    fn remove_instance(
        &mut self,
        now: Timestamp,
        gateway: GatewayKey,
        name: &str,
    ) -> Result<Option<ExpiredInstance>> {
        let key = (gateway, name.to_owned());
        let Some(confirm) = self.cursors.get(&key).and_then(|cursor| cursor.confirm) else {
            return Ok(None);
        };
        let Some(cursor) = self.cursors.remove(&key) else { return Ok(None) };
        self.follow_instances(gateway)?;
        self.remove_resyncs(now, gateway, Some(name));
        Ok(Some(ExpiredInstance {
            name: name.to_owned(),
            confirm,
            received: Sequence(cursor.received),
            applied: Sequence(cursor.applied_up_to),
            last_seen_at: cursor.updated_at,
            expired_at: cursor.updated_at,
        }))
    }

    /// Expires instances of the next gateways. Returns how many, and whether these were the last
    /// gateways.
    pub(super) fn expire_instances(
        &mut self,
        now: Timestamp,
        before: Timestamp,
        mark: &mut TrimMark,
        batch: usize,
    ) -> Result<(u64, bool)> {
        let most = usize::try_from(TRIMMED_STREAMS).unwrap_or(usize::MAX);
        let after = GatewayKey(mark.gateway);
        let keys = self.gateways.keys().copied().filter(|key| *key > after);
        let keys: Vec<GatewayKey> = keys.take(most).collect();
        let Some(last) = keys.last() else { return Ok((0, true)) };
        let old = self.cursors.iter().filter(|((of, name), cursor)| {
            keys.contains(of)
                && cursor.confirm.is_some()
                && cursor.updated_at < before
                && !self.is_connected(*of, name)
        });
        let old: Vec<_> = old.map(|(key, _)| key.clone()).take(batch).collect();
        let is_cut = old.len() >= batch;
        mark.gateway = old.last().filter(|_| is_cut).map_or(last.0, |(key, _)| key.0 - 1);
        let mut expired = 0;
        for key in old {
            let Some(gone) = self.remove_instance(now, key.0, &key.1)? else { continue };
            self.expired_instances.insert(key, ExpiredInstance { expired_at: now, ..gone });
            expired += 1;
        }
        Ok((expired, keys.len() < most && !is_cut))
    }
}

impl Cursor {
    /// How far an instance has applied events, once it confirms by that: what it has confirmed before
    /// counts.
    fn applied_by(&self) -> i64 {
        match self.confirm {
            Some(Level::Received) => self.received,
            Some(Level::Applied) | None => self.applied_up_to,
        }
    }
}

/// A detail of bounded length.
fn cut(detail: &str) -> &str {
    let fits = |end: &usize| detail.is_char_boundary(*end);
    let end = (0..=detail.len().min(MAX_NACK_DETAIL_BYTES)).rev().find(fits).unwrap_or(0);
    detail.get(..end).unwrap_or_default()
}
