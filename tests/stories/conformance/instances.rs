//! Named instances: where they resume, what their answers change, and when they are forgotten.

use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, Epoch, EventId, Reason, Sequence};
use gateway_events::store::{
    Confirmation, Conflict, DeliveryFilter, DeliveryState, EventState, Gap, GapReason, Gateway,
    GatewayChange, InstanceInfo, InstanceOutcome, Level, LogSpan, MAX_INSTANCES, NewConnection,
    OpenInstance, OpenedInstance, Outcome, Record, ResumeFrom, ResyncOutcome, ResyncRequest,
    RetentionLimits, RolloutOf, Store, StoreError, Target, TargetState, TrimMark, VerdictState,
};

use super::undelivered::{expire, expiring};
use super::{Fixture, closed, confirmed, connection, event, ids, keep_all, pass, range};

/// A connection of an instance.
pub(super) struct Instance<'a> {
    gateway: &'a Gateway,
    name: &'a str,
    confirm: Level,
    id: ConnectionId,
    opened: OpenedInstance,
}

impl Fixture<'_> {
    async fn try_open_as<'a>(
        &self,
        gateway: &'a Gateway,
        name: &'a str,
        confirm: Level,
        resume: ResumeFrom,
    ) -> Result<Instance<'a>, StoreError> {
        let new = connection(gateway);
        let id = new.id;
        let connection =
            NewConnection { instance: name.to_owned(), transport: "websocket.v1", ..new };
        let opening = OpenInstance { connection, confirm, resume };
        let opened = self.store.open_instance(opening).await?;
        Ok(Instance { gateway, name, confirm, id, opened })
    }

    pub(super) async fn open_as<'a>(
        &self,
        gateway: &'a Gateway,
        name: &'a str,
        confirm: Level,
        resume: ResumeFrom,
    ) -> Instance<'a> {
        self.try_open_as(gateway, name, confirm, resume).await.unwrap()
    }

    pub(super) async fn must_all_confirm(&self, gateway: &Gateway, confirmation: Confirmation) {
        let change = GatewayChange { confirmation: Some(confirmation), ..GatewayChange::default() };
        self.store.update_gateway(&self.actor(), gateway.id, change).await.unwrap();
    }

    async fn position(&self, gateway: &Gateway) -> i64 {
        self.again(gateway).await.confirmed.0
    }

    async fn instance(&self, gateway: &Gateway, name: &str) -> Option<InstanceInfo> {
        let found = self.store.instances(self.organisation, gateway.id).await.unwrap().unwrap();
        found.instances.into_iter().find(|it| it.name == name)
    }

    /// The outcomes of the attempts at an event, and the state of its delivery.
    async fn outcomes(&self, id: &EventId) -> (Vec<Outcome>, DeliveryState) {
        let history = self.store.event_history(self.organisation, id).await.unwrap().unwrap();
        let state = history.deliveries[0].state;
        (self.attempts(id).await.into_iter().map(|attempt| attempt.outcome).collect(), state)
    }

    async fn events(&self, gateway: &Gateway, count: usize) -> Vec<EventId> {
        let target = || Target::Gateways(vec![gateway.id]);
        ids(&self.publish((0..count).map(|_| event(target())).collect()).await)
    }
}

impl Instance<'_> {
    fn filtered(&self, first: i64, last: i64) -> Record {
        let advance_to = Some(Sequence(last));
        self.record(InstanceOutcome::Filtered { range: range(first, last), advance_to })
    }

    fn record(&self, outcome: InstanceOutcome) -> Record {
        Record::Instance {
            gateway: self.gateway.key,
            connection: self.id,
            instance: self.name.into(),
            outcome,
            at: Timestamp::now(),
        }
    }

    fn acknowledged(&self, level: Level, first: i64, last: i64) -> Record {
        self.record(InstanceOutcome::Acknowledged {
            level,
            confirms: level == self.confirm,
            range: range(first, last),
            started_at: Timestamp::now(),
        })
    }

    pub(super) fn confirmed(&self, first: i64, last: i64) -> Record {
        self.acknowledged(self.confirm, first, last)
    }

    pub(super) fn rejected(&self, sequence: i64) -> Record {
        self.record(InstanceOutcome::Rejected {
            sequence: Sequence(sequence),
            code: Reason::Unsupported,
            detail: "no such plugin".to_owned(),
            started_at: Timestamp::now(),
            advance_to: Some(Sequence(sequence)),
        })
    }

    fn ended(&self) -> Record {
        closed(self.gateway, self.id, Reason::ClosedByGateway, None, false)
    }
}

async fn trim(store: &dyn Store, limits: RetentionLimits) {
    pass(store, &limits, &mut TrimMark::default()).await;
}

fn after(epoch: Epoch, sequence: i64, event_id: Option<EventId>) -> ResumeFrom {
    ResumeFrom::After { epoch, sequence: Sequence(sequence), event_id }
}

