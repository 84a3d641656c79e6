//! Replays, resends, and jobs that redrive or replay many deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{EventId, GatewayId, JobId, OrganisationKey, Sequence};
use gateway_events::store::{
    AuditFilter, BulkCounts, BulkJob, BulkJobState, Conflict, DeliveryFilter, DeliveryState,
    EarlierResult, EventFilter, Gateway, NewEvent, RedriveSelection, Refusal, ReplaySelection,
    Replayed, RequestKey, Resent, Result, RetentionLimits, Store, StoreError, Target, TrimMark,
};

use super::maintenance::pass;
use super::{Fixture, actor, confirmed, event, event_with, ids, keep_all, range};

impl Fixture<'_> {
    async fn replay(
        &self,
        gateway: &Gateway,
        first: i64,
        last: Option<i64>,
        dry_run: bool,
    ) -> Replayed {
        let selection = ReplaySelection::Range(Sequence(first), last.map(Sequence));
        let actor = self.actor();
        let replayed = self.store.replay(&actor, JobId::new(), gateway.id, selection, dry_run);
        replayed.await.unwrap()
    }

    async fn resend(&self, id: &EventId, target: Target, force: bool) -> Resent {
        let resent = self.store.resend(&self.actor(), id, target, force, false).await;
        resent.unwrap().unwrap()
    }

    async fn redrive_job(&self, gateway: &Gateway) -> BulkJob {
        let filter = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
        self.store.start_redrive(&self.actor(), JobId::new(), filter).await.unwrap()
    }

    async fn job(&self, id: JobId) -> BulkJob {
        self.store.bulk_job(self.organisation, id).await.unwrap().unwrap()
    }

    /// Works on a job until it has ended; returns it, and the number of chunks.
    async fn run_to_end(&self, id: JobId) -> (BulkJob, usize) {
        let mut chunks = 0;
        loop {
            let job = self.job(id).await;
            if job.state != BulkJobState::Running {
                return (job, chunks);
            }
            chunks += usize::from(self.store.work_on_bulk_job(&job).await.unwrap().is_some());
        }
    }

    /// The ids of a log's events from a sequence on, in order.
    async fn log_from(&self, gateway: &Gateway, first: i64) -> Vec<EventId> {
        let after = Sequence(first - 1);
        let page = self.store.read(gateway.key, after, 10_000, usize::MAX).await.unwrap();
        page.rows.iter().map(|row| row.event.id.clone()).collect()
    }

    async fn actions(&self) -> Vec<String> {
        let window = TimeWindow::ALL;
        let filter = AuditFilter { window, action: None, principal: None, object: None };
        let records = self.store.audit(self.organisation, &filter, None, 1000).await.unwrap();
        records.into_iter().map(|record| record.action).collect()
    }
}

fn to(gateways: &[&Gateway]) -> Target {
    Target::Gateways(gateways.iter().map(|gateway| gateway.id).collect())
}

fn expiring(target: Target, at: Timestamp) -> NewEvent {
    let mut new = event(target);
    let mut fields = new.event.as_ref().clone();
    fields.expires_at = Some(at);
    new.event = Arc::new(fields);
    new
}

fn counts(appended: i64) -> BulkCounts {
    BulkCounts { appended, ..BulkCounts::default() }
}

