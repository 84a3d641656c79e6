//! What admins and background jobs do in a run, and what each must do at once.

use gateway_events::event::{EventId, JobId, Reason, Sequence};
use gateway_events::store::{
    BulkJobState, Conflict, DeliveryFilter, ExpiryMark, RedriveSelection, Redriven,
    ReplaySelection, RetentionLimits, StoreError, Target, TrimMark,
};

use super::{GATEWAYS, Known, Run};
use crate::conformance::{Fixture, keep_all};

const REASON: &str = "a run";

impl Known {
    /// From now on, a sequence must not be sent.
    fn bar(&mut self, node: usize, sequence: i64) {
        let is_known = self.connected.as_ref().is_none_or(|connected| connected.node == node);
        let barred = if is_known { &mut self.barred } else { &mut self.barred_next };
        barred.insert(sequence);
    }
}

impl Run {
    /// Checks and notes an event that arrived.
    pub(super) fn received(&mut self, nth: usize, sequence: i64, id: &EventId, payload: &str) {
        let known = &mut self.gateways[nth];
        let Some(connected) = &mut known.connected else { return };
        let last = connected.sent.last().copied().unwrap_or(0);
        assert!(sequence > last, "{sequence} after {last}");
        connected.sent.push(sequence);
        assert!(!known.barred.contains(&sequence), "{sequence} was skipped or purged");
        assert!(!known.confirmed.contains(&sequence), "{sequence} was confirmed before");
        known.received.insert(sequence);
        assert_eq!(known.event(sequence), id, "the event of {sequence}");
        let event = &self.events[id];
        assert_eq!(payload, event.payload, "the payload of {id}");
        assert!(!event.is_expired, "{id} has expired");
    }

    pub(super) async fn pause(&mut self, nth: usize, pause: bool) {
        let node = self.node();
        let store = self.store(node);
        let actor = Fixture::of(store.as_ref()).await.actor();
        let known = &mut self.gateways[nth];
        let id = known.gateway.id;
        let done = if pause {
            store.pause_gateway(&actor, id, Some(REASON), false).await
        } else {
            store.resume_gateway(&actor, id, false).await
        };
        let changed = done.unwrap().changed;
        assert_eq!(changed, known.is_paused != pause);
        known.is_paused = pause;
        let at = known.connected.as_ref().map(|connected| connected.node);
        let is_notified = changed && at.is_none_or(|at| at == node);
        known.is_silent = pause && (known.is_silent || is_notified);
        self.drain(nth).await;
    }

