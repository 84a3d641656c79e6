//! Rollouts of events, the history of gateways, and evidence for a diagnosis.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, EventId, GatewayId, Reason, Sequence};
use gateway_events::store::{
    EventState, GatewayChange, GatewayState, GatewayThen, LabelChange, NewToken, Record,
    RedriveSelection, ReportedFailure, RolloutOf, Store, StoreError, Target, TargetState, TrimMark,
    VerdictState,
};

use super::{Fixture, Gateway, closed, confirmed, event, ids, keep_all, performed, range};

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

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn relabel(pairs: &[(&str, Option<&str>)]) -> GatewayChange {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
    GatewayChange { labels: Some(LabelChange::Merge(pairs.collect())), ..GatewayChange::default() }
}

pub(crate) async fn a_rollout_counts_each_gateway_once_as_far_as_it_came(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let mut gateways = Vec::new();
    for _ in 0..5 {
        gateways.push(fixture.gateway(&[]).await);
    }
    let [applied, received, failed, waiting, away] = &gateways[..] else { panic!("five") };
    let all = gateways.iter().map(|gateway| gateway.id).collect();
    let mut deployed = performed(applied, 1, "deployed", Some(1));
    deployed.target = Target::Gateways(all);
    let other = event(Target::Gateways(vec![away.id]));
    let both = ids(&fixture.publish(vec![deployed, other]).await);
    let of = RolloutOf::Event(both[0].clone());
    let states = async |of: &RolloutOf| {
        let rollout = store.rollout(fixture.organisation, of).await.unwrap();
        let found = rollout.targets.into_iter();
        found.map(|it| (it.gateway_id, (it.state, it.reason))).collect::<BTreeMap<_, _>>()
    };
    let before = states(&of).await;
    assert!(before.values().all(|it| *it == (TargetState::NotConnected, None)), "{before:?}");

    for gateway in [applied, received, failed, waiting] {
        fixture.open(gateway).await;
    }
    let (one, ..) = fixture.open(applied).await;
    fixture.record(vec![reported(applied, one, 1, Ok(()))]).await;
    let (one, ..) = fixture.open(received).await;
    fixture.record(vec![confirmed(received, one, 1, 1)]).await;
    let (one, ..) = fixture.open(failed).await;
    let refused = Err(ReportedFailure::new(Reason::GatewayProcessingError, "no".to_owned()));
    fixture.record(vec![reported(failed, one, 1, refused)]).await;
    let expected = BTreeMap::from([
        (applied.id, (TargetState::Applied, None)),
        (received.id, (TargetState::Received, None)),
        (failed.id, (TargetState::Failed, Some(Reason::GatewayProcessingError))),
        (waiting.id, (TargetState::Pending, None)),
        (away.id, (TargetState::NotConnected, None)),
    ]);
    assert_eq!(states(&of).await, expected);
    let rollout = store.rollout(fixture.organisation, &of).await.unwrap();
    assert!(rollout.events[0].is_reported && !rollout.more);
    assert_eq!((rollout.possible(true), rollout.possible(false)), (4, 4));
    let history = store.event_history(fixture.organisation, &both[0]).await.unwrap().unwrap();
    let verdict = history.verdict();
    assert_eq!((verdict.state, verdict.gateways, verdict.targets), (EventState::Failed, 1, 5));
    assert_eq!(verdict.reason, Some("gateway_processing_error"));

    // Redriven, it is pending again; the other events of a correlation id count, too.
    let one = RedriveSelection::One(failed.id, Sequence(1));
    store.redrive(&fixture.actor(), one, false).await.unwrap();
    assert_eq!(states(&of).await[&failed.id], (TargetState::Pending, None));
    let correlation = history.event.correlation_id.clone();
    let summed = store.rollout(fixture.organisation, &RolloutOf::Correlation(correlation)).await;
    assert_eq!(summed.unwrap().targets.len(), 5);

    // A deleted gateway can't receive it any more.
    store.delete_gateway(&fixture.actor(), away.id).await.unwrap();
    let gone = (TargetState::Failed, Some(Reason::GatewayDeleted));
    assert_eq!(states(&of).await[&away.id], gone);
    let unknown = RolloutOf::Event(EventId::new("no-such-event").unwrap());
    assert!(store.rollout(fixture.organisation, &unknown).await.unwrap().events.is_empty());
}