pub(crate) async fn a_replay_appends_a_range_again_in_its_order(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (gateway, other) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let events = (0..5).map(|_| event(to(&[&gateway, &other]))).collect();
    let events = ids(&fixture.publish(events).await);
    let (connection, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, connection, 1, 3)]).await;

    let dry = fixture.replay(&gateway, 2, Some(4), true).await;
    assert_eq!((dry.range, dry.counts), (Some(range(2, 4)), counts(3)));
    assert_eq!((dry.appended, dry.job), (None, None));
    assert_eq!(fixture.again(&gateway).await.head, Sequence(5), "a dry run changes nothing");

    let before = fixture.actions().await.len();
    let done = fixture.replay(&gateway, 2, Some(4), false).await;
    assert_eq!((done.counts, done.appended), (counts(3), Some(range(6, 8))));
    assert_eq!(fixture.log_from(&gateway, 6).await, events[1..4], "delivered or not");
    assert_eq!(fixture.again(&other).await.head, Sequence(5), "no other gateway gets anything");
    let actions = fixture.actions().await;
    assert_eq!((actions.len(), actions[0].as_str()), (before + 1, "gateway.replayed"));

    let history = store.event_history(fixture.organisation, &events[1]).await.unwrap().unwrap();
    let own: Vec<_> = history.deliveries.iter().filter(|it| it.gateway_id == gateway.id).collect();
    let shown: Vec<_> = own.iter().map(|it| (it.sequence.0, it.state)).collect();
    assert_eq!(shown, [(2, DeliveryState::Delivered), (6, DeliveryState::Pending)]);
    assert!(own[0].appended_at < own[1].appended_at, "each was appended at a time of its own");
    let oldest = fixture.again(&gateway).await.oldest_pending_at;
    assert_eq!(oldest, Some(history.appended_at), "all were published at once");
    // A repeat of the publish gets the first answer.
    let repeat = event_with(events[1].clone(), to(&[&gateway, &other]), "{}");
    let answer = fixture.publish(vec![repeat]).await;
    let numbers: Vec<_> =
        answer[0].as_ref().unwrap().deliveries.iter().map(|it| it.sequence.0).collect();
    assert_eq!(numbers, [2, 2]);
    // The event is listed once.
    let filter = EventFilter { gateway_id: Some(gateway.id), ..EventFilter::default() };
    let page = store.events(fixture.organisation, &filter, None, 100).await.unwrap();
    let listed: Vec<_> = page.rows.iter().rev().map(|row| row.id.clone()).collect();
    assert_eq!(listed, events);
}

pub(crate) async fn a_replay_appends_an_event_once_at_its_last_place(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = (0..4).map(|_| event(to(&[&gateway]))).collect();
    let events = ids(&fixture.publish(events).await);
    fixture.give_up(&gateway, 2, 2).await;
    let one = RedriveSelection::One(gateway.id, Sequence(2));
    store.redrive(&fixture.actor(), one, false).await.unwrap();
    fixture.replay(&gateway, 1, Some(1), false).await;
    // Now the log is 1 2 3 4 2 1.
    let dry = fixture.replay(&gateway, 1, None, true).await;
    let expected = BulkCounts { repeated: 2, ..counts(4) };
    assert_eq!((dry.range, dry.counts), (Some(range(1, 6)), expected));
    let done = fixture.replay(&gateway, 1, None, false).await;
    assert_eq!((done.counts, done.appended), (expected, Some(range(7, 10))));
    let order = [2, 3, 1, 0].map(|nth| events[nth].clone());
    assert_eq!(fixture.log_from(&gateway, 7).await, order);
    // The same range again: it is fixed, so it does not contain what was appended.
    let done = fixture.replay(&gateway, 1, Some(6), false).await;
    assert_eq!(done.counts, expected);
    // The range of both replays.
    let done = fixture.replay(&gateway, 7, None, false).await;
    assert_eq!(done.counts, BulkCounts { repeated: 4, ..counts(4) });
}

pub(crate) async fn a_replay_says_what_is_gone_and_what_has_expired(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 4).await;
    let now = fixture.again(&gateway).await.as_of;
    fixture.publish(vec![expiring(to(&[&gateway]), now), event(to(&[&gateway]))]).await;
    let (connection, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, connection, 1, 4)]).await;
    // The events of 1 to 3 are removed with their deliveries.
    let limits = RetentionLimits { max_age: Duration::ZERO, max_events: 3, ..keep_all() };
    pass(store, &limits, &mut TrimMark::default()).await;
    let floor = fixture.again(&gateway).await.floor.0;
    assert!((3..=4).contains(&floor), "{floor}");
    let expected = BulkCounts { event_removed: floor, expired: 1, ..counts(5 - floor) };
    for dry_run in [true, false] {
        let done = fixture.replay(&gateway, 1, Some(6), dry_run).await;
        assert_eq!((done.range, done.counts), (Some(range(1, 6)), expected));
    }
    let all = ReplaySelection::Window(TimeWindow::ALL);
    let done = store.replay(&fixture.actor(), JobId::new(), gateway.id, all, true).await.unwrap();
    assert_eq!(done.range.map(|range| range.first), Some(Sequence(1)));
    assert_eq!(done.counts.event_removed, floor);
}