pub(crate) async fn an_instance_resumes_at_the_position_of_its_level(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 9).await;
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Earliest).await;
    assert_eq!(east.opened.opened.position, Sequence::ZERO);
    fixture
        .record(vec![
            east.acknowledged(Level::Received, 1, 6),
            east.acknowledged(Level::Applied, 1, 2),
            east.acknowledged(Level::Applied, 3, 4),
            east.ended(),
        ])
        .await;
    assert_eq!(fixture.position(&gateway).await, 4, "what it has received confirms nothing");
    let again = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    assert_eq!(again.opened.opened.position, Sequence(4));
    assert_eq!((again.opened.received, again.opened.applied), (Sequence(6), Sequence(4)));
    fixture.record(vec![again.ended()]).await;
    // Its level has changed: what it had confirmed by the other one stays confirmed.
    let again = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
    assert_eq!(again.opened.opened.position, Sequence(6));
    fixture.record(vec![again.confirmed(7, 8), again.ended()]).await;
    let again = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    assert_eq!(again.opened.opened.position, Sequence(8));
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Server).await;
    assert_eq!(west.opened.opened.position, Sequence(8), "a new one, at the gateway's");
    // An earlier position of its own is served, and its cursor stays.
    let back = after(west.opened.opened.epoch, 3, None);
    let west = fixture.open_as(&gateway, "west", Level::Received, back).await;
    assert_eq!(west.opened.opened.position, Sequence(3));
    fixture.record(vec![west.confirmed(4, 5)]).await;
    let info = fixture.instance(&gateway, "west").await.unwrap();
    assert_eq!((info.received, info.lag), (Sequence(8), 1));
}

pub(crate) async fn a_position_that_the_log_does_not_have_is_a_gap(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 6).await;
    let (unnamed, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, unnamed, 1, 6)]).await;
    let state = store.peek_log(gateway.key).await.unwrap();
    let epoch = state.epoch;
    assert_eq!((state.head, state.floor), (Sequence(6), Sequence::ZERO));
    let gap = async |resume| {
        let east = fixture.open_as(&gateway, "east", Level::Received, resume).await;
        east.opened.gap
    };
    let other = Some(Gap {
        reason: GapReason::Epoch,
        from: Sequence(1),
        to: Sequence(6),
        resume_at: Sequence(6),
    });
    assert_eq!(gap(after(Epoch::new(), 2, None)).await, other, "another epoch");
    assert_eq!(gap(after(epoch, 7, None)).await, other, "above the head");
    assert_eq!(gap(after(epoch, 2, Some(events[2].clone()))).await, other, "another event");
    assert_eq!(gap(after(epoch, 0, Some(events[0].clone()))).await, other, "no event");
    assert_eq!(gap(after(epoch, 2, Some(events[1].clone()))).await, None);
    assert_eq!(gap(after(epoch, 6, None)).await, None, "the head");
    assert_eq!(gap(after(epoch, 0, None)).await, None, "the floor");
    let hard = RetentionLimits { hard_max_events: 3, ..keep_all() };
    trim(store, hard).await;
    assert_eq!(fixture.again(&gateway).await.floor, Sequence(3));
    let removed = |from: i64| {
        let (reason, to) = (GapReason::Retention, Sequence(3));
        Some(Gap { reason, from: Sequence(from), to, resume_at: to })
    };
    assert_eq!(gap(after(epoch, 1, Some(events[0].clone()))).await, removed(2));
    assert_eq!(gap(after(epoch, 3, None)).await, None);
    assert_eq!(gap(ResumeFrom::Earliest).await, None);
    assert_eq!(gap(ResumeFrom::Latest).await, None);
    let late = fixture.open_as(&gateway, "late", Level::Received, after(epoch, 1, None)).await;
    assert_eq!(late.opened.gap, removed(2));
    assert_eq!(late.opened.opened.position, Sequence(6), "that of the gateway");
}

pub(crate) async fn what_a_snapshot_covers_is_settled_and_recorded(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 4).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let foreign = after(Epoch::new(), 9, None);
    let east = fixture.open_as(&gateway, "east", Level::Applied, foreign).await;
    let gap = east.opened.gap.unwrap();
    assert_eq!(fixture.position(&gateway).await, 0, "nothing moves before the snapshot");
    let (reason, resume_at) = (gap.reason, gap.resume_at);
    fixture.record(vec![east.record(InstanceOutcome::Covered { reason, resume_at })]).await;
    let attempt = &fixture.attempts(&events[1]).await[0];
    assert_eq!((attempt.outcome, attempt.reason), (Outcome::Snapshot, None));
    assert_eq!(attempt.detail.as_deref(), Some("epoch"));
    let gateway = fixture.again(&gateway).await;
    assert_eq!((gateway.confirmed, gateway.pending), (Sequence(4), 0));
    let info = fixture.instance(&gateway, "east").await.unwrap();
    assert_eq!((info.received, info.applied), (Sequence(4), Sequence(4)));
    let totals = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(totals.failed_attempts, before.failed_attempts);
    assert_eq!(totals.dead_letters, before.dead_letters);
}

