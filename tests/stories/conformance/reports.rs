//! Reports on events that were given up before, and what reports confirm besides their event.

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, EventId, Reason, Sequence};
use gateway_events::store::{
    DeliveryState, DeploymentKey, Gateway, Record, RedriveSelection, ReportedFailure, Store, Target,
};

use super::{Fixture, closed, confirmed, event, ids, performed, range};

fn expired(gateway: &Gateway, connection: ConnectionId, first: i64, last: i64) -> Record {
    Record::Skipped {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        range: range(first, last),
        reason: Reason::Expired,
        advance_to: Some(Sequence(last)),
        at: Timestamp::now(),
    }
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

/// Confirmed deliveries and dead letters of the store, in all.
async fn counts(fixture: Fixture<'_>) -> (i64, i64) {
    let totals = fixture.store.totals(fixture.organisation).await.unwrap();
    (totals.confirmed, totals.dead_letters)
}

async fn state(fixture: Fixture<'_>, id: &EventId) -> DeliveryState {
    let history = fixture.store.event_history(fixture.organisation, id).await.unwrap().unwrap();
    history.deliveries[0].state
}

pub(crate) async fn a_reported_failure_replaces_the_reason_for_which_the_event_was_given_up(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    for is_poison in [false, true] {
        let gateway = fixture.gateway(&[]).await;
        let events = (0..2).map(|_| event(Target::Gateways(vec![gateway.id]))).collect();
        let ids = ids(&fixture.publish(events).await);
        let (slow, ..) = fixture.open(&gateway).await;
        let (fast, ..) = fixture.open(&gateway).await;
        let (third, ..) = fixture.open(&gateway).await;
        let before = counts(fixture).await;
        let counted = async |what: &str, expected: (i64, i64)| {
            let (confirmed, dead) = counts(fixture).await;
            let grown = (confirmed - before.0, dead - before.1);
            assert_eq!(grown, expected, "confirmed, dead after {what}, poison: {is_poison}");
        };
        fixture
            .record(vec![if is_poison {
                closed(&gateway, fast, Reason::ConfirmationTimeout, Some(range(1, 1)), true)
            } else {
                expired(&gateway, fast, 1, 1)
            }])
            .await;
        counted("the event was given up", (0, 1)).await;
        let failed = || Err(ReportedFailure::new(Reason::ApplyFailed, "no".to_owned()));
        for what in ["a failed report", "the same report"] {
            fixture.record(vec![reported(&gateway, slow, 1, failed())]).await;
            counted(what, (0, 1)).await;
        }
        fixture.record(vec![confirmed(&gateway, third, 1, 2)]).await;
        counted("receipts of a third connection", (1, 1)).await;
        assert_eq!(state(fixture, &ids[0]).await, DeliveryState::Failed);
        fixture.record(vec![reported(&gateway, third, 1, Ok(()))]).await;
        counted("a report that it was applied after all", (2, 0)).await;
    }
}

pub(crate) async fn a_reported_failure_of_a_redriven_event_keeps_its_record(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 1).await;
    let (slow, ..) = fixture.open(&gateway).await;
    let (fast, ..) = fixture.open(&gateway).await;
    fixture.record(vec![expired(&gateway, fast, 1, 1)]).await;
    let one = RedriveSelection::One(gateway.id, Sequence(1));
    store.redrive(&fixture.actor(), one.clone(), false).await.unwrap();
    let failed = Err(ReportedFailure::new(Reason::ApplyFailed, "no".to_owned()));
    fixture.record(vec![reported(&gateway, slow, 1, failed)]).await;
    assert_eq!(counts(fixture).await, (0, 0), "its redrive is another delivery");
    let again = store.redrive(&fixture.actor(), one, false).await.unwrap();
    assert_eq!((again.redriven.len(), again.already_redriven), (0, 1));
}

/// How a gateway confirms events.
#[derive(Clone, Copy, Debug)]
enum By {
    Receipt,
    Report,
    UnmatchedReport,
    ReportElsewhere,
    UnmatchedReportElsewhere,
}