pub(crate) async fn a_window_of_a_replay_contains_what_was_appended_in_it(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let mut times = Vec::new();
    for _ in 0..4 {
        let id = ids(&fixture.publish(vec![event(to(&[&gateway]))]).await).remove(0);
        let history = store.event_history(fixture.organisation, &id).await.unwrap().unwrap();
        times.push(history.appended_at);
    }
    assert!(times.is_sorted());
    let found = async |from, to| {
        let window = ReplaySelection::Window(TimeWindow::between(from, to).unwrap());
        let actor = fixture.actor();
        let done = store.replay(&actor, JobId::new(), gateway.id, window, true);
        done.await.unwrap().range.map(|range| (range.first.0, range.last.0))
    };
    let after = times[3].plus(Duration::from_hours(1));
    assert_eq!(found(None, None).await, Some((1, 4)));
    assert_eq!(found(Some(times[1]), Some(times[3])).await, Some((2, 3)), "the end is excluded");
    assert_eq!(found(Some(times[2]), None).await, Some((3, 4)));
    assert_eq!(found(None, Some(times[1])).await, Some((1, 1)));
    assert_eq!(found(None, Some(times[0])).await, None);
    assert_eq!(found(Some(after), None).await, None);
}

pub(crate) async fn a_replayed_dead_letter_counts_as_redriven(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 3).await;
    fixture.give_up(&gateway, 2, 3).await;
    let done = fixture.replay(&gateway, 1, Some(2), false).await;
    assert_eq!(done.appended, Some(range(4, 5)));
    let redriven = fixture.redrive_all(&gateway, false).await;
    let redriven: Vec<_> = redriven.iter().flat_map(|call| &call.redriven).collect();
    assert_eq!(redriven.len(), 1, "each was appended again once: {redriven:?}");
    assert_eq!(redriven[0].sequence, Sequence(3));
    assert_eq!(store.totals(fixture.organisation).await.unwrap().pending, 4);
}

pub(crate) async fn an_event_is_resent_to_gateways_without_it(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let mine = fixture.organisation.0.to_string();
    let label = [("resend", mine.as_str())];
    let first = fixture.gateway(&[]).await;
    let (second, third) = (fixture.gateway(&label).await, fixture.gateway(&label).await);
    fixture.fill(&second, 1).await;
    let id = ids(&fixture.publish(vec![event(to(&[&first, &second]))]).await).remove(0);
    let labels = Target::Labels(super::Labels::from([("resend".to_owned(), mine.clone())]));

    let actor = fixture.actor();
    let dry = store.resend(&actor, &id, labels.clone(), false, true).await.unwrap().unwrap();
    assert_eq!(dry.deliveries, [(third.id, None)]);
    let present: Vec<_> = dry.present.iter().map(|it| (it.gateway_id, it.sequence.0)).collect();
    assert_eq!(present, [(second.id, 2)]);
    assert_eq!(fixture.again(&third).await.head, Sequence::ZERO, "a dry run changes nothing");

    let before = fixture.actions().await.len();
    let resent = fixture.resend(&id, labels.clone(), false).await;
    assert_eq!(resent.deliveries, [(third.id, Some(Sequence(1)))]);
    let actions = fixture.actions().await;
    assert_eq!((actions.len(), actions[0].as_str()), (before + 1, "event.resent"));
    assert_eq!(fixture.log_from(&third, 1).await, std::slice::from_ref(&id));
    let again = fixture.resend(&id, labels.clone(), false).await;
    assert_eq!((again.deliveries.len(), again.present.len()), (0, 2), "a repeat does nothing");
    assert_eq!(fixture.actions().await.len(), before + 1);

    let forced = fixture.resend(&id, labels, true).await;
    let forced: BTreeMap<GatewayId, _> = forced.deliveries.into_iter().collect();
    let expected = [(second.id, Some(Sequence(3))), (third.id, Some(Sequence(2)))];
    assert_eq!(forced, BTreeMap::from(expected));
    // What it was published for stays as it was, and so does the answer to a repeat.
    let history = store.event_history(fixture.organisation, &id).await.unwrap().unwrap();
    assert_eq!((history.matched, history.deliveries.len()), (2, 5));
    let repeat = event_with(id.clone(), to(&[&first, &second]), "{}");
    let answer = fixture.publish(vec![repeat]).await;
    let gateways: Vec<_> =
        answer[0].as_ref().unwrap().deliveries.iter().map(|it| it.gateway_id).collect();
    assert_eq!(gateways, [first.id, second.id]);
    // The gateway's events are listed with the one that it was not published for.
    let window =
        TimeWindow::between(None, Some(history.appended_at.plus(Duration::from_micros(1))));
    let filter = EventFilter {
        gateway_id: Some(third.id),
        window: window.unwrap(),
        ..EventFilter::default()
    };
    let page = store.events(fixture.organisation, &filter, None, 100).await.unwrap();
    assert_eq!(page.rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>(), [id]);
}