pub(crate) async fn what_an_instance_does_not_want_is_settled_and_does_not_fail(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 5).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let east = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Earliest).await;
    let filtered = |first, last, advance_to: Option<i64>| {
        let advance_to = advance_to.map(Sequence);
        east.record(InstanceOutcome::Filtered { range: range(first, last), advance_to })
    };
    fixture.record(vec![filtered(1, 2, Some(2)), filtered(4, 4, None), east.confirmed(3, 3)]).await;
    assert_eq!(fixture.position(&gateway).await, 3);
    fixture.record(vec![east.confirmed(5, 5), east.ended()]).await;
    let settled = (vec![Outcome::Filtered], DeliveryState::Filtered);
    assert_eq!(fixture.outcomes(&events[0]).await, settled);
    assert_eq!(fixture.outcomes(&events[3]).await, settled);
    assert_eq!(fixture.position(&gateway).await, 5);
    // So is what lies before the end of the log, if it starts there.
    let newer = fixture.events(&gateway, 2).await;
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Latest).await;
    assert_eq!(west.opened.opened.position, Sequence(7));
    assert_eq!(fixture.outcomes(&newer[0]).await, settled);
    let totals = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(totals.failed_attempts, before.failed_attempts);
    // Each instance has a cursor of its own.
    let east = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
    assert_eq!(east.opened.opened.position, Sequence(5));
}

pub(crate) async fn a_negative_acknowledgement_fails_or_rejects_an_event(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 3).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    let retried = east.record(InstanceOutcome::Retried {
        sequence: Sequence(1),
        code: Reason::DependencyMissing,
        detail: "é".repeat(2000),
        started_at: Timestamp::now(),
    });
    fixture.record(vec![retried]).await;
    let attempt = &fixture.attempts(&events[0]).await[0];
    assert_eq!(
        (attempt.outcome, attempt.reason),
        (Outcome::Failed, Some(Reason::DependencyMissing))
    );
    assert_eq!(attempt.detail.as_deref().map(str::len), Some(2048));
    assert_eq!(fixture.position(&gateway).await, 0, "it is sent again");
    fixture.record(vec![east.confirmed(1, 1), east.rejected(2), east.rejected(2)]).await;
    assert_eq!(fixture.outcomes(&events[1]).await, (vec![Outcome::Failed], DeliveryState::Failed));
    assert_eq!(fixture.position(&gateway).await, 2);
    let shown = fixture.again(&gateway).await.verdict();
    assert_eq!(
        (shown.state, shown.reason.as_deref()),
        (VerdictState::Failing, Some("unsupported"))
    );
    let totals = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(totals.failed_attempts - before.failed_attempts, 2);
    assert_eq!(totals.dead_letters - before.dead_letters, 1);
    assert_eq!(totals.confirmed - before.confirmed, 1);
    // Later acknowledgements of the same instance don't contradict it.
    fixture.record(vec![east.confirmed(3, 3)]).await;
    assert_eq!(fixture.outcomes(&events[1]).await.1, DeliveryState::Failed);
    assert_eq!(fixture.again(&gateway).await.verdict().state, VerdictState::Ok);
}

pub(crate) async fn one_confirmation_outweighs_the_rejections_of_others(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    for confirmation in [Confirmation::Any, Confirmation::All] {
        let gateway = fixture.gateway(&[]).await;
        fixture.must_all_confirm(&gateway, confirmation).await;
        let events = fixture.events(&gateway, 2).await;
        let before = store.totals(fixture.organisation).await.unwrap();
        let east = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
        let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Server).await;
        fixture.record(vec![east.rejected(1)]).await;
        assert_eq!(fixture.outcomes(&events[0]).await.1, DeliveryState::Failed);
        fixture.record(vec![west.confirmed(1, 2)]).await;
        let (state, confirmed) = match confirmation {
            Confirmation::Any => (DeliveryState::Delivered, 2),
            Confirmation::All => (DeliveryState::Failed, 0),
        };
        assert_eq!(fixture.outcomes(&events[0]).await.1, state, "{confirmation:?}");
        fixture.record(vec![east.rejected(2)]).await;
        let outcomes = fixture.outcomes(&events[1]).await;
        match confirmation {
            Confirmation::Any => assert_eq!(
                outcomes,
                (vec![Outcome::Received, Outcome::Unknown], DeliveryState::Delivered),
                "what was confirmed does not fail later"
            ),
            Confirmation::All => assert_eq!(outcomes.1, DeliveryState::Failed),
        }
        let totals = store.totals(fixture.organisation).await.unwrap();
        assert_eq!(totals.confirmed - before.confirmed, confirmed, "{confirmation:?}");
        assert_eq!(fixture.position(&gateway).await, 2);
    }
}

