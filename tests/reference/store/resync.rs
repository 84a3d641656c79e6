//! Resync requests.

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayId, GatewayKey, Sequence};
use gateway_events::store::audit::entries;
use gateway_events::store::{
    Actor, Audited, Conflict, Gap, GapReason, LISTED_RESYNCS, NewConnection, ReplacedConnection,
    Result, Resync, ResyncChange, ResyncOutcome, ResyncRequest, StoreError,
};

use super::tables::Tables;

/// The transport of plain mode.
const PLAIN: &str = "websocket";

impl Tables {
    pub(super) fn request_resync(
        &mut self,
        now: Timestamp,
        actor: &Actor,
        id: GatewayId,
        request: &ResyncRequest,
        dry_run: bool,
    ) -> Result<Audited<ResyncChange>> {
        let key = self.live_key(actor.organisation, id)?;
        let gateway = self.shown(now, key)?;
        let targets = self.resync_targets(key, gateway.replicas, request.instance.as_deref())?;
        let mut missing = targets.clone();
        let mut pending = self.pending_resyncs(key);
        for one in &pending {
            if let Some(at) = missing.iter().position(|name| *name == one.instance) {
                missing.remove(at);
            }
        }
        missing.sort_unstable();
        pending.retain(|one| targets.contains(&one.instance));
        let new: Vec<Resync> = missing
            .iter()
            .map(|name| Resync {
                instance: name.clone(),
                requested_at: now,
                requested_by: actor.principal.name.clone(),
                reason: request.reason.clone(),
                started: None,
                resume_at: None,
                ended: None,
            })
            .collect();
        pending.extend(new.iter().cloned());
        let changed = !missing.is_empty();
        let mut done = ResyncChange { key, changed, pending, connections: Vec::new() };
        if dry_run || !changed {
            return Ok(Audited::new(done, []));
        }
        for one in new {
            self.last.resync += 1;
            self.resyncs.insert((key, self.last.resync), one);
        }
        missing.dedup();
        for (id, row) in &mut self.connections {
            let is_live = row.gateway == key && row.closed.is_none() && row.transport != PLAIN;
            if is_live && missing.contains(&row.instance) {
                row.is_to_resync = true;
                done.connections.push(ReplacedConnection { id: *id, node: row.node });
            }
        }
        let reason = request.reason.as_deref();
        Ok(Audited::new(done, [entries::resync_requested(&gateway, &missing, reason)]))
    }

    fn resync_targets(
        &self,
        gateway: GatewayKey,
        replicas: i64,
        only: Option<&str>,
    ) -> Result<Vec<String>> {
        let cursors = self.cursors.iter();
        let own = cursors.filter(|((of, _), it)| *of == gateway && it.confirm.is_some());
        let mut names: Vec<String> = own.map(|((_, name), _)| name.clone()).collect();
        if let Some(only) = only {
            names.retain(|name| name == only);
            return if names.is_empty() {
                Err(StoreError::NotFound("instance"))
            } else {
                Ok(names)
            };
        }
        let unnamed = self.connections.values().filter(|row| {
            row.gateway == gateway && row.instance.is_empty() && row.transport != PLAIN
        });
        let (live, ended): (Vec<_>, Vec<_>) = unnamed.partition(|row| row.closed.is_none());
        let replicas = usize::try_from(replicas).unwrap_or(0);
        let is_alone = live.is_empty() && names.is_empty() && !ended.is_empty();
        let count = if is_alone { replicas } else { live.len() };
        names.extend((0..count).map(|_| String::new()));
        if names.is_empty() { Err(Conflict::PlainMode.into()) } else { Ok(names) }
    }

    fn pending_resyncs(&self, gateway: GatewayKey) -> Vec<Resync> {
        let of = self.resyncs.range((gateway, 0)..=(gateway, i64::MAX)).map(|(_, it)| it);
        let mut pending: Vec<_> = of.filter(|it| it.ended.is_none()).cloned().collect();
        pending.sort_by(|one, other| one.instance.cmp(&other.instance));
        pending
    }

    pub(super) fn list_resyncs(&self, gateway: GatewayKey) -> Vec<Resync> {
        let of = self.resyncs.range((gateway, 0)..=(gateway, i64::MAX)).map(|(_, it)| it);
        let ended = of.rev().filter(|it| it.ended.is_some()).cloned();
        let mut all = self.pending_resyncs(gateway);
        all.extend(ended);
        all.truncate(usize::try_from(LISTED_RESYNCS).unwrap_or(usize::MAX));
        all
    }

    /// The gap of a connection that is being opened, if a resync is pending.
    pub(super) fn begin_resync(
        &mut self,
        now: Timestamp,
        new: &NewConnection,
        position: Sequence,
        gap: Option<Gap>,
        head: Sequence,
    ) -> Option<Gap> {
        let of = self.resyncs.range_mut((new.gateway, 0)..=(new.gateway, i64::MAX));
        let pending = of.filter(|(_, it)| it.ended.is_none() && it.instance == new.instance);
        let first = pending.min_by_key(|(key, it)| (it.started.map(|(_, at)| at), **key));
        let Some((_, resync)) = first else { return gap };
        resync.started = Some((new.id, now));
        let from = gap.map_or_else(|| position.next(), |gap| gap.from);
        Some(Gap { reason: GapReason::Resync, from, to: head, resume_at: head })
    }

    pub(super) fn resync_done(
        &mut self,
        now: Timestamp,
        gateway: GatewayKey,
        connection: ConnectionId,
        resume_at: Sequence,
    ) {
        for (_, it) in self.resyncs.range_mut((gateway, 0)..=(gateway, i64::MAX)) {
            if it.ended.is_none() && it.started.is_some_and(|(id, _)| id == connection) {
                it.ended = Some((now, ResyncOutcome::Done));
                it.resume_at = Some(resume_at);
            }
        }
    }

    pub(super) fn remove_resyncs(
        &mut self,
        now: Timestamp,
        gateway: GatewayKey,
        instance: Option<&str>,
    ) {
        for (_, it) in self.resyncs.range_mut((gateway, 0)..=(gateway, i64::MAX)) {
            if it.ended.is_none() && instance.is_none_or(|name| *name == it.instance) {
                it.ended = Some((now, ResyncOutcome::Removed));
            }
        }
    }

    pub(super) fn forget_resyncs(&mut self, before: Timestamp, batch: usize) -> usize {
        let is_old = |it: &Resync| it.ended.is_some_and(|(at, _)| at < before);
        let old = self.resyncs.iter().filter(|(_, it)| is_old(it)).take(batch);
        let old: Vec<_> = old.map(|(key, _)| *key).collect();
        old.iter().filter(|key| self.resyncs.remove(key).is_some()).count()
    }
}
