//! Replays, resends, and jobs.

use std::collections::BTreeMap;

use async_trait::async_trait;
use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{
    EventId, GatewayId, GatewayKey, JobId, NodeId, OrganisationKey, Sequence,
};
use gateway_events::store::audit::entries;
use gateway_events::store::limits::{BULK_REDRIVEN, JOB_LEASE, REPLAYED, RUNNING_JOBS};
use gateway_events::store::{
    Actor, AppendedDelivery, Audited, Bulk, BulkCounts, BulkJob, BulkJobState, BulkPosition,
    BulkTask, Conflict, DeliveryFilter, EarlierResult, KeptResult, Range, RedriveCursor, Redriven,
    Refusal, ReplaySelection, Replayed, Resent, Result, StoreError, Target, WorkableJobs,
};

use super::MemoryStore;
use super::append::{Growth, grown};
use super::tables::{StoredResult, Tables, next};

#[async_trait]
impl Bulk for MemoryStore {
    async fn start_redrive(
        &self,
        actor: &Actor,
        id: JobId,
        filter: DeliveryFilter,
    ) -> Result<BulkJob> {
        let task = BulkTask::Redrive(filter);
        self.audited_then(
            actor,
            |tables, now| {
                tables.check_key(actor)?;
                let started = tables.start_job(BulkJob::new(id, actor, task, now))?;
                tables.keep_result(now, actor, KeptResult::RedriveStarted(id));
                Ok(started)
            },
            |_| self.wake.request_bulk_work(),
        )
        .await
    }

    async fn replay(
        &self,
        actor: &Actor,
        id: JobId,
        gateway: GatewayId,
        selection: ReplaySelection,
        dry_run: bool,
    ) -> Result<Replayed> {
        let (replayed, _) = self
            .audited_then(
                actor,
                |tables, now| {
                    tables.check_key(actor)?;
                    let done = tables.replay(now, actor, id, gateway, selection, dry_run)?;
                    tables.keep_result(now, actor, KeptResult::from(&done.value.0));
                    Ok(done)
                },
                |(replayed, growth)| {
                    self.appended_without_rows(growth);
                    if replayed.job.is_some() {
                        self.wake.request_bulk_work();
                    }
                },
            )
            .await?;
        Ok(replayed)
    }

    async fn resend(
        &self,
        actor: &Actor,
        event: &EventId,
        target: Target,
        force: bool,
        dry_run: bool,
    ) -> Result<std::result::Result<Resent, Refusal>> {
        let organisation = actor.organisation;
        let (resent, _) = self
            .audited_then(
                actor,
                |tables, now| {
                    tables.check_key(actor)?;
                    let done = tables.resend(now, organisation, event, &target, force, dry_run)?;
                    if let Ok(resent) = &done.value.0 {
                        tables.keep_result(now, actor, KeptResult::Resent(resent.clone()));
                    }
                    Ok(done)
                },
                |(_, growth)| self.appended_without_rows(growth),
            )
            .await?;
        Ok(resent)
    }

    async fn earlier_result(&self, actor: &Actor) -> Result<Option<EarlierResult>> {
        let Some(key) = &actor.request_key else { return Ok(None) };
        self.read(|tables| {
            let found = tables.results.get(&(actor.organisation, key.name()));
            let Some(kept) = found else { return Ok(None) };
            if kept.digest != key.digest {
                return Err(Conflict::KeyReused { key: key.key.clone() }.into());
            }
            let job = kept.result.job().and_then(|id| tables.job(actor.organisation, id).cloned());
            kept.result.clone().earlier(job).map(Some)
        })
        .await
    }