pub(crate) async fn delivered_means_confirmed_by_any_or_by_all_instances(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 9).await;
    let before = store.totals(fixture.organisation).await.unwrap().confirmed;
    let count = async || store.totals(fixture.organisation).await.unwrap().confirmed - before;
    let east = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
    let west = fixture.open_as(&gateway, "west", Level::Applied, ResumeFrom::Server).await;
    fixture.record(vec![east.confirmed(1, 4)]).await;
    assert_eq!((fixture.position(&gateway).await, count().await), (4, 4));
    fixture.must_all_confirm(&gateway, Confirmation::All).await;
    assert_eq!(fixture.again(&gateway).await.confirmation, Confirmation::All);
    assert_eq!(fixture.position(&gateway).await, 4, "it never moves back");
    fixture.record(vec![east.confirmed(5, 8)]).await;
    fixture.record(vec![west.acknowledged(Level::Received, 1, 9), west.confirmed(1, 5)]).await;
    assert_eq!((fixture.position(&gateway).await, count().await), (5, 5));
    // An unnamed connection does not count while there are instances.
    let (unnamed, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence(5));
    fixture.record(vec![confirmed(&gateway, unnamed, 6, 9)]).await;
    assert_eq!(fixture.position(&gateway).await, 5);
    // A new instance starts behind, and holds the others back from then on.
    let new = fixture.open_as(&gateway, "new", Level::Received, ResumeFrom::Earliest).await;
    fixture.record(vec![west.confirmed(6, 7), new.confirmed(1, 2), new.ended()]).await;
    assert_eq!(fixture.position(&gateway).await, 5);
    store.forget_instance(&fixture.actor(), gateway.id, "new").await.unwrap();
    assert_eq!((fixture.position(&gateway).await, count().await), (7, 7));
    fixture.must_all_confirm(&gateway, Confirmation::Any).await;
    assert_eq!((fixture.position(&gateway).await, count().await), (9, 9), "the unnamed one's");
}

pub(crate) async fn what_instances_apply_counts_in_rollouts(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 3).await;
    let state = async |nth: usize| {
        let of = RolloutOf::Event(events[nth].clone());
        let rollout = store.rollout(fixture.organisation, &of).await.unwrap();
        assert_eq!(rollout.possible(true), usize::from(rollout.targets[0].acknowledges));
        rollout.targets[0].state
    };
    assert_eq!(state(0).await, TargetState::NotConnected);
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Server).await;
    fixture.record(vec![west.confirmed(1, 2)]).await;
    assert_eq!(state(0).await, TargetState::Received);
    fixture.record(vec![east.confirmed(1, 1)]).await;
    assert_eq!((state(0).await, state(1).await), (TargetState::Applied, TargetState::Received));
    fixture.must_all_confirm(&gateway, Confirmation::All).await;
    fixture.record(vec![east.confirmed(2, 3)]).await;
    assert_eq!((state(1).await, state(2).await), (TargetState::Received, TargetState::Pending));
    fixture.record(vec![west.acknowledged(Level::Applied, 1, 3), west.confirmed(3, 3)]).await;
    assert_eq!((state(1).await, state(2).await), (TargetState::Applied, TargetState::Applied));
}

/// The state of an event at its only gateway, which instances filtered it, and whether a wait for it
/// goes on.
async fn target(fixture: &Fixture<'_>, event: &EventId) -> (TargetState, Vec<String>, bool) {
    let of = RolloutOf::Event(event.clone());
    let rollout = fixture.store.rollout(fixture.organisation, &of).await.unwrap();
    let is_awaited = rollout.awaited() == 1;
    let target = rollout.targets.into_iter().next().unwrap();
    (target.state, target.filtered_by, is_awaited)
}

