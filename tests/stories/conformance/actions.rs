//! Corrective actions: pause and resume, skip, purge.

use std::time::Duration;

use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{GatewayId, JobId, Reason, Sequence};
use gateway_events::store::{
    AuditFilter, AuditRecord, Confirmation, Conflict, DeliveryFilter, DeliveryState, Gateway,
    GatewayChange, Level, NewEvent, Record, RedriveSelection, ReplaySelection, ResumeFrom, Store,
    StoreError, Target, TimedKey, VerdictState,
};

use super::{Fixture, confirmed, connection, event, event_with, ids, range};

const REASON: &str = "the test says";

/// Why the rows of a log are not sent.
async fn withheld(store: &dyn Store, gateway: &Gateway) -> Vec<(i64, Option<Reason>)> {
    let page = store.read(gateway.key, Sequence::ZERO, 100, usize::MAX).await.unwrap();
    page.rows.into_iter().map(|row| (row.sequence.0, row.withheld)).collect()
}

async fn state(store: &dyn Store, gateway: &Gateway, sequence: i64) -> DeliveryState {
    let fixture = Fixture::of(store).await;
    let page = store.read(gateway.key, Sequence(sequence - 1), 1, usize::MAX).await.unwrap();
    let id = page.rows[0].event.id.clone();
    let history = store.event_history(fixture.organisation, &id).await.unwrap().unwrap();
    let own = |it: &gateway_events::store::Delivery| {
        it.gateway_id == gateway.id && it.sequence == Sequence(sequence)
    };
    history.deliveries.into_iter().find(own).unwrap().state
}

async fn records_of(fixture: &Fixture<'_>, object: &str) -> Vec<AuditRecord> {
    let object = Some(object.to_owned());
    let filter = AuditFilter { window: TimeWindow::ALL, action: None, principal: None, object };
    fixture.store.audit(fixture.organisation, &filter, None, 100).await.unwrap()
}

async fn actions_of(fixture: &Fixture<'_>, object: &str) -> Vec<String> {
    records_of(fixture, object).await.into_iter().map(|record| record.action).collect()
}

pub(crate) async fn a_paused_gateway_is_known_until_it_is_resumed(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let actor = fixture.actor();
    let opened = store.open_connection(connection(&gateway)).await.unwrap();
    assert_eq!((opened.control.revision, opened.control.is_paused), (0, false));

    let dry = store.pause_gateway(&actor, gateway.id, Some(REASON), true).await.unwrap();
    assert!(dry.changed && dry.control.is_none() && dry.gateway.paused.is_none());
    let done = store.pause_gateway(&actor, gateway.id, Some(REASON), false).await.unwrap();
    assert!(done.changed && done.control.unwrap().is_paused);
    let pause = done.gateway.paused.clone().unwrap();
    assert_eq!((pause.by.as_str(), pause.reason.as_deref()), ("tests", Some(REASON)));
    let verdict = done.gateway.verdict();
    assert_eq!(verdict.state, VerdictState::Paused);
    assert_eq!(verdict.reason.as_deref(), Some("paused by tests: the test says"));

    let again = store.pause_gateway(&actor, gateway.id, Some("another"), false).await.unwrap();
    assert!(!again.changed && again.control.is_none());
    assert_eq!(again.gateway.paused, Some(pause), "the first one stays");
    let opened = store.open_connection(connection(&gateway)).await.unwrap();
    assert_eq!(Some(opened.control), done.control, "a paused gateway may connect");
    let changes = store.stream_changes(TimedKey::FIRST, 1000).await.unwrap();
    assert!(changes.changed.contains(&(gateway.key, opened.control)));
    let later = TimedKey { at: changes.as_of.plus(Duration::from_hours(1)), key: 0 };
    assert!(store.stream_changes(later, 1000).await.unwrap().changed.is_empty());

    let change = GatewayChange { disabled: Some(true), ..GatewayChange::default() };
    let disabled = store.update_gateway(&actor, gateway.id, change).await.unwrap();
    assert_eq!(disabled.verdict().state, VerdictState::Disabled, "which comes first");
    assert!(disabled.paused.is_some());

    let dry = store.resume_gateway(&actor, gateway.id, true).await.unwrap();
    assert!(dry.changed && dry.gateway.paused.is_some());
    let done = store.resume_gateway(&actor, gateway.id, false).await.unwrap();
    assert!(done.changed && done.gateway.paused.is_none());
    let control = done.control.unwrap();
    assert!(!control.is_paused && control.revision > opened.control.revision);
    let again = store.resume_gateway(&actor, gateway.id, false).await.unwrap();
    assert!(!again.changed && again.control.is_none());

    let actions = actions_of(&fixture, &gateway.id.to_string()).await;
    let expected = ["gateway.resumed", "gateway.disabled", "gateway.paused", "gateway.registered"];
    assert_eq!(actions, expected);
}