    async fn bulk_jobs(
        &self,
        organisation: OrganisationKey,
        state: Option<BulkJobState>,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<BulkJob>> {
        self.read(|tables| {
            let own = tables.bulk_jobs.values().rev().filter(|job| {
                job.organisation == organisation
                    && state.is_none_or(|state| state == job.state)
                    && after.is_none_or(|key| job.key < key)
            });
            Ok(own.take(limit).cloned().collect())
        })
        .await
    }

    async fn bulk_job(&self, organisation: OrganisationKey, id: JobId) -> Result<Option<BulkJob>> {
        self.read(|tables| Ok(tables.job(organisation, id).cloned())).await
    }

    async fn abort_bulk_job(&self, actor: &Actor, id: JobId) -> Result<BulkJob> {
        self.audited(actor, |tables, now| {
            tables.end_job(now, actor.organisation, id, BulkJobState::Aborted, None)
        })
        .await
    }

    async fn workable_bulk_jobs(&self) -> Result<WorkableJobs> {
        let now = (self.database.0.clock)();
        self.read(|tables| {
            let running = || {
                let jobs = tables.bulk_jobs.values();
                jobs.filter(|job| job.state == BulkJobState::Running)
            };
            let is_free = |job: &&BulkJob| {
                job.node.is_none_or(|owner| owner == self.node)
                    || job.updated_at < now.minus(JOB_LEASE)
            };
            let jobs = running().filter(is_free).cloned().collect();
            Ok(WorkableJobs { jobs, running: running().count() })
        })
        .await
    }

    async fn work_on_bulk_job(&self, job: &BulkJob) -> Result<Option<BulkJob>> {
        let node = self.node;
        let (job, _) = self
            .audited_then(
                &job.actor(),
                |tables, now| tables.work_on_job(now, node, job),
                |(_, growth)| self.appended_without_rows(growth),
            )
            .await?;
        Ok(job)
    }

    async fn fail_bulk_job(&self, job: &BulkJob, why: &str) -> Result<()> {
        let (organisation, id) = (job.organisation, job.id);
        self.audited(&job.actor(), |tables, now| {
            tables.end_job(now, organisation, id, BulkJobState::Failed, Some(why))
        })
        .await
        .map(drop)
    }
}

impl MemoryStore {
    /// Without rows: each lane reads them from the log.
    fn appended_without_rows(&self, growth: &Growth) {
        let mut grown = grown(growth.clone());
        for one in &mut grown {
            one.rows.clear();
        }
        self.appended(grown);
    }
}

impl Tables {
    fn job(&self, organisation: OrganisationKey, id: JobId) -> Option<&BulkJob> {
        self.bulk_jobs.values().find(|job| job.organisation == organisation && job.id == id)
    }

    fn start_job(&mut self, mut job: BulkJob) -> Result<Audited<BulkJob>> {
        let is_running = |other: &&BulkJob| {
            other.organisation == job.organisation && other.state == BulkJobState::Running
        };
        let running = self.bulk_jobs.values().filter(is_running).count();
        let running = i64::try_from(running).unwrap_or(i64::MAX);
        if running >= RUNNING_JOBS {
            return Err(Conflict::RunningJobs { running }.into());
        }
        job.key = next(&mut self.last.job);
        self.bulk_jobs.insert(job.key, job.clone());
        let entry = entries::job_started(&job);
        Ok(Audited::new(job, [entry]))
    }

    fn end_job(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: JobId,
        state: BulkJobState,
        failure: Option<&str>,
    ) -> Result<Audited<BulkJob>> {
        let mut job = self.job(organisation, id).ok_or(StoreError::NotFound("job"))?.clone();
        if job.state != BulkJobState::Running {
            return Ok(Audited::new(job, []));
        }
        job.end(state, failure, now);
        self.bulk_jobs.insert(job.key, job.clone());
        let entry = entries::job_ended(&job);
        Ok(Audited::new(job, [entry]))
    }

    fn work_on_job(
        &mut self,
        now: Timestamp,
        node: NodeId,
        job: &BulkJob,
    ) -> Result<Audited<(Option<BulkJob>, Growth)>> {
        let mut growth = Growth::new();
        let stored = self.bulk_jobs.get(&job.key).filter(|stored| {
            stored.state == BulkJobState::Running && stored.position == job.position
        });
        let Some(mut job) = stored.cloned() else { return Ok(Audited::new((None, growth), [])) };
        match (job.task.clone(), job.position) {
            (BulkTask::Redrive(filter), position) => {
                self.redrive_chunk(now, &mut job, &filter, position, &mut growth)?;
            }
            (BulkTask::Replay(gateway, range), BulkPosition::Replayed(after)) => {
                if let Ok(key) = self.live_key(job.organisation, gateway) {
                    let (counts, reached, _) =
                        self.append_range(now, key, after, range, &mut growth)?;
                    job.replayed(&counts, reached, range, now);
                } else {
                    let why = "the gateway was deleted";
                    job.end(BulkJobState::Failed, Some(why), now);
                }
            }
            (BulkTask::Replay(..) | BulkTask::Unreadable, _) => {
                return Err(StoreError::Corrupt("a replay is at a redrive's position".to_owned()));
            }
        }
        (job.node, job.updated_at) = (Some(node), now);
        self.bulk_jobs.insert(job.key, job.clone());
        let entry = job.ended_at.map(|_| entries::job_ended(&job));
        Ok(Audited::new((Some(job), growth), entry))
    }