pub(crate) async fn a_resend_that_can_not_be_done_changes_nothing(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let now = fixture.again(&gateway).await.as_of;
    let fresh = ids(&fixture.publish(vec![event(Target::Gateways(vec![]))]).await).remove(0);
    let expired = expiring(Target::Gateways(vec![]), now);
    let expired = ids(&fixture.publish(vec![expired]).await).remove(0);
    let resend = async |organisation: OrganisationKey, id: &EventId, target: Target| {
        store.resend(&actor(organisation), id, target, true, false).await
    };
    let of = fixture.organisation;
    let unknown = GatewayId::new();
    let target = Target::Gateways(vec![gateway.id, unknown]);
    let refused = resend(of, &fresh, target).await.unwrap();
    assert!(matches!(refused, Err(Refusal::UnknownGateways(ids)) if ids == [unknown]));
    let missing = resend(of, &"no-such-event".parse().unwrap(), to(&[&gateway])).await;
    assert!(matches!(missing, Err(StoreError::NotFound("event"))), "{missing:?}");
    let elsewhere = OrganisationKey(of.0 + 1000);
    let foreign = resend(elsewhere, &fresh, to(&[&gateway])).await;
    assert!(matches!(foreign, Err(StoreError::NotFound("event"))), "{foreign:?}");
    let late = resend(of, &expired, to(&[&gateway])).await;
    assert!(matches!(late, Err(StoreError::Conflict(Conflict::EventExpired { .. }))), "{late:?}");
    assert_eq!(fixture.again(&gateway).await.head, Sequence::ZERO);
    // A disabled gateway reads it when it is enabled; a deleted one does not exist.
    store.delete_gateway(&fixture.actor(), gateway.id).await.unwrap();
    let deleted = resend(of, &fresh, to(&[&gateway])).await.unwrap();
    assert!(matches!(deleted, Err(Refusal::UnknownGateways(_))));
    let selection = ReplaySelection::Range(Sequence(1), None);
    for (organisation, id) in [(of, gateway.id), (of, unknown), (elsewhere, gateway.id)] {
        let actor = actor(organisation);
        let replayed = store.replay(&actor, JobId::new(), id, selection, false).await;
        assert!(matches!(replayed, Err(StoreError::NotFound("gateway"))), "{replayed:?}");
    }
}