pub(crate) async fn filtered_is_a_state_unless_an_instance_receives_the_event(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 40).await;
    let by = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Server).await;
    // One range covers all of them, and so moves the position past what the other has not seen.
    fixture.record(vec![east.filtered(1, 30), east.confirmed(31, 31)]).await;
    let open = (TargetState::Filtered, by(&["east"]), true);
    assert_eq!(target(&fixture, &events[0]).await, open, "the other one may receive it");
    assert_eq!(target(&fixture, &events[29]).await, open);
    assert_eq!(target(&fixture, &events[30]).await, (TargetState::Applied, Vec::new(), true));
    let filtered = (vec![Outcome::Filtered], DeliveryState::Filtered);
    assert_eq!(fixture.outcomes(&events[14]).await, filtered);
    fixture.record(vec![west.confirmed(1, 9), west.filtered(10, 20), west.confirmed(21, 22)]).await;
    let received = (TargetState::Received, by(&["east"]), true);
    assert_eq!(target(&fixture, &events[0]).await, received);
    assert_eq!(target(&fixture, &events[21]).await, received);
    let both = (vec![Outcome::Filtered, Outcome::Received], DeliveryState::Delivered);
    assert_eq!(fixture.outcomes(&events[8]).await, both);
    // The position had passed it, so the second filter leaves no attempt.
    let closed = (TargetState::Filtered, by(&["east"]), false);
    assert_eq!(target(&fixture, &events[9]).await, closed);
    assert_eq!(fixture.outcomes(&events[19]).await, filtered);
    fixture.record(vec![west.acknowledged(Level::Applied, 1, 3)]).await;
    assert_eq!(target(&fixture, &events[2]).await.0, TargetState::Applied);
    assert_eq!(target(&fixture, &events[3]).await.0, TargetState::Received);
    // Who is not connected is not waited for.
    assert!(target(&fixture, &events[28]).await.2);
    fixture.record(vec![west.ended()]).await;
    assert_eq!(target(&fixture, &events[28]).await, closed);
    let verdict = |id| async move {
        let history = store.event_history(fixture.organisation, id).await.unwrap().unwrap();
        let verdict = history.verdict();
        (verdict.state, verdict.gateways, verdict.targets, verdict.filtered)
    };
    assert_eq!(verdict(&events[0]).await, (EventState::Delivered, 1, 1, 0));
    assert_eq!(verdict(&events[28]).await, (EventState::Filtered, 1, 1, 1));
    assert_eq!(verdict(&events[35]).await, (EventState::Pending, 1, 1, 0));
    // The lists agree.
    let all = DeliveryFilter::default();
    let of = fixture.organisation;
    for (state, count) in [(DeliveryState::Delivered, 12), (DeliveryState::Pending, 9)] {
        let rows = store.deliveries_in_state(of, &all, Some(state), None, 100).await.unwrap().rows;
        assert_eq!(rows.len(), count, "{state:?}");
        assert!(rows.iter().all(|row| row.state == state));
    }
    let span = LogSpan { after: Sequence(9), limit: 30, max_bytes: usize::MAX };
    let log = store.gateway_log(of, gateway.id, span).await.unwrap().unwrap().rows;
    let count = log.iter().filter(|row| row.state == DeliveryState::Filtered).count();
    assert_eq!(count, 19);
}

pub(crate) async fn if_all_must_confirm_those_that_filter_an_event_need_not_apply_it(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.must_all_confirm(&gateway, Confirmation::All).await;
    let events = fixture.events(&gateway, 4).await;
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Server).await;
    let north = fixture.open_as(&gateway, "north", Level::Received, ResumeFrom::Server).await;
    let state = async |nth: usize| target(&fixture, &events[nth]).await.0;
    fixture.record(vec![east.filtered(1, 2), west.confirmed(1, 1)]).await;
    assert_eq!(state(0).await, TargetState::Pending, "one has not passed it");
    fixture.record(vec![north.filtered(1, 2)]).await;
    assert_eq!(state(0).await, TargetState::Received);
    // Of three instances, two have filtered it, and the third one has applied it.
    fixture.record(vec![west.acknowledged(Level::Applied, 1, 1)]).await;
    assert_eq!(state(0).await, TargetState::Applied);
    assert_eq!(state(1).await, TargetState::Pending);
    fixture.record(vec![west.filtered(2, 2)]).await;
    let names: Vec<String> = ["east", "north", "west"].map(str::to_owned).to_vec();
    assert_eq!(target(&fixture, &events[1]).await, (TargetState::Filtered, names, false));
    // Two receive the next one, and one of them applies it.
    fixture.record(vec![east.confirmed(3, 3), west.confirmed(3, 3), north.filtered(3, 3)]).await;
    assert_eq!(state(2).await, TargetState::Received);
    fixture.record(vec![west.acknowledged(Level::Applied, 3, 3)]).await;
    assert_eq!(state(2).await, TargetState::Applied);
    // Without a filter, nothing has changed.
    fixture.record(vec![east.confirmed(4, 4), west.confirmed(4, 4), north.confirmed(4, 4)]).await;
    assert_eq!(state(3).await, TargetState::Received);
    // An instance that joins later was never for it.
    fixture.open_as(&gateway, "south", Level::Received, ResumeFrom::Server).await;
    assert_eq!(state(1).await, TargetState::Filtered);
}