    fn redrive_chunk(
        &mut self,
        now: Timestamp,
        job: &mut BulkJob,
        filter: &DeliveryFilter,
        position: BulkPosition,
        growth: &mut Growth,
    ) -> Result<()> {
        let next = |answer: &Redriven| match answer.next {
            Some(RedriveCursor::DeadLetters(place)) => Some(place),
            _ => None,
        };
        let matching = self.matching(job.organisation, filter)?;
        match position {
            BulkPosition::Counted(_) => {
                let mut skipped = Redriven::default();
                let open = self.count_all_skipped(&matching, &mut skipped)?;
                job.counted(&skipped, open, None);
            }
            BulkPosition::Redriven(after) => {
                let after = Some(RedriveCursor::DeadLetters(after.into()));
                let (mut answer, chosen) = self.search(now, &matching, after, BULK_REDRIVEN)?;
                self.append_dead_letters(now, &chosen, false, &mut answer, growth)?;
                let next = next(&answer);
                job.redriven(&answer, next, now);
            }
            BulkPosition::Replayed(_) => {
                return Err(StoreError::Corrupt("a redrive is at a replay's position".to_owned()));
            }
        }
        Ok(())
    }

    /// Refuses an action whose key has a result: the caller looks it up first.
    pub(super) fn check_key(&self, actor: &Actor) -> Result<()> {
        let name = actor.request_key.as_ref().map(|key| (actor.organisation, key.name()));
        if name.is_some_and(|name| self.results.contains_key(&name)) {
            return Err(StoreError::Unavailable("a concurrent request was faster".to_owned()));
        }
        Ok(())
    }

    /// Keeps a result under the key of its request.
    pub(super) fn keep_result(&mut self, now: Timestamp, actor: &Actor, result: KeptResult) {
        let Some(key) = actor.request_key.as_ref().filter(|_| result.is_kept()) else { return };
        let name = (actor.organisation, key.name());
        let stored = StoredResult { digest: key.digest, result, created_at: now };
        self.results.insert(name, stored);
    }

    fn replay(
        &mut self,
        now: Timestamp,
        actor: &Actor,
        id: JobId,
        gateway: GatewayId,
        selection: ReplaySelection,
        dry_run: bool,
    ) -> Result<Audited<(Replayed, Growth)>> {
        let key = self.live_key(actor.organisation, gateway)?;
        let range = self.selected(key, selection)?;
        let mut growth = Growth::new();
        let mut replayed =
            Replayed { range, counts: BulkCounts::default(), appended: None, job: None };
        let Some(range) = range else { return Ok(Audited::new((replayed, growth), [])) };
        if dry_run {
            let (counts, _, _) = self.pick(now, key, range.first.previous(), range, i64::MAX);
            replayed.counts = counts;
            return Ok(Audited::new((replayed, growth), []));
        }
        if range.last.0 - range.first.0 >= REPLAYED {
            let job = BulkJob::new(id, actor, BulkTask::Replay(gateway, range), now);
            let Audited { value, entries } = self.start_job(job)?;
            replayed.job = Some(value);
            return Ok(Audited::new((replayed, growth), entries));
        }
        let (counts, _, appended) =
            self.append_range(now, key, range.first.previous(), range, &mut growth)?;
        (replayed.counts, replayed.appended) = (counts, appended);
        let name = self.gateway_row(key)?.name.clone();
        let entry = appended.map(|appended| entries::replayed(gateway, &name, range, appended));
        Ok(Audited::new((replayed, growth), entry))
    }

    /// The selected range of a log; `None` if it is empty.
    fn selected(&self, gateway: GatewayKey, selection: ReplaySelection) -> Result<Option<Range>> {
        let head = Sequence(self.gateway_row(gateway)?.stream.head);
        let (first, last) = match selection {
            ReplaySelection::Range(first, last) => {
                (first.max(Sequence(1)), last.unwrap_or(head).min(head))
            }
            ReplaySelection::Window(window) => self.in_window(gateway, window)?,
        };
        Ok((first <= last).then_some(Range { first, last }))
    }

    fn in_window(&self, gateway: GatewayKey, window: TimeWindow) -> Result<(Sequence, Sequence)> {
        let mut times = BTreeMap::new();
        for ((of, sequence), _) in self.deliveries().filter(|((of, _), _)| *of == gateway) {
            if let Some(at) = self.standing((of, sequence))?.appended_at {
                times.insert(Sequence(sequence), at);
            }
        }
        let head = Sequence(self.gateway_row(gateway)?.stream.head);
        let first = times.iter().find(|(_, at)| **at >= window.from()).map(|(it, _)| *it);
        let last = times.iter().rfind(|(_, at)| **at < window.to()).map(|(it, _)| *it);
        let is_open = times.values().all(|at| *at >= window.from());
        let first = if is_open { Sequence(1) } else { first.unwrap_or(head.next()) };
        Ok((first, last.unwrap_or(Sequence::ZERO)))
    }