    pub(super) async fn skip(&mut self, nth: usize) {
        let node = self.node();
        let store = self.store(node);
        let actor = Fixture::of(store.as_ref()).await.actor();
        let id = self.gateways[nth].gateway.id;
        let head = i64::try_from(self.gateways[nth].log.len()).unwrap();
        let sequence = self.rng.i64(0..=head + 1);
        match store.skip_delivery(&actor, id, Sequence(sequence), REASON, false).await {
            Ok(skipped) => {
                assert!((1..=head).contains(&sequence));
                self.drain(nth).await;
                if skipped.changed {
                    self.gateways[nth].bar(node, sequence);
                }
            }
            // Also if retention has removed it.
            Err(
                StoreError::NotFound("delivery")
                | StoreError::Conflict(Conflict::Delivered(_) | Conflict::GivenUp { .. }),
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) async fn purge(&mut self) {
        let Some(id) = self.any_event() else { return };
        let node = self.node();
        let store = self.store(node);
        let fixture = Fixture::of(store.as_ref()).await;
        match store.purge_event(&fixture.actor(), &id, REASON, false).await {
            Ok(purged) => assert_eq!(purged.changed, !self.events[&id].is_purged),
            // Retention has removed it.
            Err(StoreError::NotFound("event")) => return,
            Err(error) => panic!("{error}"),
        }
        let history = store.event_history(fixture.organisation, &id).await.unwrap().unwrap();
        assert_eq!(history.event.payload.get(), "{}", "the payload of {id}");
        for nth in 0..GATEWAYS {
            self.drain(nth).await;
            let known = &mut self.gateways[nth];
            for sequence in 1..=i64::try_from(known.log.len()).unwrap() {
                if *known.event(sequence) == id {
                    known.bar(node, sequence);
                }
            }
        }
        self.events.get_mut(&id).unwrap().is_purged = true;
    }

    fn any_event(&mut self) -> Option<EventId> {
        let number = self.rng.usize(..self.events.len().max(1));
        self.events.keys().nth(number).cloned()
    }

    /// Notes what a redrive appended: each dead letter once, oldest first.
    fn redriven(&mut self, nth: usize, done: Redriven) {
        let mut before = 0;
        let known = &mut self.gateways[nth];
        for one in done.redriven {
            let sequence = one.sequence.0;
            assert!(sequence > before, "oldest first: {sequence} after {before}");
            before = sequence;
            assert_eq!(*known.event(sequence), one.event_id);
            assert!(known.redriven.insert(sequence), "{sequence} was redriven twice");
            assert!(!self.events[&one.event_id].is_purged, "{} was purged", one.event_id);
            known.append(one.new_sequence.expect("it was appended"), &one.event_id);
        }
    }

    pub(super) async fn redrive_one(&mut self, nth: usize) {
        let head = i64::try_from(self.gateways[nth].log.len()).unwrap();
        if head == 0 {
            return;
        }
        let node = self.node();
        let store = self.store(node);
        let actor = Fixture::of(store.as_ref()).await.actor();
        let id = self.gateways[nth].gateway.id;
        let one = RedriveSelection::One(id, Sequence(self.rng.i64(1..=head)));
        match store.redrive(&actor, one, false).await {
            Ok(done) => self.redriven(nth, done),
            Err(StoreError::NotFound(_) | StoreError::Conflict(Conflict::Purged(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) async fn redrive_all(&mut self, nth: usize) {
        let node = self.node();
        let store = self.store(node);
        let actor = Fixture::of(store.as_ref()).await.actor();
        let all = RedriveSelection::Filter(self.of(nth), None);
        let done = store.redrive(&actor, all, false).await.unwrap();
        self.redriven(nth, done);
    }

    pub(super) fn of(&self, nth: usize) -> DeliveryFilter {
        let gateway_id = Some(self.gateways[nth].gateway.id);
        DeliveryFilter { gateway_id, ..DeliveryFilter::default() }
    }

    /// Starts a job, and works it off at any node, with other steps in between by chance.
    pub(super) async fn redrive_as_job(&mut self, nth: usize) {
        let node = self.node();
        let store = self.store(node);
        let actor = Fixture::of(store.as_ref()).await.actor();
        let mut job = store.start_redrive(&actor, JobId::new(), self.of(nth)).await.unwrap();
        let abort = self.rng.u8(..4) == 0;
        while job.state == BulkJobState::Running {
            let before = job.counts.appended;
            let node = self.node();
            match self.rng.u8(..4) {
                0 => self.publish().await,
                1 => Box::pin(self.skip(nth)).await,
                2 if abort => {
                    job = self.store(node).abort_bulk_job(&actor, job.id).await.unwrap();
                    continue;
                }
                _ => {}
            }
            let worked = self.store(node).work_on_bulk_job(&job).await.unwrap();
            job = worked.expect("no other node works on it");
            let rows = self.appended_since(nth).await;
            assert_eq!(i64::try_from(rows.len()).unwrap(), job.counts.appended - before);
            for (sequence, id) in rows {
                assert!(!self.events[&id].is_purged, "{id} was purged");
                self.gateways[nth].append(sequence, &id);
            }
        }
        // Which dead letters it has redriven is not in its answer: none is left that can be.
        if job.state == BulkJobState::Done {
            let all = RedriveSelection::Filter(self.of(nth), None);
            let again = store.redrive(&actor, all, true).await.unwrap();
            let skipped = &mut self.gateways[nth].redriven;
            let left: Vec<i64> = again.redriven.iter().map(|one| one.sequence.0).collect();
            assert!(left.iter().all(|sequence| !skipped.contains(sequence)), "{left:?}");
        }
    }

    /// What the log has after the sequences that are known.
    async fn appended_since(&self, nth: usize) -> Vec<(Sequence, EventId)> {
        let known = &self.gateways[nth];
        let after = Sequence(i64::try_from(known.log.len()).unwrap());
        let store = self.store(0);
        let page = store.read(known.gateway.key, after, 10_000, usize::MAX).await.unwrap();
        page.rows.into_iter().map(|row| (row.sequence, row.event.id.clone())).collect()
    }

    /// Replays a range: each event that is still deliverable once, at its last place, in order.
    pub(super) async fn replay(&mut self, nth: usize) {
        let head = i64::try_from(self.gateways[nth].log.len()).unwrap();
        if head == 0 {
            return;
        }
        let first = self.rng.i64(1..=head);
        let last = self.rng.bool().then(|| self.rng.i64(first..=head + 2));
        let node = self.node();
        let store = self.store(node);
        let actor = Fixture::of(store.as_ref()).await.actor();
        let key = self.gateways[nth].gateway.key;
        let page = store.read(key, Sequence::ZERO, 10_000, usize::MAX).await.unwrap();
        let end = last.unwrap_or(head).min(head);
        let in_range = (first..=end).filter(|it| *it > page.floor.0);
        let mut expected: Vec<EventId> = Vec::new();
        for sequence in in_range {
            let id = self.gateways[nth].event(sequence).clone();
            expected.retain(|earlier| *earlier != id);
            expected.push(id);
        }
        expected.retain(|id| !self.events[id].is_purged && !self.events[id].is_expired);
        let selection = ReplaySelection::Range(Sequence(first), last.map(Sequence));
        let id = self.gateways[nth].gateway.id;
        let done = store.replay(&actor, JobId::new(), id, selection, false).await.unwrap();
        let rows = self.appended_since(nth).await;
        assert_eq!(done.job, None);
        assert_eq!(done.counts.appended, i64::try_from(rows.len()).unwrap());
        let replayed: Vec<EventId> = rows.iter().map(|(_, id)| id.clone()).collect();
        if page.floor.0 < first {
            assert_eq!(replayed, expected, "{first}..{end}");
        } else {
            // What retention has trimmed is replayed if its event is kept.
            assert!(replayed.ends_with(&expected), "{replayed:?} {expected:?}");
        }
        for (sequence, id) in rows {
            self.gateways[nth].append(sequence, &id);
        }
    }

    pub(super) async fn resend(&mut self) {
        let Some(id) = self.any_event() else { return };
        let force = self.rng.u8(..4) == 0;
        let node = self.node();
        let store = self.store(node);
        let actor = Fixture::of(store.as_ref()).await.actor();
        let gateways: Vec<_> = self.gateways.iter().map(|known| known.gateway.id).collect();
        let resent = store.resend(&actor, &id, Target::Gateways(gateways), force, false).await;
        let event = &self.events[&id];
        let resent = match resent {
            Ok(resent) => resent.expect("its gateways exist"),
            Err(StoreError::NotFound("event")) => return,
            Err(StoreError::Conflict(Conflict::Purged(_))) => return assert!(event.is_purged),
            Err(StoreError::Conflict(Conflict::EventExpired { .. })) => {
                return assert!(event.is_expired);
            }
            Err(error) => panic!("{error}"),
        };
        assert!(!event.is_purged && !event.is_expired);
        for one in &resent.present {
            assert!(!force);
            let known = self.known(one.gateway_id);
            let has = known.log.iter().rposition(|logged| *logged == id);
            assert_eq!(has.map(|at| i64::try_from(at + 1).unwrap()), Some(one.sequence.0));
        }
        for (gateway, sequence) in resent.deliveries {
            let known = self.known(gateway);
            assert!(force || !known.log.contains(&id), "{gateway} has {id} already");
            known.append(sequence.expect("it was appended"), &id);
        }
    }

    pub(super) async fn expire(&mut self) {
        let node = self.node();
        self.store(node).expire(&mut ExpiryMark::default()).await.unwrap();
    }

    /// Notes what is on record as confirmed and was not given up before: it must not fail any more.
    pub(super) async fn note_settled(&mut self, nth: usize) {
        let store = self.store(0);
        let fixture = Fixture::of(store.as_ref()).await;
        let gateway = fixture.again(&self.gateways[nth].gateway).await;
        // What is trimmed may have been given up by that.
        let (floor, last) = (gateway.floor.0, gateway.confirmed.0);
        let known = &mut self.gateways[nth];
        let given_up = |it: &i64| known.barred.contains(it) || known.barred_next.contains(it);
        let on_record = known.confirmed.iter().copied().filter(|it| *it > floor && *it <= last);
        let settled = on_record.filter(|it| !given_up(it));
        known.settled.extend(settled);
    }

    /// Trims the logs. Beyond the soft limit only what is confirmed is removed.
    pub(super) async fn trim(&mut self) {
        let node = self.node();
        let limits = match self.rng.u8(..3) {
            0 => RetentionLimits { hard_max_events: 12, batch: 5, ..keep_all() },
            _ => RetentionLimits { max_events: 4, batch: 7, ..keep_all() },
        };
        for nth in 0..GATEWAYS {
            self.note_settled(nth).await;
        }
        self.store(node).trim(&limits, &mut TrimMark::default()).await.unwrap();
    }

    /// Records that a gateway is not connected, which changes nothing that it is sent.
    pub(super) async fn sweep(&mut self, nth: usize) {
        let node = self.node();
        let store = self.store(node);
        let own = [self.gateways[nth].gateway.key];
        let swept = store.sweep_not_connected(Some(&own), std::time::Duration::ZERO).await.unwrap();
        let known = &self.gateways[nth];
        assert!(known.connected.is_none() || swept.recorded.is_empty(), "{swept:?}");
        for recorded in swept.recorded {
            let range = recorded.range.first.0..=recorded.range.last.0;
            let confirmed = known.confirmed.range(range).next();
            assert_eq!(confirmed, None, "recorded as {}", Reason::NotConnected);
        }
    }
}