pub(crate) async fn later_connection_of_an_instance_replaces_the_earlier_one(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 3).await;
    let first = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
    let other = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Server).await;
    assert!(first.opened.replaces.is_empty() && other.opened.replaces.is_empty());
    let second = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
    let replaced: Vec<_> = second.opened.replaces.iter().map(|it| it.id).collect();
    assert_eq!(replaced, [first.id]);
    let replaced = (first.id, Reason::Replaced);
    assert!(store.connections_to_end().await.unwrap().contains(&replaced));
    // What it still confirms counts, and what it leaves is not failed if the later one confirms it.
    fixture.record(vec![first.confirmed(1, 1), second.confirmed(1, 2)]).await;
    let end = closed(&gateway, first.id, Reason::Replaced, Some(range(2, 2)), false);
    fixture.record(vec![end]).await;
    assert!(!store.connections_to_end().await.unwrap().contains(&replaced));
    assert_eq!(fixture.again(&gateway).await.last_failure, None);
    let info = fixture.instance(&gateway, "east").await.unwrap();
    let connected = info.connection.unwrap();
    assert_eq!((connected.id, connected.transport.as_str()), (second.id, "websocket.v1"));
    // Unnamed connections replace none.
    let one = fixture.open_as(&gateway, "", Level::Received, ResumeFrom::Server).await;
    let two = fixture.open_as(&gateway, "", Level::Received, ResumeFrom::Server).await;
    assert!(one.opened.replaces.is_empty() && two.opened.replaces.is_empty());
}

pub(crate) async fn a_position_of_its_own_confirms_what_lies_before(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    for name in ["east", ""] {
        let gateway = fixture.gateway(&[]).await;
        let events = fixture.events(&gateway, 4).await;
        let first = fixture.open_as(&gateway, name, Level::Applied, ResumeFrom::Server).await;
        let lost = closed(&gateway, first.id, Reason::ConnectionLost, Some(range(1, 3)), false);
        fixture.record(vec![lost]).await;
        let epoch = first.opened.opened.epoch;
        let resume = after(epoch, 3, Some(events[2].clone()));
        let again = fixture.open_as(&gateway, name, Level::Applied, resume).await;
        assert_eq!(again.opened.opened.position, Sequence(3));
        assert_eq!(fixture.position(&gateway).await, 3);
        let applied = (vec![Outcome::Failed, Outcome::Applied], DeliveryState::Delivered);
        assert_eq!(fixture.outcomes(&events[0]).await, applied);
        assert_eq!(fixture.outcomes(&events[2]).await, applied);
        fixture.record(vec![again.confirmed(4, 4), again.ended()]).await;
        let next = fixture.open_as(&gateway, name, Level::Applied, ResumeFrom::Server).await;
        assert_eq!(next.opened.opened.position, Sequence(4));
    }
}

pub(crate) async fn a_position_says_that_an_event_was_received_which_another_instance_filtered(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 4).await;
    let west = fixture.open_as(&gateway, "west", Level::Applied, ResumeFrom::Earliest).await;
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    fixture.record(vec![east.filtered(1, 3), west.confirmed(1, 1), west.ended()]).await;
    let filtered = (vec![Outcome::Filtered], DeliveryState::Filtered);
    assert_eq!(fixture.outcomes(&events[1]).await, filtered);
    let before = store.totals(fixture.organisation).await.unwrap().confirmed;
    // It has applied 2, too, and its acknowledgement was lost.
    for _ in 0..2 {
        let resume = after(west.opened.opened.epoch, 2, Some(events[1].clone()));
        let west = fixture.open_as(&gateway, "west", Level::Applied, resume).await;
        assert_eq!(west.opened.opened.position, Sequence(2));
        fixture.record(vec![west.ended()]).await;
        let applied = (vec![Outcome::Filtered, Outcome::Applied], DeliveryState::Delivered);
        assert_eq!(fixture.outcomes(&events[0]).await, applied);
        assert_eq!(fixture.outcomes(&events[1]).await, applied, "once");
        assert_eq!(fixture.outcomes(&events[2]).await, filtered);
    }
    assert_eq!(target(&fixture, &events[1]).await.0, TargetState::Applied);
    let totals = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(totals.confirmed, before, "the position of the gateway had passed them");
}

pub(crate) async fn a_position_with_an_event_id_proves_that_an_expired_event_was_received(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    for (level, outcome) in
        [(Level::Received, Outcome::Received), (Level::Applied, Outcome::Applied)]
    {
        let gateway = fixture.gateway(&[]).await;
        let only = || Target::Gateways(vec![gateway.id]);
        let new = vec![expiring(only(), true), expiring(only(), true), event(only())];
        let events: Vec<_> = new.iter().map(|new| new.event.id.clone()).collect();
        fixture.publish(new).await;
        let first = fixture.open_as(&gateway, "east", level, ResumeFrom::Server).await;
        let lost = closed(&gateway, first.id, Reason::ConnectionLost, Some(range(1, 2)), false);
        fixture.record(vec![lost]).await;
        assert!(!expire(store).await.is_empty());
        let expired = (vec![Outcome::Failed, Outcome::Failed], DeliveryState::Failed);
        assert_eq!(fixture.outcomes(&events[1]).await, expired);
        let before = store.totals(fixture.organisation).await.unwrap();
        let epoch = first.opened.opened.epoch;
        fixture.open_as(&gateway, "east", level, after(epoch, 2, None)).await;
        assert_eq!(fixture.outcomes(&events[1]).await, expired, "it may not have been sent");
        let resume = after(epoch, 2, Some(events[1].clone()));
        let again = fixture.open_as(&gateway, "east", level, resume).await;
        assert_eq!(again.opened.opened.position, Sequence(2));
        let (outcomes, state) = fixture.outcomes(&events[1]).await;
        assert_eq!((outcomes.last(), state), (Some(&outcome), DeliveryState::Delivered));
        assert_eq!(fixture.outcomes(&events[0]).await, expired, "the id is that of the other one");
        let totals = store.totals(fixture.organisation).await.unwrap();
        let (confirmed, dead) = (totals.confirmed, totals.dead_letters);
        assert_eq!((confirmed - before.confirmed, before.dead_letters - dead), (1, 1));
    }
}