pub(crate) async fn changes_of_delivery_are_read_in_pages(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let mut expected = Vec::new();
    for _ in 0..5 {
        let gateway = fixture.gateway(&[]).await;
        let done = store.pause_gateway(&fixture.actor(), gateway.id, None, false).await.unwrap();
        expected.push((gateway.key, done.control.unwrap()));
    }
    let (mut found, mut after) = (Vec::new(), Some(TimedKey::FIRST));
    while let Some(place) = after {
        let page = store.stream_changes(place, 2).await.unwrap();
        assert!(page.changed.len() <= 2);
        found.extend(page.changed);
        after = page.next;
    }
    found.retain(|change| expected.contains(change));
    assert_eq!(found, expected, "in the order of the changes");
}

pub(crate) async fn nothing_is_recorded_as_not_connected_during_a_pause(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let (own, grace) = (Some(&[gateway.key][..]), Duration::ZERO);
    store.pause_gateway(&fixture.actor(), gateway.id, None, false).await.unwrap();
    fixture.fill(&gateway, 2).await;
    assert!(store.sweep_not_connected(own, grace).await.unwrap().recorded.is_empty());
    store.resume_gateway(&fixture.actor(), gateway.id, false).await.unwrap();
    let swept = store.sweep_not_connected(own, grace).await.unwrap();
    assert_eq!(swept.recorded.len(), 1);
    assert_eq!(swept.recorded[0].range, range(1, 2));
}