pub(crate) async fn the_history_of_a_gateway_shows_what_it_was_at_any_time(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let actor = fixture.actor();
    let gateway = fixture.gateway(&[("region", "eu-west")]).await;
    let change = async |change: GatewayChange| {
        store.update_gateway(&actor, gateway.id, change).await.unwrap();
    };
    change(relabel(&[("region", None), ("env", Some("prod"))])).await;
    // Nothing changes, so there is no new state.
    change(relabel(&[("env", Some("prod"))])).await;
    change(GatewayChange { replicas: Some(2), ..GatewayChange::default() }).await;
    change(GatewayChange { disabled: Some(true), ..GatewayChange::default() }).await;
    store.delete_gateway(&actor, gateway.id).await.unwrap();
    let found = store.gateway_evidence(fixture.organisation, gateway.id).await.unwrap().unwrap();
    assert_eq!(found.verdict().state, VerdictState::Deleted);
    let states: Vec<_> = found
        .history
        .iter()
        .rev()
        .map(|it| (it.labels.clone(), it.disabled_at.is_some(), it.deleted_at.is_some()))
        .collect();
    let prod = labels(&[("env", "prod")]);
    assert_eq!(
        states,
        [
            (labels(&[("region", "eu-west")]), false, false),
            (prod.clone(), false, false),
            (prod.clone(), true, false),
            (prod, true, true),
        ]
    );
    assert!(found.history.iter().all(|it| it.changed_by == "tests"), "{:?}", found.history);
    for pair in found.history.windows(2) {
        assert_eq!(pair[1].replaced_at, Some(pair[0].changed_at));
    }
    assert_eq!(found.history[0].replaced_at, None);
    let then = |at| GatewayState::at(&found.history, gateway.created_at, at);
    let first = found.history.last().unwrap();
    assert_eq!(then(first.changed_at), GatewayThen::Was(first));
    let early = gateway.created_at.minus(Duration::from_secs(1));
    assert_eq!(then(early), GatewayThen::NotRegistered);
    assert!(matches!(then(Timestamp::now()), GatewayThen::Deleted(_)));

    // Retention removes replaced states, and keeps the current one.
    let mut limits = keep_all();
    (limits.hard_max_age, limits.audit_max_age) = (Duration::ZERO, Duration::ZERO);
    let mut mark = TrimMark::default();
    while store.trim(&limits, &mut mark).await.unwrap().more {}
    let kept = store.gateway_evidence(fixture.organisation, gateway.id).await.unwrap().unwrap();
    assert_eq!(kept.history.len(), 1);
    assert_eq!(kept.history[0].replaced_at, None);
}