pub(crate) async fn a_dead_letter_is_failed_in_rollouts_though_an_instance_has_applied_it(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events = fixture.events(&gateway, 1).await;
    fixture.must_all_confirm(&gateway, Confirmation::All).await;
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    let west = fixture.open_as(&gateway, "west", Level::Applied, ResumeFrom::Server).await;
    fixture.record(vec![east.confirmed(1, 1), west.rejected(1)]).await;
    for confirmation in [Confirmation::All, Confirmation::Any, Confirmation::All] {
        fixture.must_all_confirm(&gateway, confirmation).await;
        assert_eq!(fixture.outcomes(&events[0]).await.1, DeliveryState::Failed);
        assert_eq!(target(&fixture, &events[0]).await.0, TargetState::Failed, "{confirmation:?}");
        let history = store.event_history(fixture.organisation, &events[0]).await.unwrap().unwrap();
        assert_eq!(history.verdict().state, EventState::Failed);
    }
}

pub(crate) async fn instances_are_limited_forgotten_and_recorded(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 2).await;
    let names: Vec<String> = (0..MAX_INSTANCES).map(|nth| format!("i-{nth:03}")).collect();
    for name in &names {
        let one = fixture.open_as(&gateway, name, Level::Received, ResumeFrom::Server).await;
        if name != "i-001" {
            fixture.record(vec![one.ended()]).await;
        }
    }
    let open = async |name| {
        let opened = fixture.try_open_as(&gateway, name, Level::Received, ResumeFrom::Server);
        opened.await.map(|it| it.id)
    };
    let most = MAX_INSTANCES;
    assert!(
        matches!(open("other").await, Err(StoreError::Conflict(Conflict::Instances { most: it })) if it == most)
    );
    assert!(open("i-007").await.is_ok(), "a known one");
    assert!(open("").await.is_ok(), "one without a name");
    let forget = async |name| store.forget_instance(&fixture.actor(), gateway.id, name).await;
    let connected = forget("i-001").await;
    assert!(matches!(connected, Err(StoreError::Conflict(Conflict::InstanceConnected(_)))));
    assert!(matches!(forget("other").await, Err(StoreError::NotFound("instance"))));
    forget("i-000").await.unwrap();
    assert!(matches!(forget("i-000").await, Err(StoreError::NotFound("instance"))));
    assert!(open("other").await.is_ok());
    let unknown_gateway = gateway_events::event::GatewayId::new();
    assert!(store.instances(fixture.organisation, unknown_gateway).await.unwrap().is_none());
}

pub(crate) async fn an_abandoned_instance_expires_and_leaves_a_record(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.must_all_confirm(&gateway, Confirmation::All).await;
    fixture.fill(&gateway, 4).await;
    for name in ["gone-1", "gone-2", "gone-3"] {
        let gone = fixture.open_as(&gateway, name, Level::Received, ResumeFrom::Server).await;
        fixture.record(vec![gone.confirmed(1, 1), gone.ended()]).await;
    }
    let east = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
    fixture.record(vec![east.confirmed(2, 3)]).await;
    trim(store, keep_all()).await;
    assert_eq!(fixture.position(&gateway).await, 1, "all of them are kept");
    // A connected one does not expire, and batches are bounded.
    let limits = RetentionLimits { instance_max_age: Duration::ZERO, batch: 2, ..keep_all() };
    trim(store, limits).await;
    let found = store.instances(fixture.organisation, gateway.id).await.unwrap().unwrap();
    let names = |list: Vec<String>| list.join(" ");
    assert_eq!(names(found.instances.into_iter().map(|it| it.name).collect()), "east");
    let mut expired: Vec<_> = found.expired.into_iter().map(|it| (it.name, it.received)).collect();
    expired.sort();
    assert_eq!(expired.len(), 3);
    assert_eq!(expired[0], ("gone-1".to_owned(), Sequence(1)));
    assert_eq!(fixture.position(&gateway).await, 3, "nothing waits for them");
    let back = fixture.open_as(&gateway, "gone-1", Level::Received, ResumeFrom::Server).await;
    assert_eq!(back.opened.opened.position, Sequence(3), "like a new one");
    let old = RetentionLimits {
        hard_max_age: Duration::ZERO,
        audit_max_age: Duration::ZERO,
        ..keep_all()
    };
    trim(store, old).await;
    let found = store.instances(fixture.organisation, gateway.id).await.unwrap().unwrap();
    assert!(found.expired.is_empty(), "their records are kept as long as others");
}