pub(crate) async fn only_a_pending_delivery_is_skipped_and_only_once(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let actor = fixture.actor();
    fixture.fill(&gateway, 5).await;
    let (on, ..) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, on, 1, 1)]).await;
    let skip = async |sequence, dry_run| {
        store.skip_delivery(&actor, gateway.id, Sequence(sequence), REASON, dry_run).await
    };
    for missing in [-1, 0, 6, i64::MAX] {
        let refused = skip(missing, false).await;
        assert!(matches!(refused, Err(StoreError::NotFound("delivery"))), "{missing}: {refused:?}");
    }
    let refused = skip(1, false).await;
    let expected = StoreError::Conflict(Conflict::Delivered(Sequence(1)));
    assert_eq!(refused.unwrap_err().to_string(), expected.to_string());
    let unknown = store.skip_delivery(&actor, GatewayId::new(), Sequence(2), REASON, false).await;
    assert!(matches!(unknown, Err(StoreError::NotFound("gateway"))), "{unknown:?}");

    let dry = skip(2, true).await.unwrap();
    assert!(dry.changed && dry.control.is_none());
    assert_eq!(state(store, &gateway, 2).await, DeliveryState::Pending);
    let before = store.totals(fixture.organisation).await.unwrap();
    // One that is next, and one in the middle.
    for sequence in [2, 4] {
        let done = skip(sequence, false).await.unwrap();
        assert!(done.changed && done.control.is_some());
        assert_eq!(done.delivery.range, range(sequence, sequence));
        assert_eq!(state(store, &gateway, sequence).await, DeliveryState::Failed);
    }
    let again = skip(4, false).await.unwrap();
    assert!(!again.changed && again.control.is_none());
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(after.dead_letters - before.dead_letters, 2);
    assert_eq!(after.failed_attempts - before.failed_attempts, 2);
    assert_eq!(before.pending - after.pending, 2);
    let skipped = Some(Reason::Skipped);
    let rows = [(1, None), (2, skipped), (3, None), (4, skipped), (5, None)];
    assert_eq!(withheld(store, &gateway).await, rows);

    let filter = DeliveryFilter {
        gateway_id: Some(gateway.id),
        reason: skipped,
        ..DeliveryFilter::default()
    };
    let failed = store.failed_deliveries(fixture.organisation, &filter, None, 10).await.unwrap();
    assert_eq!(failed.rows.len(), 2);
    let attempt = failed.rows[0].attempts.last().unwrap();
    assert_eq!(attempt.detail.as_deref(), Some("skipped by tests: the test says"));

    // Redriven under a new sequence, which is sent.
    let one = RedriveSelection::One(gateway.id, Sequence(2));
    let redriven = store.redrive(&actor, one, false).await.unwrap();
    assert_eq!(redriven.redriven[0].new_sequence, Some(Sequence(6)));
    assert_eq!(withheld(store, &gateway).await.last(), Some(&(6, None)));
    assert!(!skip(2, false).await.unwrap().changed, "it was skipped, and redriven since");

    let expired = Record::Skipped {
        gateway: gateway.key,
        connection: on,
        instance: "".into(),
        range: range(5, 5),
        reason: Reason::Expired,
        advance_to: None,
        at: Timestamp::now(),
    };
    fixture.record(vec![expired]).await;
    let refused = skip(5, false).await.unwrap_err();
    assert!(refused.to_string().contains("given up already (expired)"), "{refused}");
    let skips = actions_of(&fixture, &gateway.id.to_string()).await;
    assert_eq!(skips.iter().filter(|action| *action == "delivery.skipped").count(), 2);

    store.delete_gateway(&actor, gateway.id).await.unwrap();
    let refused = skip(3, false).await;
    assert!(matches!(refused, Err(StoreError::NotFound("gateway"))), "{refused:?}");
}

pub(crate) async fn a_skipped_event_that_the_gateway_confirms_is_delivered(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 2).await;
    let (on, ..) = fixture.open(&gateway).await;
    store.skip_delivery(&fixture.actor(), gateway.id, Sequence(1), REASON, false).await.unwrap();
    let before = store.totals(fixture.organisation).await.unwrap();
    // It had been sent on this connection before it was skipped.
    fixture.record(vec![confirmed(&gateway, on, 1, 2)]).await;
    assert_eq!(state(store, &gateway, 1).await, DeliveryState::Delivered);
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(after.confirmed - before.confirmed, 2);
    assert_eq!(before.dead_letters - after.dead_letters, 1);

    // If all instances must confirm, one does not speak for those that are not sent it any more.
    let gateway = fixture.gateway(&[]).await;
    fixture.must_all_confirm(&gateway, Confirmation::All).await;
    fixture.fill(&gateway, 2).await;
    let east = fixture.open_as(&gateway, "east", Level::Received, ResumeFrom::Server).await;
    store.skip_delivery(&fixture.actor(), gateway.id, Sequence(1), REASON, false).await.unwrap();
    fixture.record(vec![east.confirmed(1, 2)]).await;
    assert_eq!(state(store, &gateway, 1).await, DeliveryState::Failed);
    assert_eq!(state(store, &gateway, 2).await, DeliveryState::Delivered);
}