pub(crate) async fn evidence_about_a_gateway_is_complete_and_bounded(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[("region", "eu-west")]).await;
    let token = NewToken { id: gateway.id.to_string(), digest: [7; 32], expires_at: None };
    store.create_gateway_token(&fixture.actor(), gateway.id, token).await.unwrap();
    fixture.fill(&gateway, 30).await;
    for _ in 0..12 {
        let (one, ..) = fixture.open(&gateway).await;
        fixture.record(vec![closed(&gateway, one, Reason::ConnectionLost, None, false)]).await;
    }
    let (one, ..) = fixture.open(&gateway).await;
    let refused = || Err(ReportedFailure::new(Reason::GatewayProcessingError, "no".to_owned()));
    fixture.record(vec![reported(&gateway, one, 1, refused())]).await;
    fixture.record(vec![reported(&gateway, one, 2, refused())]).await;
    fixture
        .record(vec![closed(&gateway, one, Reason::ConnectionLost, Some(range(3, 5)), false)])
        .await;
    let missed = Target::Labels(labels(&[("region", "eu-wset")]));
    let matched = Target::Labels(labels(&[("region", "eu-west")]));
    let targets = ids(&fixture.publish(vec![event(missed), event(matched)]).await);

    let found = store.gateway_evidence(fixture.organisation, gateway.id).await.unwrap().unwrap();
    assert_eq!(found.gateway.id, gateway.id);
    assert_eq!((found.deleted_at, found.dead_total), (None, 2));
    assert_eq!((found.keys.list.len(), found.keys.more), (1, 0));
    assert_eq!((found.connections.list.len(), found.connections.more), (10, 3));
    let failures: BTreeMap<&str, i64> =
        found.failures.iter().map(|it| (it.reason.as_str(), it.count)).collect();
    let expected = BTreeMap::from([("gateway_processing_error", 2), ("connection_lost", 3)]);
    assert_eq!(failures, expected);
    let [dead] = &found.dead_letters[..] else { panic!("{:?}", found.dead_letters) };
    assert_eq!((dead.reason, dead.count), (Reason::GatewayProcessingError, 2));
    assert!(dead.first_at <= dead.last_at);
    let pending: Vec<i64> = found.pending.iter().map(|it| it.sequence.0).collect();
    assert_eq!(pending, (3..=12).collect::<Vec<_>>());
    assert_eq!(found.gateway.pending, 29);
    // What is in its log did not miss it.
    let logged = |id: &EventId| found.label_targets.iter().find(|it| it.event_id == *id);
    assert_eq!(logged(&targets[0]).map(|it| it.is_logged), Some(false));
    assert_eq!(logged(&targets[1]).map(|it| it.is_logged), Some(true));
    let said: Vec<_> = found.said.iter().map(|it| (it.reason, it.detail.as_str())).collect();
    let ended = (Reason::ConnectionLost, "as the test says");
    assert_eq!(said, [ended, (Reason::GatewayProcessingError, "no")]);
    // Which of its labels others have.
    let west = ("region".to_owned(), "eu-west".to_owned());
    assert!(!found.shared_labels.contains(&west));
    fixture.gateway(&[("region", "eu-west")]).await;
    let found = store.gateway_evidence(fixture.organisation, gateway.id).await.unwrap().unwrap();
    assert_eq!(found.shared_labels, BTreeSet::from([west]));

    let unknown = store.gateway_evidence(fixture.organisation, GatewayId::new()).await.unwrap();
    assert!(unknown.is_none());
}

pub(crate) async fn evidence_about_an_event_has_the_gateways_at_that_time(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let berlin = fixture.gateway(&[("region", "eu-west")]).await;
    let actor = fixture.actor();
    store
        .update_gateway(&actor, berlin.id, relabel(&[("region", Some("eu-north"))]))
        .await
        .unwrap();
    let target = Target::Labels(labels(&[("region", "eu-west")]));
    let id = ids(&fixture.publish(vec![event(target)]).await).remove(0);
    let late = fixture.gateway(&[("region", "eu-west")]).await;
    let found = store.event_evidence(fixture.organisation, &id, None).await.unwrap().unwrap();
    assert_eq!(found.event.verdict().state, EventState::Unmatched);
    let of = |id| found.gateways.iter().find(|it| it.id == id).unwrap();
    let then = |id| {
        let of = of(id);
        GatewayState::at(&of.changes, of.registered_at, found.event.appended_at)
    };
    let GatewayThen::Was(state) = then(berlin.id) else { panic!("{:?}", then(berlin.id)) };
    assert_eq!(state.labels, labels(&[("region", "eu-north")]));
    assert_eq!(then(late.id), GatewayThen::NotRegistered);
    let one = store.event_evidence(fixture.organisation, &id, Some(berlin.id)).await.unwrap();
    let gateways = one.unwrap().gateways;
    assert_eq!(gateways.iter().map(|it| it.id).collect::<Vec<_>>(), [berlin.id]);
    let unknown = store.event_evidence(fixture.organisation, &id, Some(GatewayId::new())).await;
    assert!(matches!(unknown, Err(StoreError::NotFound(_))), "{unknown:?}");
    let no_event = EventId::new("no-such-event").unwrap();
    let unknown = store.event_evidence(fixture.organisation, &no_event, None).await.unwrap();
    assert!(unknown.is_none());
}
