//! The sweep and retention.

use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, GatewayId, Reason, Sequence};
use gateway_events::store::{
    DeliveryFilter, DeliveryState, Gateway, Range, Record, RedriveSelection, ReportedFailure,
    RetentionLimits, Store, Target, TrimMark, Trimmed, UndeliveredRange,
};

use super::{Fixture, closed, confirmed, event, keep_all, range};

/// One complete pass of retention.
pub(crate) async fn pass(
    store: &dyn Store,
    limits: &RetentionLimits,
    mark: &mut TrimMark,
) -> Trimmed {
    let mut total = Trimmed::default();
    loop {
        let batch = store.trim(limits, mark).await.unwrap();
        total.deliveries += batch.deliveries;
        total.events += batch.events;
        total.attempts += batch.attempts;
        total.lost += batch.lost;
        if !batch.more {
            return total;
        }
    }
}

pub(crate) async fn events_for_gateways_that_are_not_connected_are_recorded_once(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 1500).await;
    let only = [gateway.key];
    let sweep =
        async || store.sweep_not_connected(Some(&only), Duration::ZERO).await.unwrap().recorded;
    let recorded = sweep().await;
    assert_eq!(ranges(&recorded), [(gateway.id, range(1, 1500))]);
    // The number of events listed for the log is limited.
    let named: Vec<i64> = recorded[0].events.iter().map(|event| event.sequence.0).collect();
    assert_eq!(
        (recorded[0].gateway_name.as_str(), named),
        (gateway.name.as_str(), vec![1, 2, 3, 4, 5])
    );
    assert_eq!(recorded[0].events[0].event_type.as_str(), "api.deployed");
    assert_eq!(sweep().await, []);
    let (id, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence::ZERO, "they are delivered all the same");
    fixture.fill(&gateway, 1).await;
    assert_eq!(sweep().await, []);
    let end = closed(&gateway, id, Reason::ConnectionLost, Some(range(1, 3)), false);
    fixture.record(vec![end]).await;
    let recorded = sweep().await;
    assert_eq!(ranges(&recorded), [(gateway.id, range(1501, 1501))]);
    assert_eq!(recorded[0].events.len(), 1);
}

/// The recorded ranges without names.
pub(crate) fn ranges(recorded: &[UndeliveredRange]) -> Vec<(GatewayId, Range)> {
    recorded.iter().map(|it| (it.gateway_id, it.range)).collect()
}

pub(crate) async fn retention_keeps_unconfirmed_events(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 10).await;
    let (fast, _, _) = fixture.open(&gateway).await;
    let (_slow, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, fast, 1, 10)]).await;
    let limits = RetentionLimits { max_events: 2, ..keep_all() };
    pass(store, &limits, &mut TrimMark::default()).await;
    assert_eq!(fixture.again(&gateway).await.floor, Sequence::ZERO, "the slow one needs them all");
}

pub(crate) async fn retention_trims_confirmed_events_in_bounded_batches(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 10).await;
    let (id, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, id, 1, 9)]).await;
    let limits = RetentionLimits { max_events: 2, batch: 3, ..keep_all() };
    let mut mark = TrimMark::default();
    let trimmed = store.trim(&limits, &mut mark).await.unwrap();
    assert_eq!((trimmed.deliveries, trimmed.more), (3, true));
    assert_eq!(pass(store, &limits, &mut mark).await.deliveries, 5);
    assert_eq!(pass(store, &limits, &mut mark).await, Trimmed::default());
    let gateway = fixture.again(&gateway).await;
    assert_eq!(gateway.floor, Sequence(8));
    let page = store.read(gateway.key, Sequence::ZERO, 100, usize::MAX).await.unwrap();
    assert_eq!(page.rows.first().map(|row| row.sequence), Some(Sequence(9)));
}