pub(crate) async fn a_large_replay_is_a_job_that_appends_everything_once(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 700).await;
    fixture.fill(&gateway, 600).await;
    let old = fixture.log_from(&gateway, 1).await;
    let started = fixture.replay(&gateway, 1, None, false).await;
    let job = started.job.unwrap();
    assert_eq!((job.state, job.done, job.total), (BulkJobState::Running, 0, Some(1300)));
    assert_eq!(fixture.actions().await[0], "job.started");
    let workable = store.workable_bulk_jobs().await.unwrap();
    assert!(workable.jobs.iter().any(|it| it.id == job.id) && workable.running > 0);
    let first = store.work_on_bulk_job(&job).await.unwrap().unwrap();
    assert_eq!((first.done, first.counts), (500, counts(500)));
    // A worker that has read the job before it moved does nothing.
    assert_eq!(store.work_on_bulk_job(&job).await.unwrap(), None);
    // What is published meanwhile is not replayed.
    fixture.fill(&gateway, 1).await;
    let (done, chunks) = fixture.run_to_end(job.id).await;
    assert_eq!((done.state, done.done, chunks), (BulkJobState::Done, 1300, 2));
    assert_eq!(done.counts, counts(1300));
    assert_eq!(fixture.again(&gateway).await.head, Sequence(2601));
    let mut new = fixture.log_from(&gateway, 1301).await;
    new.remove(500);
    assert_eq!(new, old);
    assert_eq!(fixture.actions().await[0], "job.ended");
    assert_eq!(store.work_on_bulk_job(&done).await.unwrap(), None, "it has ended");
    let aborted = store.abort_bulk_job(&fixture.actor(), job.id).await.unwrap();
    assert_eq!(aborted, done, "a job that has ended stays as it is");
}

/// Also where the bound of a call is reached before it.
pub(crate) async fn a_redrive_counts_each_skipped_delivery_once(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 1000).await;
    let now = fixture.again(&gateway).await.as_of;
    fixture.publish(vec![expiring(to(&[&gateway]), now)]).await;
    fixture.fill(&gateway, 1).await;
    fixture.give_up(&gateway, 1, 1002).await;
    for dry_run in [true, false] {
        let calls = fixture.redrive_all(&gateway, dry_run).await;
        let redriven: usize = calls.iter().map(|call| call.redriven.len()).sum();
        let expired: i64 = calls.iter().map(|call| call.expired).sum();
        assert_eq!((redriven, expired), (1001, 1), "{} calls", calls.len());
    }
}

pub(crate) async fn a_redrive_as_a_job_counts_and_appends_like_its_requests(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 250).await;
    fixture.give_up(&gateway, 11, 250).await;
    let one = RedriveSelection::One(gateway.id, Sequence(20));
    store.redrive(&fixture.actor(), one, false).await.unwrap();
    let job = fixture.redrive_job(&gateway).await;
    assert_eq!((job.done, job.total), (0, None));
    let (done, chunks) = fixture.run_to_end(job.id).await;
    assert_eq!((done.state, done.done, done.total), (BulkJobState::Done, 239, Some(239)));
    assert!(chunks >= 4, "{chunks} chunks");
    let expected = BulkCounts { already_redriven: 1, ..counts(239) };
    assert_eq!(done.counts, expected);
    let old: Vec<_> = fixture.log_from(&gateway, 1).await.drain(10..250).collect();
    let mut new = fixture.log_from(&gateway, 251).await;
    new.insert(10, new[0].clone());
    new.remove(0);
    assert_eq!(new, old);
}

pub(crate) async fn jobs_over_the_same_deliveries_append_each_of_them_once(store: &dyn Store) {
    const DEAD_LETTERS: i64 = 450;
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 450).await;
    fixture.give_up(&gateway, 1, DEAD_LETTERS).await;
    let (one, other) = (fixture.redrive_job(&gateway).await, fixture.redrive_job(&gateway).await);
    // Several workers at each of them.
    let done =
        join_all([one.id, other.id, one.id, other.id].map(|id| fixture.run_to_end(id))).await;
    let (one, other) = (&done[0].0, &done[1].0);
    assert_eq!(one.counts.appended + other.counts.appended, DEAD_LETTERS, "{one:?} {other:?}");
    assert_eq!(fixture.again(&gateway).await.head, Sequence(2 * DEAD_LETTERS));
    for job in [one, other] {
        let BulkCounts { appended, already_redriven, .. } = job.counts;
        assert_eq!(
            appended + already_redriven,
            DEAD_LETTERS,
            "every one is accounted for: {job:?}"
        );
    }
}