    /// Decides for each delivery of a range whether it is appended; returns how far it got.
    fn pick(
        &self,
        now: Timestamp,
        gateway: GatewayKey,
        after: Sequence,
        range: Range,
        most: i64,
    ) -> (BulkCounts, Sequence, Vec<(i64, i64)>) {
        let mut rows: Vec<(i64, i64)> = self
            .deliveries()
            .filter(|((of, sequence), _)| {
                *of == gateway && (after.0 + 1..=range.last.0).contains(sequence)
            })
            .map(|((_, sequence), event)| (sequence, event))
            .collect();
        rows.sort_unstable();
        let later: Vec<(i64, i64)> = rows.clone();
        rows.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let last = rows.last().filter(|_| count >= most);
        let reached = last.map_or(range.last, |(sequence, _)| Sequence(*sequence));
        let mut counts =
            BulkCounts { event_removed: reached.0 - after.0 - count, ..BulkCounts::default() };
        let mut chosen = Vec::new();
        for (sequence, event) in rows {
            let row = self.events.get(&event);
            let expires_at = row.and_then(|row| row.event.expires_at);
            if later.iter().any(|(other, it)| *it == event && *other > sequence) {
                counts.repeated += 1;
            } else if row.is_some_and(|row| row.purged.is_some()) {
                counts.payload_purged += 1;
            } else if expires_at.is_some_and(|at| at <= now) {
                counts.expired += 1;
            } else {
                counts.appended += 1;
                chosen.push((sequence, event));
            }
        }
        (counts, reached, chosen)
    }

    fn append_range(
        &mut self,
        now: Timestamp,
        gateway: GatewayKey,
        after: Sequence,
        range: Range,
        growth: &mut Growth,
    ) -> Result<(BulkCounts, Sequence, Option<Range>)> {
        let (counts, reached, chosen) = self.pick(now, gateway, after, range, REPLAYED);
        let mut numbered = BTreeMap::new();
        for (sequence, event) in chosen {
            let new = self.number(gateway, event, growth);
            self.appended_again.insert((gateway, new.0), now);
            numbered.insert((gateway, sequence), new.0);
        }
        self.mark_appended(now, &numbered)?;
        let ends = numbered.values().min().zip(numbered.values().max());
        let appended =
            ends.map(|(first, last)| Range { first: Sequence(*first), last: Sequence(*last) });
        Ok((counts, reached, appended))
    }

    fn resend(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        id: &EventId,
        target: &Target,
        force: bool,
        dry_run: bool,
    ) -> Result<Audited<(std::result::Result<Resent, Refusal>, Growth)>> {
        let key = self.event_keys.get(&(organisation, id.clone())).copied();
        let row = key.and_then(|key| Some((key, self.events.get(&key)?)));
        let (key, row) = row.ok_or(StoreError::NotFound("event"))?;
        let event_type = row.event.event_type.to_string();
        if row.purged.is_some() {
            return Err(Conflict::Purged(row.event.id.clone()).into());
        }
        if let Some(at) = row.event.expires_at.filter(|at| *at <= now) {
            return Err(Conflict::EventExpired { event: id.clone(), at }.into());
        }
        let mut growth = Growth::new();
        let selected = match self.targets(organisation, target) {
            Ok(selected) => selected,
            Err(refusal) => return Ok(Audited::new((Err(refusal), growth), [])),
        };
        let mut known: BTreeMap<GatewayKey, i64> = BTreeMap::new();
        for ((gateway, sequence), _) in self.deliveries().filter(|(_, event)| *event == key) {
            let last = known.entry(gateway).or_insert(sequence);
            *last = sequence.max(*last);
        }
        let mut resent = Resent { deliveries: Vec::new(), present: Vec::new() };
        let mut again = BTreeMap::new();
        for (gateway, gateway_id) in selected {
            let old = known.get(&gateway).copied();
            if let Some(old) = old.filter(|_| !force) {
                resent.present.push(AppendedDelivery { gateway_id, sequence: Sequence(old) });
                continue;
            }
            if dry_run {
                resent.deliveries.push((gateway_id, None));
                continue;
            }
            let new = self.number(gateway, key, &mut growth);
            self.appended_again.insert((gateway, new.0), now);
            again.extend(old.map(|old| ((gateway, old), new.0)));
            resent.deliveries.push((gateway_id, Some(new)));
        }
        self.mark_appended(now, &again)?;
        let is_done = !dry_run && !resent.deliveries.is_empty();
        let entry = is_done.then(|| entries::event_resent(id, &event_type, &resent, force));
        Ok(Audited::new((Ok(resent), growth), entry))
    }

    /// Removes the records of jobs that ended before an instant; returns how many.
    pub(super) fn forget_jobs(&mut self, before: Timestamp, batch: usize) -> usize {
        let ended = |job: &BulkJob| job.ended_at.is_some_and(|at| at < before);
        let gone: Vec<i64> = self
            .bulk_jobs
            .values()
            .filter(|job| ended(job))
            .map(|job| job.key)
            .take(batch)
            .collect();
        gone.iter().filter(|key| self.bulk_jobs.remove(key).is_some()).count()
    }
}
