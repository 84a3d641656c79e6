//! Each outcome is recorded once.

use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, Reason, Sequence};
use gateway_events::store::{
    Gateway, Outcome, Record, RedriveSelection, ReportedFailure, RetentionLimits, Store, Target,
    TrimMark, VerdictState,
};

use super::{Fixture, closed, confirmed, event, ids, keep_all, pass, range};

pub(crate) async fn dead_letters_are_skipped_and_not_counted_as_confirmed(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 4).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let (id, _, _) = fixture.open(&gateway).await;
    fixture
        .record(vec![
            Record::Skipped {
                gateway: gateway.key,
                connection: id,
                instance: "".into(),
                range: range(2, 2),
                reason: Reason::Expired,
                advance_to: None,
                at: Timestamp::now(),
            },
            confirmed(&gateway, id, 1, 1),
            confirmed(&gateway, id, 3, 4),
        ])
        .await;
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(after.confirmed - before.confirmed, 3);
    assert_eq!(after.dead_letters - before.dead_letters, 1);
    assert_eq!(after.failed_attempts - before.failed_attempts, 1);
}

pub(crate) async fn attempts_that_blame_the_event_are_counted_until_it_is_given_up(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 3).await;
    // The third failure that is attributed to the event gives it up. Ends that the service caused
    // do not count.
    let end = |id, reason| {
        let mut end = closed(&gateway, id, reason, Some(range(1, 2)), false);
        if let Record::Closed { give_up_after, .. } = &mut end {
            *give_up_after = Some(3);
        }
        end
    };
    for reason in [Reason::ConnectionLost, Reason::Shutdown, Reason::ConfirmationTimeout] {
        let (id, _, _) = fixture.open(&gateway).await;
        let mut ended = end(id, reason);
        if let (Record::Closed { give_up_after, .. }, false) =
            (&mut ended, reason.is_attributed_to_the_event())
        {
            *give_up_after = None;
        }
        fixture.record(vec![ended]).await;
        let (probe, position, suspect) = fixture.open(&gateway).await;
        assert_eq!((position, suspect), (Sequence::ZERO, Sequence(2)), "after {reason}");
        fixture.record(vec![closed(&gateway, probe, Reason::Shutdown, None, false)]).await;
    }
    let (id, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![end(id, Reason::ConnectionLost)]).await;
    let (_, position, suspect) = fixture.open(&gateway).await;
    assert_eq!((position, suspect), (Sequence(1), Sequence(1)));
}

pub(crate) async fn a_repeated_end_or_report_is_recorded_once(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let answers = fixture.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    let (id, _, _) = fixture.open(&gateway).await;
    let report = Record::Reported {
        gateway: gateway.key,
        connection: id,
        instance: "".into(),
        sequence: Sequence(1),
        result: Err(ReportedFailure::new(Reason::GatewayProcessingError, "no".to_owned())),
        confirms: None,
        at: Timestamp::now(),
    };
    let end = closed(&gateway, id, Reason::ConnectionLost, Some(range(1, 1)), false);
    fixture.record(vec![report.clone(), end.clone()]).await;
    fixture.record(vec![report, end]).await;
    let reasons: Vec<_> = fixture
        .attempts(&ids(&answers)[0])
        .await
        .into_iter()
        .filter_map(|attempt| attempt.reason)
        .collect();
    assert_eq!(reasons, [Reason::GatewayProcessingError, Reason::ConnectionLost]);
}

pub(crate) async fn deliveries_sent_by_a_lost_node_have_an_unknown_outcome(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let answers = fixture.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    let (id, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![closed(&gateway, id, Reason::NodeLost, Some(range(1, 1)), false)]).await;
    let attempts = fixture.attempts(&ids(&answers)[0]).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].outcome, attempts[0].reason), (Outcome::Unknown, None));
}

pub(crate) async fn an_event_that_another_replica_confirmed_is_not_given_up(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 2).await;
    let (slow, _, _) = fixture.open(&gateway).await;
    let (fast, _, _) = fixture.open(&gateway).await;
    let before = store.totals(fixture.organisation).await.unwrap().dead_letters;
    fixture.record(vec![confirmed(&gateway, fast, 1, 2)]).await;
    fixture
        .record(vec![closed(&gateway, slow, Reason::ConnectionLost, Some(range(1, 2)), true)])
        .await;
    assert_eq!(store.totals(fixture.organisation).await.unwrap().dead_letters, before);
}