pub(crate) async fn an_aborted_job_keeps_what_it_has_appended(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 600).await;
    let job = fixture.replay(&gateway, 1, None, false).await.job.unwrap();
    let read = store.work_on_bulk_job(&job).await.unwrap().unwrap();
    let aborted = store.abort_bulk_job(&fixture.actor(), job.id).await.unwrap();
    assert_eq!((aborted.state, aborted.counts), (BulkJobState::Aborted, counts(500)));
    assert!(aborted.ended_at.is_some());
    assert_eq!(store.work_on_bulk_job(&read).await.unwrap(), None);
    assert_eq!(fixture.again(&gateway).await.head, Sequence(1100));
    assert_eq!(fixture.actions().await[0], "job.aborted");
    let again = store.abort_bulk_job(&fixture.actor(), job.id).await.unwrap();
    assert_eq!(again, aborted);
    let elsewhere = actor(OrganisationKey(fixture.organisation.0 + 1000));
    for (actor, id) in [(fixture.actor(), JobId::new()), (elsewhere, job.id)] {
        let missing = store.abort_bulk_job(&actor, id).await;
        assert!(matches!(missing, Err(StoreError::NotFound("job"))), "{missing:?}");
    }
}

pub(crate) async fn a_job_whose_gateway_is_deleted_fails(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 600).await;
    let job = fixture.replay(&gateway, 1, None, false).await.job.unwrap();
    store.delete_gateway(&fixture.actor(), gateway.id).await.unwrap();
    let (failed, _) = fixture.run_to_end(job.id).await;
    assert_eq!(failed.state, BulkJobState::Failed);
    assert_eq!(failed.failure.as_deref(), Some("the gateway was deleted"));
    assert_eq!(failed.counts, counts(0));
    let other = fixture.gateway(&[]).await;
    fixture.fill(&other, 600).await;
    let job = fixture.replay(&other, 1, None, false).await.job.unwrap();
    store.fail_bulk_job(&job, "the disk is gone").await.unwrap();
    let failed = fixture.job(job.id).await;
    assert_eq!(
        (failed.state, failed.failure.as_deref()),
        (BulkJobState::Failed, Some("the disk is gone"))
    );
}

pub(crate) async fn running_jobs_are_limited_and_jobs_are_paged_newest_first(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let start = async || {
        let filter = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
        store.start_redrive(&fixture.actor(), JobId::new(), filter).await
    };
    let started: Vec<Result<BulkJob>> = join_all((0..7).map(|_| start())).await;
    let jobs: Vec<&BulkJob> = started.iter().flatten().collect();
    assert_eq!(jobs.len(), 4, "{started:?}");
    let refused = started
        .iter()
        .filter(|it| matches!(it, Err(StoreError::Conflict(Conflict::RunningJobs { running: 4 }))));
    assert_eq!(refused.count(), 3, "{started:?}");
    let mut keys: Vec<i64> = jobs.iter().map(|job| job.key).collect();
    keys.sort_unstable_by_key(|key| std::cmp::Reverse(*key));
    store.abort_bulk_job(&fixture.actor(), jobs[0].id).await.unwrap();
    start().await.unwrap();
    let list = async |state, after, limit| {
        let page = store.bulk_jobs(fixture.organisation, state, after, limit).await.unwrap();
        page.into_iter().map(|job| job.key).collect::<Vec<_>>()
    };
    let newest = list(None, None, 2).await;
    assert_eq!(newest[1], keys[0]);
    assert_eq!(list(None, Some(keys[0]), 10).await, keys[1..]);
    assert_eq!(list(Some(BulkJobState::Aborted), None, 10).await, [jobs[0].key]);
    assert_eq!(list(Some(BulkJobState::Running), None, 10).await.len(), 4);
    assert_eq!(list(Some(BulkJobState::Failed), None, 10).await, [] as [i64; 0]);
    let elsewhere = OrganisationKey(fixture.organisation.0 + 1000);
    assert_eq!(store.bulk_jobs(elsewhere, None, None, 10).await.unwrap(), []);
    assert_eq!(store.bulk_job(elsewhere, jobs[0].id).await.unwrap(), None);
    // Retention removes the records of jobs that have ended.
    let limits = RetentionLimits { audit_max_age: Duration::ZERO, ..keep_all() };
    pass(store, &limits, &mut TrimMark::default()).await;
    assert_eq!(list(Some(BulkJobState::Aborted), None, 10).await, [] as [i64; 0]);
    assert_eq!(list(None, None, 10).await.len(), 4);
}