pub(crate) async fn removal_by_the_hard_limit_is_recorded_as_a_failure(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 1300).await;
    // The first one is a dead letter already, and is not recorded again.
    let (id, _, _) = fixture.open(&gateway).await;
    fixture
        .record(vec![
            Record::Reported {
                gateway: gateway.key,
                connection: id,
                instance: "".into(),
                sequence: Sequence(1),
                result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
                confirms: None,
                at: Timestamp::now(),
            },
            closed(&gateway, id, Reason::ClosedByGateway, None, false),
        ])
        .await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let limits = RetentionLimits { hard_max_events: 100, ..keep_all() };
    let trimmed = pass(store, &limits, &mut TrimMark::default()).await;
    assert_eq!((trimmed.deliveries, trimmed.lost), (1200, 1199));
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(after.dead_letters - before.dead_letters, 1199);
    assert_eq!(after.failed_attempts - before.failed_attempts, 1199);
    assert_eq!(fixture.again(&gateway).await.floor, Sequence(1200));
    let next = store.read(gateway.key, Sequence(1200), 1, usize::MAX).await.unwrap();
    assert_eq!(next.rows[0].sequence, Sequence(1201));
}

pub(crate) async fn rows_that_retention_kept_are_removed_when_they_are_no_longer_needed(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let (fast, slow) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let shared = event(Target::Gateways(vec![fast.id, slow.id]));
    let id = shared.event.id.clone();
    fixture.publish(vec![shared]).await;
    let (on_fast, _, _) = fixture.open(&fast).await;
    let (on_slow, _, _) = fixture.open(&slow).await;
    fixture.record(vec![confirmed(&fast, on_fast, 1, 1)]).await;
    let limits = RetentionLimits { max_age: Duration::ZERO, batch: 7, ..keep_all() };
    let mut mark = TrimMark::default();
    assert_eq!(pass(store, &limits, &mut mark).await.deliveries, 1);
    let kept = store.event_history(fixture.organisation, &id).await.unwrap().unwrap();
    let trimmed: Vec<bool> = kept.deliveries.iter().map(|delivery| delivery.trimmed).collect();
    assert_eq!(trimmed.iter().filter(|it| !**it).count(), 1, "the slow one still needs it");
    fixture.record(vec![confirmed(&slow, on_slow, 1, 1)]).await;
    assert_eq!(pass(store, &limits, &mut mark).await.deliveries, 1);
    assert!(store.event_history(fixture.organisation, &id).await.unwrap().is_none());
}

pub(crate) async fn undelivered_events_of_a_deleted_gateway_are_failed_and_kept_until_retention(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let first = fixture.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    fixture.fill(&gateway, 1498).await;
    let last = fixture.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    let (id, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, id, 1, 4)]).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let deleted = store.delete_gateway(&fixture.actor(), gateway.id).await.unwrap();
    assert_eq!(
        (deleted.key, ranges(&deleted.undelivered)),
        (gateway.key, vec![(gateway.id, range(5, 1500))])
    );
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(before.pending - after.pending, 1496);
    assert_eq!(after.failed_attempts - before.failed_attempts, 1496);
    let keep = RetentionLimits { batch: 3, ..keep_all() };
    assert_eq!(pass(store, &keep, &mut TrimMark::default()).await.deliveries, 0);
    for (published, state) in [(first, DeliveryState::Delivered), (last, DeliveryState::Failed)] {
        let id = &published[0].as_ref().unwrap().id;
        let history = store.event_history(fixture.organisation, id).await.unwrap().unwrap();
        assert_eq!(history.deliveries[0].state, state);
        assert_eq!(history.deliveries[0].gateway_name, gateway.name);
    }
    let filter = DeliveryFilter {
        gateway_id: Some(gateway.id),
        reason: Some(Reason::GatewayDeleted),
        ..DeliveryFilter::default()
    };
    let page = store.failed_deliveries(fixture.organisation, &filter, None, 10).await.unwrap();
    assert_eq!((page.rows.len(), page.rows[0].gateway_name.as_str()), (10, gateway.name.as_str()));

    let limits = RetentionLimits { max_age: Duration::ZERO, batch: 700, ..keep_all() };
    let mut mark = TrimMark::default();
    assert_eq!(store.trim(&limits, &mut mark).await.unwrap().deliveries, 700);
    let rest = pass(store, &limits, &mut mark).await;
    assert_eq!((rest.deliveries, rest.lost), (800, 0));
    let page = store.read(gateway.key, Sequence::ZERO, 100, usize::MAX).await.unwrap();
    assert_eq!((page.rows.len(), page.floor), (0, Sequence(1500)));
    let last = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(last.dead_letters, before.dead_letters);
}