pub(crate) async fn totals_count_each_outcome_once_through_repeats_redrive_and_retention(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 5).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let counted = async |what: &str, expected: (i64, i64, i64, i64)| {
        let now = store.totals(fixture.organisation).await.unwrap();
        let grown = (
            now.confirmed - before.confirmed,
            now.failed_attempts - before.failed_attempts,
            now.dead_letters - before.dead_letters,
            now.pending - before.pending + 5,
        );
        assert_eq!(grown, expected, "confirmed, failed, dead, pending after {what}");
    };
    store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    counted("no gateway was connected", (0, 5, 0, 5)).await;
    let (id, _, _) = fixture.open(&gateway).await;
    for what in ["receipts", "the same receipts"] {
        fixture.record(vec![confirmed(&gateway, id, 1, 3)]).await;
        counted(what, (3, 5, 0, 2)).await;
    }
    let report = |reason| Record::Reported {
        gateway: gateway.key,
        connection: id,
        instance: "".into(),
        sequence: Sequence(2),
        result: Err(ReportedFailure::new(reason, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    for what in ["a reported failure", "the same report"] {
        fixture.record(vec![report(Reason::ApplyFailed)]).await;
        counted(what, (2, 6, 1, 2)).await;
    }
    for what in ["a redrive", "the same redrive"] {
        let one = RedriveSelection::One(gateway.id, Sequence(2));
        store.redrive(&fixture.actor(), one, false).await.unwrap();
        counted(what, (2, 6, 0, 3)).await;
    }
    let (other, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence(3));
    for connection in [id, other] {
        fixture.record(vec![confirmed(&gateway, connection, 4, 6)]).await;
        counted("receipts of two connections", (5, 6, 0, 0)).await;
    }
    let limits = RetentionLimits { max_events: 1, max_age: Duration::ZERO, ..keep_all() };
    pass(store, &limits, &mut TrimMark::default()).await;
    counted("retention", (5, 6, 0, 0)).await;
}

fn reported(
    gateway: &Gateway,
    connection: ConnectionId,
    sequence: i64,
    result: Result<(), ReportedFailure>,
) -> Record {
    Record::Reported {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        sequence: Sequence(sequence),
        result,
        confirms: Some(Sequence(sequence)),
        at: Timestamp::now(),
    }
}

pub(crate) async fn an_applied_delivery_does_not_fail_and_stops_being_a_dead_letter(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 6).await;
    let (id, _, _) = fixture.open(&gateway).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let counted = async |what: &str, expected: (i64, i64, i64)| {
        let now = store.totals(fixture.organisation).await.unwrap();
        let grown = (
            now.confirmed - before.confirmed,
            now.failed_attempts - before.failed_attempts,
            now.dead_letters - before.dead_letters,
        );
        assert_eq!(grown, expected, "confirmed, failed, dead after {what}");
    };
    let failed = || Err(ReportedFailure::new(Reason::ApplyFailed, "no".to_owned()));
    fixture.record(vec![reported(&gateway, id, 3, failed())]).await;
    counted("a failed report", (2, 1, 1)).await;
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(3), "a report is a receipt");
    fixture.record(vec![reported(&gateway, id, 3, Ok(()))]).await;
    counted("a report that it was applied after all", (3, 1, 0)).await;
    fixture.record(vec![reported(&gateway, id, 3, failed())]).await;
    counted("a late report that it failed", (3, 1, 0)).await;
    // In the middle of a range of dead letters.
    let skipped = Record::Skipped {
        gateway: gateway.key,
        connection: id,
        instance: "".into(),
        range: range(4, 6),
        reason: Reason::Expired,
        advance_to: Some(Sequence(6)),
        at: Timestamp::now(),
    };
    fixture.record(vec![skipped]).await;
    counted("three that expired", (3, 4, 3)).await;
    fixture.record(vec![reported(&gateway, id, 5, Ok(()))]).await;
    counted("one of them that was applied", (4, 4, 2)).await;
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(6));
}

