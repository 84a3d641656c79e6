//! What is on record of each outcome, once.

use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{Reason, Sequence};
use gateway_events::store::{Record, RedriveSelection, RetentionLimits, Store, Target, TrimMark};

use super::{Corner, closed, confirmed, event, ids, keep_all, pass, range};

pub(crate) async fn dead_letters_are_passed_and_not_counted_as_confirmed(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 4).await;
    let before = store.totals(corner.organisation).await.unwrap();
    let (id, _, _) = corner.open(&gateway).await;
    corner
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
    let after = store.totals(corner.organisation).await.unwrap();
    assert_eq!(after.confirmed - before.confirmed, 3);
    assert_eq!(after.dead_letters - before.dead_letters, 1);
    assert_eq!(after.failed_attempts - before.failed_attempts, 1);
}

pub(crate) async fn attempts_that_blame_the_event_are_counted_until_it_is_given_up(
    store: &dyn Store,
) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 3).await;
    for (reason, counted) in
        [(Reason::ConnectionLost, 1), (Reason::Shutdown, 1), (Reason::ConfirmationTimeout, 2)]
    {
        let (id, _, _) = corner.open(&gateway).await;
        corner.record(vec![closed(&gateway, id, reason, Some(range(1, 2)), false)]).await;
        let (probe, position, failed) = corner.open(&gateway).await;
        assert_eq!((position, failed), (Sequence::ZERO, counted), "after {reason}");
        corner.record(vec![closed(&gateway, probe, Reason::Shutdown, None, false)]).await;
    }
    let (id, _, _) = corner.open(&gateway).await;
    corner
        .record(vec![closed(&gateway, id, Reason::ConnectionLost, Some(range(1, 2)), true)])
        .await;
    let (_, position, failed) = corner.open(&gateway).await;
    assert_eq!((position, failed), (Sequence(1), 0));
}

pub(crate) async fn an_end_or_a_report_that_comes_twice_is_on_record_once(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    let answers = corner.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    let (id, _, _) = corner.open(&gateway).await;
    let report = Record::Reported {
        gateway: gateway.key,
        connection: id,
        sequence: Sequence(1),
        result: Err((Reason::GatewayProcessingError, "no".to_owned())),
        at: Timestamp::now(),
    };
    let end = closed(&gateway, id, Reason::ConnectionLost, Some(range(1, 1)), false);
    corner.record(vec![report.clone(), end.clone()]).await;
    corner.record(vec![report, end]).await;
    let reasons: Vec<_> = corner
        .attempts(&ids(&answers)[0])
        .await
        .into_iter()
        .filter_map(|attempt| attempt.reason)
        .collect();
    assert_eq!(reasons, [Reason::GatewayProcessingError, Reason::ConnectionLost]);
}

pub(crate) async fn what_a_lost_node_had_sent_is_neither_failed_nor_delivered(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    let answers = corner.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    let (id, _, _) = corner.open(&gateway).await;
    corner.record(vec![closed(&gateway, id, Reason::NodeLost, Some(range(1, 1)), false)]).await;
    let attempts = corner.attempts(&ids(&answers)[0]).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].outcome.as_str(), attempts[0].reason), ("unknown", None));
}

pub(crate) async fn an_event_that_another_replica_confirmed_is_not_given_up(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 2).await;
    let (slow, _, _) = corner.open(&gateway).await;
    let (fast, _, _) = corner.open(&gateway).await;
    let before = store.totals(corner.organisation).await.unwrap().dead_letters;
    corner.record(vec![confirmed(&gateway, fast, 1, 2)]).await;
    corner
        .record(vec![closed(&gateway, slow, Reason::ConnectionLost, Some(range(1, 2)), true)])
        .await;
    assert_eq!(store.totals(corner.organisation).await.unwrap().dead_letters, before);
}

pub(crate) async fn totals_count_each_outcome_once_through_repeats_redrive_and_retention(
    store: &dyn Store,
) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 5).await;
    let before = store.totals(corner.organisation).await.unwrap();
    let counted = async |what: &str, expected: (i64, i64, i64, i64)| {
        let now = store.totals(corner.organisation).await.unwrap();
        let grown = (
            now.confirmed - before.confirmed,
            now.failed_attempts - before.failed_attempts,
            now.dead_letters - before.dead_letters,
            now.pending - before.pending + 5,
        );
        assert_eq!(grown, expected, "confirmed, failed, dead, pending after {what}");
    };
    store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    counted("nobody was there", (0, 5, 0, 5)).await;
    let (id, _, _) = corner.open(&gateway).await;
    for what in ["receipts", "the same receipts"] {
        corner.record(vec![confirmed(&gateway, id, 1, 3)]).await;
        counted(what, (3, 5, 0, 2)).await;
    }
    let report = |reason| Record::Reported {
        gateway: gateway.key,
        connection: id,
        sequence: Sequence(2),
        result: Err((reason, String::new())),
        at: Timestamp::now(),
    };
    for what in ["a reported failure", "the same report"] {
        corner.record(vec![report(Reason::ApplyFailed)]).await;
        counted(what, (2, 6, 1, 2)).await;
    }
    for what in ["a redrive", "the same redrive"] {
        let one = RedriveSelection::One(gateway.id, Sequence(2));
        store.redrive(corner.organisation, one, false).await.unwrap();
        counted(what, (2, 6, 0, 3)).await;
    }
    let (other, position, _) = corner.open(&gateway).await;
    assert_eq!(position, Sequence(3));
    for connection in [id, other] {
        corner.record(vec![confirmed(&gateway, connection, 4, 6)]).await;
        counted("receipts of two connections", (5, 6, 0, 0)).await;
    }
    let limits = RetentionLimits { max_events: 1, max_age: Duration::ZERO, ..keep_all() };
    pass(store, &limits, &mut TrimMark::default()).await;
    counted("retention", (5, 6, 0, 0)).await;
}