pub(crate) async fn old_dead_letters_are_removed_with_their_deliveries(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 3).await;
    let (id, _, _) = fixture.open(&gateway).await;
    let failed = |sequence| Record::Reported {
        gateway: gateway.key,
        connection: id,
        instance: "".into(),
        sequence: Sequence(sequence),
        result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    let before = store.totals(fixture.organisation).await.unwrap().dead_letters;
    fixture.record(vec![failed(1), failed(3)]).await;
    let dead = async || store.totals(fixture.organisation).await.unwrap().dead_letters - before;
    assert_eq!(dead().await, 2);
    let limits = RetentionLimits {
        max_age: Duration::ZERO,
        dead_letter_max_age: Duration::ZERO,
        batch: 1,
        ..keep_all()
    };
    let mut mark = TrimMark::default();
    pass(store, &limits, &mut mark).await;
    assert_eq!(dead().await, 2, "nothing is confirmed");
    fixture.record(vec![confirmed(&gateway, id, 1, 2)]).await;
    pass(store, &limits, &mut mark).await;
    assert_eq!(dead().await, 1);
    fixture.record(vec![confirmed(&gateway, id, 3, 3)]).await;
    pass(store, &limits, &mut mark).await;
    assert_eq!(dead().await, 0);
}

pub(crate) async fn events_that_retention_removed_fail_once_whichever_connection_resumes(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 10).await;
    let (late, _, _) = fixture.open(&gateway).await;
    let (later, _, _) = fixture.open(&gateway).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let limits = RetentionLimits { hard_max_events: 4, ..keep_all() };
    let mut mark = TrimMark::default();
    assert_eq!(pass(store, &limits, &mut mark).await.lost, 6);
    let forget = RetentionLimits { max_age: Duration::ZERO, ..keep_all() };
    for id in [late, later] {
        // However old the dead letters are: a connection that has not passed them must see them.
        pass(store, &forget, &mut mark).await;
        fixture.record(vec![lost(&gateway, id, 1, 6)]).await;
        let after = store.totals(fixture.organisation).await.unwrap();
        assert_eq!(after.failed_attempts - before.failed_attempts, 6);
        assert_eq!(after.confirmed, before.confirmed, "no gateway has received them");
        assert_eq!(after.dead_letters - before.dead_letters, 6);
        assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(6));
    }
    pass(store, &forget, &mut mark).await;
    pass(store, &forget, &mut mark).await;
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(after.dead_letters, before.dead_letters);
}

fn lost(gateway: &Gateway, connection: ConnectionId, first: i64, last: i64) -> Record {
    Record::Skipped {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        range: range(first, last),
        reason: Reason::Retention,
        advance_to: Some(Sequence(last)),
        at: Timestamp::now(),
    }
}