pub(crate) async fn confirmed_deliveries_are_not_recorded_as_failed(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 6).await;
    let (slow, _, _) = fixture.open(&gateway).await;
    let (fast, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, fast, 1, 4)]).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let skipped = Record::Skipped {
        gateway: gateway.key,
        connection: slow,
        instance: "".into(),
        range: range(1, 2),
        reason: Reason::Expired,
        advance_to: Some(Sequence(2)),
        at: Timestamp::now(),
    };
    let lost = closed(&gateway, slow, Reason::HeartbeatTimeout, Some(range(3, 5)), false);
    fixture.record(vec![skipped, lost]).await;
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(after.dead_letters, before.dead_letters);
    assert_eq!(after.failed_attempts - before.failed_attempts, 1, "the fifth alone");
    store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    let swept = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(swept.failed_attempts, after.failed_attempts, "the fast one is there");
}

/// Replicas and nodes may record the end of a delivery before its receipt arrives.
pub(crate) async fn a_receipt_revives_what_was_given_up_but_not_what_was_reported_as_failed(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 6).await;
    let (slow, _, _) = fixture.open(&gateway).await;
    let (fast, _, _) = fixture.open(&gateway).await;
    let before = store.totals(fixture.organisation).await.unwrap();
    let counted = async |what: &str, expected: (i64, i64, i64)| {
        let now = store.totals(fixture.organisation).await.unwrap();
        let grown = (
            now.confirmed - before.confirmed,
            now.dead_letters - before.dead_letters,
            now.pending - before.pending + 6,
        );
        assert_eq!(grown, expected, "confirmed, dead, pending after {what}");
    };
    let expired = Record::Skipped {
        gateway: gateway.key,
        connection: fast,
        instance: "".into(),
        range: range(1, 4),
        reason: Reason::Expired,
        advance_to: Some(Sequence(4)),
        at: Timestamp::now(),
    };
    fixture.record(vec![expired]).await;
    counted("four that expired", (0, 4, 2)).await;
    for what in ["receipts for the middle of them", "the same receipts"] {
        fixture.record(vec![confirmed(&gateway, slow, 2, 3)]).await;
        counted(what, (2, 2, 2)).await;
    }
    let failed = Err(ReportedFailure::new(Reason::ApplyFailed, "no".to_owned()));
    fixture.record(vec![reported(&gateway, fast, 5, failed)]).await;
    counted("a failed report", (2, 3, 1)).await;
    fixture.record(vec![confirmed(&gateway, slow, 4, 6)]).await;
    counted("receipts for all of them", (4, 2, 0)).await;
    // What was redriven keeps its record: its redrive is another delivery.
    let one = RedriveSelection::One(gateway.id, Sequence(1));
    store.redrive(&fixture.actor(), one, false).await.unwrap();
    counted("a redrive", (4, 1, 1)).await;
    fixture.record(vec![confirmed(&gateway, slow, 1, 1)]).await;
    counted("a receipt for what was redriven", (4, 1, 1)).await;
}

pub(crate) async fn an_event_that_was_given_up_does_not_count_as_a_receipt(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    for receipts in [0, 1] {
        let gateway = fixture.gateway(&[]).await;
        fixture.fill(&gateway, 2).await;
        let (id, _, _) = fixture.open(&gateway).await;
        if receipts > 0 {
            fixture.record(vec![confirmed(&gateway, id, 1, receipts)]).await;
        }
        let before = fixture.again(&gateway).await.last_receipt_at;
        assert_eq!(before.is_some(), receipts > 0);
        let unconfirmed = Some(range(receipts + 1, 2));
        let timeout = closed(&gateway, id, Reason::ConfirmationTimeout, unconfirmed, true);
        fixture.record(vec![timeout]).await;
        let after = fixture.again(&gateway).await;
        assert_eq!(after.confirmed, Sequence(receipts + 1), "the event was given up");
        assert_eq!(after.last_receipt_at, before, "after {receipts} receipts");
        assert_eq!(after.verdict().state, VerdictState::Failing);
    }
}