pub(crate) async fn retention_keeps_what_an_instance_has_not_confirmed(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 6).await;
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Earliest).await;
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Earliest).await;
    let received = east.acknowledged(Level::Received, 1, 6);
    fixture.record(vec![received, east.confirmed(1, 2), west.confirmed(1, 6)]).await;
    fixture.record(vec![east.ended(), west.ended()]).await;
    assert_eq!(fixture.position(&gateway).await, 6);
    let soft = RetentionLimits { max_events: 0, max_age: Duration::ZERO, ..keep_all() };
    trim(store, soft).await;
    assert_eq!(fixture.again(&gateway).await.floor, Sequence(2));
    let again = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    assert_eq!((again.opened.opened.position, again.opened.gap), (Sequence(2), None));
    fixture.record(vec![again.confirmed(3, 6), again.ended()]).await;
    trim(store, soft).await;
    assert_eq!(fixture.again(&gateway).await.floor, Sequence(6));
}

pub(crate) async fn a_resync_is_pending_until_the_instance_has_applied_a_snapshot(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 4).await;
    let actor = fixture.actor();
    let request = |instance: Option<&str>| ResyncRequest {
        instance: instance.map(str::to_owned),
        reason: Some("rebuilt".to_owned()),
    };
    let ask = async |instance, dry| {
        store.request_resync(&actor, gateway.id, &request(instance), dry).await
    };
    let refused = ask(None, false).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict(Conflict::PlainMode)), "{refused}");
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Server).await;
    fixture.record(vec![east.confirmed(1, 3), east.ended()]).await;
    assert!(matches!(ask(Some("north"), false).await, Err(StoreError::NotFound("instance"))));
    assert!(ask(None, true).await.unwrap().changed);
    let done = ask(Some("east"), false).await.unwrap();
    assert!(done.changed && done.connections.is_empty(), "{done:?}");
    let done = ask(None, false).await.unwrap();
    assert_eq!(done.pending.iter().map(|it| &*it.instance).collect::<Vec<_>>(), ["east", "west"]);
    let live: Vec<_> = done.connections.iter().map(|it| it.id).collect();
    assert_eq!(live, [west.id]);
    let to_end = (west.id, Reason::Resync);
    assert!(store.connections_to_end().await.unwrap().contains(&to_end));
    assert!(!ask(None, false).await.unwrap().changed);

    let gap = |from| Gap {
        reason: GapReason::Resync,
        from: Sequence(from),
        to: Sequence(4),
        resume_at: Sequence(4),
    };
    let again = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    assert_eq!((again.opened.gap, again.opened.opened.position), (Some(gap(4)), Sequence(3)));
    // Interrupted; and the next connection starts somewhere else.
    fixture.record(vec![again.ended()]).await;
    let again = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Earliest).await;
    assert_eq!(again.opened.gap, Some(gap(1)));
    let covered = |reason| InstanceOutcome::Covered { reason, resume_at: Sequence(4) };
    fixture.record(vec![again.record(covered(GapReason::Resync)), again.ended()]).await;
    assert_eq!(fixture.position(&gateway).await, 4);
    let list = store.instances(fixture.organisation, gateway.id).await.unwrap().unwrap();
    let [pending, ended] = list.resyncs.as_slice() else { panic!("{list:?}") };
    assert_eq!((&*pending.instance, pending.ended), ("west", None));
    let ended = (ended.ended.map(|(_, how)| how), ended.resume_at, ended.started.map(|it| it.0));
    assert_eq!(ended, (Some(ResyncOutcome::Done), Some(Sequence(4)), Some(again.id)));
    let again = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    assert_eq!(again.opened.gap, None);

    fixture.record(vec![west.ended()]).await;
    let west = fixture.open_as(&gateway, "west", Level::Received, ResumeFrom::Latest).await;
    assert_eq!(west.opened.gap, Some(gap(5)), "there is nothing in between");
    fixture.record(vec![west.ended()]).await;
    store.forget_instance(&actor, gateway.id, "west").await.unwrap();
    let list = store.instances(fixture.organisation, gateway.id).await.unwrap().unwrap();
    let ended = list.resyncs.iter().find(|it| it.instance == "west").unwrap().ended;
    assert_eq!(ended.map(|(_, how)| how), Some(ResyncOutcome::Removed));
    trim(store, RetentionLimits { audit_max_age: Duration::ZERO, ..keep_all() }).await;
    let list = store.instances(fixture.organisation, gateway.id).await.unwrap().unwrap();
    assert!(list.resyncs.is_empty(), "{list:?}");
}