pub(crate) async fn a_repeated_key_gets_the_result_of_the_first_action(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 3).await;
    let with = |key: &str, digest: u8| {
        let key = RequestKey { key: key.to_owned(), digest: [digest; 32] };
        fixture.actor().with_request_key(Some(key))
    };
    let all = ReplaySelection::Range(Sequence(1), None);
    let replay = async |actor, selection| {
        store.replay(&actor, JobId::new(), gateway.id, selection, false).await
    };
    assert!(store.earlier_result(&fixture.actor()).await.unwrap().is_none());
    assert!(store.earlier_result(&with("k-1", 1)).await.unwrap().is_none());
    let first = replay(with("k-1", 1), all).await.unwrap();
    assert_eq!(first.counts.appended, 3);
    match store.earlier_result(&with("k-1", 1)).await.unwrap() {
        Some(EarlierResult::Replayed(earlier)) => assert_eq!(earlier, first),
        other => panic!("{other:?}"),
    }
    // A request that did not look is undone, as one that ran at the same time.
    let raced = replay(with("k-1", 1), all).await;
    assert!(matches!(raced, Err(StoreError::Unavailable(_))), "{raced:?}");
    assert_eq!(fixture.again(&gateway).await.head, Sequence(6));
    let reused = store.earlier_result(&with("k-1", 2)).await;
    let is_reused =
        matches!(&reused, Err(StoreError::Conflict(Conflict::KeyReused { key })) if key == "k-1");
    assert!(is_reused, "{reused:?}");

    // What appended nothing is not kept.
    let gone = event(Target::Gateways(vec![gateway.id]));
    let gone = ids(&fixture.publish(vec![gone]).await).remove(0);
    store.purge_event(&fixture.actor(), &gone, "a test", false).await.unwrap();
    let nothing = ReplaySelection::Range(Sequence(7), Some(Sequence(7)));
    assert_eq!(replay(with("k-2", 1), nothing).await.unwrap().counts.payload_purged, 1);
    assert!(store.earlier_result(&with("k-2", 1)).await.unwrap().is_none());

    let id = ids(&fixture.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await).remove(0);
    let target = Target::Gateways(vec![gateway.id]);
    let resent = store.resend(&with("k-3", 1), &id, target, true, false).await.unwrap().unwrap();
    match store.earlier_result(&with("k-3", 1)).await.unwrap() {
        Some(EarlierResult::Resent(earlier)) => assert_eq!(earlier, resent),
        other => panic!("{other:?}"),
    }

    fixture.give_up(&gateway, 1, 2).await;
    let one = RedriveSelection::One(gateway.id, Sequence(1));
    let redriven = store.redrive(&with("k-4", 1), one, false).await.unwrap();
    match store.earlier_result(&with("k-4", 1)).await.unwrap() {
        Some(EarlierResult::Redriven(earlier)) => {
            assert_eq!(earlier.redriven.len(), 1);
            assert_eq!(earlier.redriven[0].new_sequence, redriven.redriven[0].new_sequence);
        }
        other => panic!("{other:?}"),
    }
    let filter = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
    let job = store.start_redrive(&with("k-5", 1), JobId::new(), filter).await.unwrap();
    let aborted = store.abort_bulk_job(&fixture.actor(), job.id).await.unwrap();
    match store.earlier_result(&with("k-5", 1)).await.unwrap() {
        Some(EarlierResult::RedriveStarted(job)) => assert_eq!(job, aborted, "as it is now"),
        other => panic!("{other:?}"),
    }
}