pub(crate) async fn an_open_dead_letter_outlives_its_log_and_can_be_redriven(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let (good, bad) =
        (event(Target::Gateways(vec![gateway.id])), event(Target::Gateways(vec![gateway.id])));
    let (good_id, bad_id) = (good.event.id.clone(), bad.event.id.clone());
    fixture.publish(vec![good, bad]).await;
    let (id, _, _) = fixture.open(&gateway).await;
    let failed = |sequence| Record::Reported {
        gateway: gateway.key,
        connection: id,
        instance: "".into(),
        sequence: Sequence(sequence),
        result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    fixture.record(vec![failed(2), confirmed(&gateway, id, 1, 2)]).await;
    let old = RetentionLimits { max_age: Duration::ZERO, batch: 3, ..keep_all() };
    let mut mark = TrimMark::default();
    for _ in 0..2 {
        pass(store, &old, &mut mark).await;
    }
    assert_eq!(fixture.again(&gateway).await.floor, Sequence(2));
    assert!(store.event_history(fixture.organisation, &good_id).await.unwrap().is_none());
    let kept = store.event_history(fixture.organisation, &bad_id).await.unwrap().unwrap();
    let delivery = &kept.deliveries[0];
    assert_eq!((delivery.state, delivery.trimmed), (DeliveryState::Failed, true));
    assert_eq!((delivery.failures, delivery.reason), (1, Some(Reason::ApplyFailed)));
    // By its type, which is only stored with the event.
    let filter = DeliveryFilter {
        gateway_id: Some(gateway.id),
        event_type: kept.event.event_type.clone().into(),
        ..DeliveryFilter::default()
    };
    let page = store.failed_deliveries(fixture.organisation, &filter, None, 10).await.unwrap();
    assert_eq!(page.rows.len(), 1);
    let selection = RedriveSelection::Filter(filter, None);
    let done = store.redrive(&fixture.actor(), selection, false).await.unwrap();
    assert_eq!(done.redriven[0].new_sequence, Some(Sequence(3)), "{done:?}");
    // The age of a redrive counts from the redrive, however old its event is.
    let hard = RetentionLimits { hard_max_age: Duration::from_hours(1), ..old };
    pass(store, &hard, &mut mark).await;
    assert_eq!(fixture.again(&gateway).await.pending, 1);
    fixture.record(vec![confirmed(&gateway, id, 3, 3)]).await;
    for _ in 0..2 {
        pass(store, &old, &mut mark).await;
    }
    assert!(store.event_history(fixture.organisation, &bad_id).await.unwrap().is_none());
}

pub(crate) async fn a_dead_letter_is_removed_by_its_own_age_and_by_the_hard_limit(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let soft = RetentionLimits { max_age: Duration::ZERO, batch: 2, ..keep_all() };
    let by_age = RetentionLimits { dead_letter_max_age: Duration::ZERO, ..soft };
    let by_number = RetentionLimits { hard_max_events: 3, ..soft };
    for limits in [by_age, by_number] {
        let gateway = fixture.gateway(&[]).await;
        fixture.fill(&gateway, 6).await;
        let (id, _, _) = fixture.open(&gateway).await;
        let failed = |sequence| Record::Reported {
            gateway: gateway.key,
            connection: id,
            instance: "".into(),
            sequence: Sequence(sequence),
            result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
            confirms: None,
            at: Timestamp::now(),
        };
        fixture.record(vec![failed(1), failed(2), failed(3), confirmed(&gateway, id, 1, 6)]).await;
        let mut mark = TrimMark::default();
        pass(store, &soft, &mut mark).await;
        let filter = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
        let selection = RedriveSelection::Filter(filter, None);
        let would = store.redrive(&fixture.actor(), selection.clone(), true).await.unwrap();
        assert_eq!(would.redriven.len(), 3, "kept beyond the age of the ledger");
        // A pass that continues after what was kept, and one from the beginning.
        for mark in [&mut mark, &mut TrimMark::default()] {
            pass(store, &limits, mark).await;
        }
        let would = store.redrive(&fixture.actor(), selection, true).await.unwrap();
        assert_eq!((would.redriven.len(), would.event_removed), (0, 0), "{limits:?}");
    }
}

pub(crate) async fn a_repeat_gets_the_first_answer_though_the_log_is_trimmed(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (one, two) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let publish = event(Target::Gateways(vec![one.id, two.id]));
    let first = fixture.publish(vec![publish.clone()]).await;
    let (id, _, _) = fixture.open(&one).await;
    fixture.record(vec![confirmed(&one, id, 1, 1)]).await;
    let none = RetentionLimits { max_events: 0, ..keep_all() };
    let mut mark = TrimMark::default();
    pass(store, &none, &mut mark).await;
    assert_eq!(fixture.again(&one).await.floor, Sequence(1));
    assert_eq!(fixture.publish(vec![publish.clone()]).await, first);
    let shown = async || {
        let id = &publish.event.id;
        let history = store.event_history(fixture.organisation, id).await.unwrap().unwrap();
        let mut rows: Vec<_> = history
            .deliveries
            .into_iter()
            .map(|it| (it.gateway_id, it.sequence.0, it.state, it.trimmed))
            .collect();
        rows.sort_unstable_by_key(|row| row.0);
        rows
    };
    let mut expected = vec![
        (one.id, 1, DeliveryState::Delivered, true),
        (two.id, 1, DeliveryState::Pending, false),
    ];
    expected.sort_unstable_by_key(|row| row.0);
    assert_eq!(shown().await, expected);
    let (id, _, _) = fixture.open(&two).await;
    fixture.record(vec![confirmed(&two, id, 1, 1)]).await;
    pass(store, &none, &mut mark).await;
    assert_eq!(fixture.publish(vec![publish.clone()]).await, first);
    assert!(shown().await.iter().all(|row| row.2 == DeliveryState::Delivered && row.3));
}