const KINDS: [By; 5] = [
    By::Receipt,
    By::Report,
    By::UnmatchedReport,
    By::ReportElsewhere,
    By::UnmatchedReportElsewhere,
];

impl By {
    /// Confirms the events `first..=last`, which were sent on `connection`.
    async fn confirm(
        self,
        fixture: Fixture<'_>,
        gateway: &Gateway,
        connection: ConnectionId,
        (first, last): (i64, i64),
    ) {
        let unmatched = |on, sent_here| Record::Unmatched {
            gateway: gateway.key,
            connection: on,
            instance: "".into(),
            key: DeploymentKey {
                artifact_id: "a".to_owned(),
                deployment_id: "d1".to_owned(),
                suffix: "deployed",
                performed_at: Timestamp::parse(&format!("2026-01-31T09:30:0{last}Z")).ok(),
                sent: Sequence(last),
            },
            result: Ok(()),
            sent_here: Sequence(sent_here),
            at: Timestamp::now(),
        };
        let end =
            closed(gateway, connection, Reason::ConnectionLost, Some(range(first, last)), false);
        let records = match self {
            Self::Receipt => vec![confirmed(gateway, connection, first, last)],
            Self::Report => vec![reported(gateway, connection, last, Ok(()))],
            Self::UnmatchedReport => vec![unmatched(connection, last)],
            Self::ReportElsewhere => {
                let (gateway, to, at) = (gateway.key, Sequence(last), Timestamp::now());
                vec![end, Record::ConfirmedElsewhere { gateway, to, at }]
            }
            Self::UnmatchedReportElsewhere => {
                fixture.record(vec![end]).await;
                let (next, ..) = fixture.open(gateway).await;
                vec![unmatched(next, 0)]
            }
        };
        fixture.record(records).await;
    }
}

pub(crate) async fn each_kind_of_confirmation_revives_what_was_given_up_elsewhere(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    for by in KINDS {
        let gateway = fixture.gateway(&[]).await;
        for second in 1..=5 {
            fixture.publish(vec![performed(&gateway, 1, "deployed", Some(second))]).await;
        }
        let (slow, ..) = fixture.open(&gateway).await;
        let (fast, ..) = fixture.open(&gateway).await;
        let before = counts(fixture).await;
        let failed = Err(ReportedFailure::new(Reason::ApplyFailed, "no".to_owned()));
        let poison = closed(&gateway, fast, Reason::ConfirmationTimeout, Some(range(3, 4)), true);
        fixture
            .record(vec![expired(&gateway, fast, 1, 1), reported(&gateway, fast, 2, failed)])
            .await;
        fixture.record(vec![poison]).await;
        let (confirmed, dead) = counts(fixture).await;
        assert_eq!((confirmed - before.0, dead - before.1), (0, 3), "{by:?}");
        by.confirm(fixture, &gateway, slow, (1, 5)).await;
        let (confirmed, dead) = counts(fixture).await;
        assert_eq!((confirmed - before.0, dead - before.1), (4, 1), "but the reported one: {by:?}");
        assert_eq!(fixture.again(&gateway).await.pending, 0);
    }
}

pub(crate) async fn no_kind_of_confirmation_revives_what_its_connection_was_not_sent(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    for by in KINDS {
        let gateway = fixture.gateway(&[]).await;
        for second in 1..=5 {
            fixture.publish(vec![performed(&gateway, 1, "deployed", Some(second))]).await;
        }
        let before = counts(fixture).await;
        // All were sent on the first connection, and it died at the first of them.
        let (first, ..) = fixture.open(&gateway).await;
        let lost = closed(&gateway, first, Reason::ConnectionLost, Some(range(1, 5)), true);
        fixture.record(vec![lost]).await;
        let (second, position, _) = fixture.open(&gateway).await;
        assert_eq!(position, Sequence(1));
        fixture.record(vec![expired(&gateway, second, 2, 2)]).await;
        by.confirm(fixture, &gateway, second, (3, 5)).await;
        let (confirmed, dead) = counts(fixture).await;
        assert_eq!((confirmed - before.0, dead - before.1), (3, 2), "{by:?}");
    }
}