/// An event whose payload contains a secret.
fn secret(gateways: Vec<GatewayId>) -> NewEvent {
    let id = super::EventId::new(uuid::Uuid::now_v7().to_string()).unwrap();
    let mut event = event_with(id, Target::Gateways(gateways), r#"{"apiId":"a","key":"s3cret"}"#);
    event.artifact_id = Some("a".to_owned());
    event
}

pub(crate) async fn a_purged_payload_is_gone_and_its_event_stays(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let actor = fixture.actor();
    let (done, open, lost) =
        (fixture.gateway(&[]).await, fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let event = secret(vec![done.id, open.id, lost.id]);
    let id = event.event.id.clone();
    let first = fixture.publish(vec![event.clone()]).await;
    let (on, ..) = fixture.open(&done).await;
    fixture.record(vec![confirmed(&done, on, 1, 1)]).await;
    store.skip_delivery(&actor, lost.id, Sequence(1), REASON, false).await.unwrap();

    let unknown = "no-such-event".parse().unwrap();
    let missing = store.purge_event(&actor, &unknown, REASON, false).await;
    assert!(matches!(missing, Err(StoreError::NotFound("event"))), "{missing:?}");
    let dry = store.purge_event(&actor, &id, REASON, true).await.unwrap();
    assert_eq!((dry.changed, dry.given_up.len(), dry.controls.len()), (true, 1, 0));
    let history = async || store.event_history(fixture.organisation, &id).await.unwrap().unwrap();
    assert!(history().await.event.payload.get().contains("s3cret"));

    let purged = store.purge_event(&actor, &id, REASON, false).await.unwrap();
    assert!(purged.changed);
    assert_eq!(purged.given_up.len(), 1);
    assert_eq!(purged.given_up[0].gateway_id, open.id);
    assert_eq!(purged.controls.len(), 3, "any connection may hold it in memory");
    let again = store.purge_event(&actor, &id, "another", false).await.unwrap();
    assert_eq!((again.changed, &again.purge), (false, &purged.purge), "the first one stays");

    let after = history().await;
    assert_eq!(after.event.payload.get(), "{}");
    assert_eq!(after.purged, Some(purged.purge.clone()));
    assert_eq!((purged.purge.by.as_str(), purged.purge.reason.as_str()), ("tests", REASON));
    for (gateway, expected) in [
        (&done, DeliveryState::Delivered),
        (&open, DeliveryState::Failed),
        (&lost, DeliveryState::Failed),
    ] {
        assert_eq!(state(store, gateway, 1).await, expected);
        assert_eq!(withheld(store, gateway).await, [(1, Some(Reason::Purged))]);
    }

    // It can't be sent again, one by one or by a filter.
    for gateway in [&open, &lost] {
        let one = RedriveSelection::One(gateway.id, Sequence(1));
        for dry_run in [true, false] {
            let refused = store.redrive(&actor, one.clone(), dry_run).await.unwrap_err();
            assert!(refused.to_string().contains("was purged"), "{refused}");
        }
    }
    let filter = DeliveryFilter { event_id: Some(id.clone()), ..DeliveryFilter::default() };
    let redriven = store.redrive(&actor, RedriveSelection::Filter(filter, None), false).await;
    let redriven = redriven.unwrap();
    assert_eq!((redriven.redriven.len(), redriven.payload_purged), (0, 2));
    let log = ReplaySelection::Range(Sequence(1), None);
    let replayed = store.replay(&actor, JobId::new(), done.id, log, false).await.unwrap();
    assert_eq!((replayed.counts.appended, replayed.counts.payload_purged), (0, 1));
    let target = Target::Gateways(vec![done.id]);
    let resent = store.resend(&actor, &id, target, true, false).await.unwrap_err();
    assert!(resent.to_string().contains("was purged"), "{resent}");

    // A repeat is recognised, and stored nowhere.
    assert_eq!(ids(&fixture.publish(vec![event]).await), ids(&first));
    assert_eq!(history().await.event.payload.get(), "{}");
    assert_eq!(fixture.again(&open).await.head, Sequence(1));

    let records = records_of(&fixture, id.as_str()).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].action, "event.purged");
    assert!(!format!("{records:?}").contains("s3cret"));
}

pub(crate) async fn an_event_without_deliveries_is_purged(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let label = [("purge".to_owned(), "no gateway has it".to_owned())];
    let mut event = event(Target::Labels(label.into()));
    event.is_named = true;
    let id = event.event.id.clone();
    fixture.publish(vec![event]).await;
    let purged = store.purge_event(&fixture.actor(), &id, REASON, false).await.unwrap();
    assert!(purged.changed && purged.given_up.is_empty() && purged.controls.is_empty());
    assert!(!store.purge_event(&fixture.actor(), &id, REASON, false).await.unwrap().changed);
}
