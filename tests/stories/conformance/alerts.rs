//! Alerts: definitions, the evaluation lease, and the outbox of notifications.

use std::time::Duration;

use gateway_events::event::{EventType, Reason};
use gateway_events::store::{
    AfterAttempt, AlertChange, AlertEvent, AlertState, AttemptEnd, ClaimedNotification, Conflict,
    EvaluationLease, Existing, FailureCount, NewNotification, NotificationState, Result,
    RetentionLimits, Sealed, Store, StoreError, StoredAlert, TrimMark,
};

use super::{Fixture, keep_all, pass};

const LEASE: Duration = Duration::from_mins(10);

pub(crate) async fn rules_and_destinations_of_alerts_are_stored_and_recorded(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (actor, organisation) = (fixture.actor(), fixture.organisation);
    let put =
        |id: &'static str, existing: Existing, was: Option<&'static str>, text: &'static str| {
            let actor = actor.clone();
            async move { store.put_alert_rule(&actor, id, existing, was, text).await }
        };
    let (refuse, replace) = (Existing::Refuse, Existing::Replace);
    assert!(put("conf-a", refuse, None, r#"{"n":1}"#).await.unwrap());
    for text in [r#"{"n":1}"#, r#"{"n":9}"#] {
        is_taken(put("conf-a", refuse, None, text).await, "alert rule", "conf-a");
    }
    assert!(!put("conf-a", replace, None, r#"{"n":1}"#).await.unwrap());
    assert!(!put("conf-a", replace, None, r#"{"n":2}"#).await.unwrap());
    let built_in = Some(r#"{"n":0}"#);
    is_taken(put("conf-b", refuse, built_in, r#"{"n":2}"#).await, "alert rule", "conf-b");
    let replaced = put("conf-b", replace, built_in, r#"{"n":2}"#).await;
    assert!(!replaced.unwrap(), "a built-in rule was in force");
    let now = store.acquire_evaluation_lease(Duration::ZERO).await.unwrap().unwrap().at;
    let until = now.plus(LEASE);
    store.silence_alert_rule(&actor, "conf-a", Some(until)).await.unwrap();
    store.silence_alert_rule(&actor, "conf-c", Some(until)).await.unwrap();
    let rules = store.alert_rules(organisation).await.unwrap();
    let own = rules.iter().filter(|rule| rule.id.starts_with("conf-"));
    let own: Vec<_> = own
        .map(|rule| (rule.id.as_str(), rule.definition.as_deref(), rule.silence.is_some()))
        .collect();
    assert_eq!(
        own,
        [
            ("conf-a", Some(r#"{"n":2}"#), true),
            ("conf-b", Some(r#"{"n":2}"#), false),
            ("conf-c", None, true),
        ]
    );
    store.silence_alert_rule(&actor, "conf-a", None).await.unwrap();
    store.delete_alert_rule(&actor, "conf-a").await.unwrap();
    for id in ["conf-a", "conf-c", "conf-none"] {
        let missing = store.delete_alert_rule(&actor, id).await;
        assert!(matches!(missing, Err(StoreError::NotFound("alert rule"))), "{id}: {missing:?}");
    }

    let sealed = |byte: u8| Sealed { bytes: vec![0, byte, 255], by: "k1".to_owned() };
    let put = |existing: Existing, text: &'static str, byte: u8| {
        let actor = actor.clone();
        let sealed = sealed(byte);
        async move { store.put_alert_destination(&actor, "conf-d", existing, text, &sealed).await }
    };
    assert!(put(refuse, r#"{"n":1}"#, 1).await.unwrap());
    is_taken(put(refuse, r#"{"n":9}"#, 9).await, "alert destination", "conf-d");
    assert!(!put(replace, r#"{"n":2}"#, 2).await.unwrap());
    let destinations = store.alert_destinations(organisation).await.unwrap();
    let found = destinations.iter().find(|it| it.id == "conf-d").unwrap();
    assert_eq!((found.definition.as_str(), &found.sealed), (r#"{"n":2}"#, &sealed(2)));
    assert!(found.updated_at >= found.created_at);
    assert!(!put(replace, r#"{"n":2}"#, 2).await.unwrap(), "nothing changes");
    let destinations = store.alert_destinations(organisation).await.unwrap();
    let same = destinations.iter().find(|it| it.id == "conf-d").unwrap();
    assert_eq!(same.updated_at, found.updated_at);
    store.record_destination_test(&actor, "conf-d", "delivered").await.unwrap();
    store.delete_alert_destination(&actor, "conf-d").await.unwrap();
    let missing = store.delete_alert_destination(&actor, "conf-d").await;
    assert!(matches!(missing, Err(StoreError::NotFound("alert destination"))), "{missing:?}");
}

fn is_taken(refused: Result<bool>, of: &str, its: &str) {
    match refused {
        Err(StoreError::Conflict(Conflict::AlertId { what, id })) => {
            assert_eq!((what, id.as_str()), (of, its));
        }
        other => panic!("{of} {its}: {other:?}"),
    }
}

fn alert(rule: &str, lease: EvaluationLease) -> StoredAlert {
    StoredAlert {
        rule: rule.to_owned(),
        group: "eu".to_owned(),
        state: AlertState::Firing,
        since: lease.at,
        fired_at: Some(lease.at),
        clear_since: None,
        resolved_at: None,
        found: "{}".to_owned(),
        notified: vec!["one".to_owned()],
        notified_at: Some(lease.at),
    }
}

fn notification(id: &str, destination: &str, event: AlertEvent) -> NewNotification {
    let (id, destination, body) = (id.to_owned(), destination.to_owned(), "{}".to_owned());
    NewNotification { id, destination, event, body }
}

fn change(alert: StoredAlert, notifications: Vec<NewNotification>) -> AlertChange {
    AlertChange { alert, is_forgotten: false, notifications }
}

fn end(then: AfterAttempt) -> AttemptEnd {
    AttemptEnd { then, status: Some(200), detail: "fine".to_owned() }
}

fn ids(claimed: &[ClaimedNotification]) -> Vec<&str> {
    claimed.iter().map(|it| it.id.as_str()).collect()
}

pub(crate) async fn notifications_are_claimed_in_order_and_end_once(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let organisation = fixture.organisation;
    let first = store.acquire_evaluation_lease(LEASE).await.unwrap().unwrap();
    let lease = store.acquire_evaluation_lease(LEASE).await.unwrap().unwrap();
    assert!(lease.number > first.number);
    let new = notification("conf-1", "one", AlertEvent::Firing);
    let stale = change(alert("conf-r", first), vec![new.clone()]);
    assert!(!store.change_alerts(first, organisation, &[stale]).await.unwrap(), "not its lease");
    assert!(store.claim_notifications(LEASE, 4, 16).await.unwrap().is_empty());

    let mut resolved = alert("conf-r", lease);
    (resolved.state, resolved.resolved_at) = (AlertState::Resolved, Some(lease.at));
    let changes = [
        change(
            alert("conf-r", lease),
            vec![new, notification("conf-2", "two", AlertEvent::Firing)],
        ),
        change(resolved.clone(), vec![notification("conf-3", "one", AlertEvent::Resolved)]),
        change(alert("conf-s", lease), vec![notification("conf-4", "one", AlertEvent::Firing)]),
        change(alert("conf-t", lease), vec![notification("conf-5", "one", AlertEvent::Firing)]),
    ];
    assert!(store.change_alerts(lease, organisation, &changes).await.unwrap());
    let alerts = store.alerts(organisation).await.unwrap();
    assert_eq!(alerts.iter().find(|it| it.rule == "conf-r"), Some(&resolved));

    // Of each alert the oldest one, and of each destination no more than two at a time.
    let claimed = store.claim_notifications(LEASE, 2, 16).await.unwrap();
    assert_eq!(ids(&claimed), ["conf-1", "conf-2", "conf-4"]);
    assert!(claimed.iter().all(|it| it.attempt == 1 && it.destination.is_none()));
    assert!(store.claim_notifications(LEASE, 2, 16).await.unwrap().is_empty());
    assert_eq!(ids(&store.claim_notifications(LEASE, 3, 16).await.unwrap()), ["conf-5"]);
    let [one, two, four] = [claimed[0].key, claimed[1].key, claimed[2].key];
    let later = AfterAttempt::Retry(LEASE);
    store.end_attempt(one, 1, end(later)).await.unwrap();
    assert!(store.claim_notifications(LEASE, 9, 16).await.unwrap().is_empty(), "it is not due");
    store.end_attempt(two, 1, end(AfterAttempt::GivenUp)).await.unwrap();
    store.end_attempt(four, 1, end(AfterAttempt::Retry(Duration::ZERO))).await.unwrap();

    // A claim that has ended: both attempts are on record, and the first one that arrives ends it.
    let again = store.claim_notifications(Duration::ZERO, 9, 16).await.unwrap();
    assert_eq!((ids(&again), again[0].attempt), (vec!["conf-4"], 2));
    let third = store.claim_notifications(LEASE, 9, 16).await.unwrap();
    assert_eq!((ids(&third), third[0].attempt), (vec!["conf-4"], 3));
    store.end_attempt(four, 2, end(later)).await.unwrap();
    store.end_attempt(four, 2, end(AfterAttempt::GivenUp)).await.unwrap();
    store.end_attempt(four, 2, end(AfterAttempt::Delivered)).await.unwrap();
    let listed = store.notifications(organisation, None, 100).await.unwrap();
    let found = |id: &str| listed.iter().find(|it| it.id == id).unwrap();
    assert_eq!(found("conf-4").state, NotificationState::Delivered);
    let attempts: Vec<_> =
        found("conf-4").attempts.iter().map(|it| (it.number, it.ended_at.is_some())).collect();
    assert_eq!(attempts, [(1, true), (2, true), (3, false)]);
    assert_eq!(found("conf-2").state, NotificationState::Failed);
    assert_eq!(
        (found("conf-1").state, found("conf-3").attempt_count),
        (NotificationState::Pending, 0)
    );
    let own: Vec<_> = listed.iter().map(|it| it.key).collect();
    assert!(own.is_sorted_by(|a, b| a > b), "newest first");
    let older = store.notifications(organisation, Some(four), 2).await.unwrap();
    assert_eq!(older.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["conf-3", "conf-2"]);

    // What is forgotten was never there; what has ended is removed by retention.
    let forgotten = AlertChange {
        alert: alert("conf-s", lease),
        is_forgotten: true,
        notifications: Vec::new(),
    };
    assert!(store.change_alerts(lease, organisation, &[forgotten]).await.unwrap());
    pass(store, &keep_all(), &mut TrimMark::default()).await;
    assert_eq!(store.notifications(organisation, None, 100).await.unwrap().len(), listed.len());
    let limits = RetentionLimits { max_age: Duration::ZERO, ..keep_all() };
    pass(store, &limits, &mut TrimMark::default()).await;
    let left = store.notifications(organisation, None, 100).await.unwrap();
    assert!(left.iter().all(|it| it.ended_at.is_none()) && left.len() == 3, "{left:#?}");
    let alerts = store.alerts(organisation).await.unwrap();
    let left: Vec<_> = alerts.iter().map(|it| it.rule.as_str()).collect();
    assert_eq!(left, ["conf-t"]);
}

pub(crate) async fn an_alert_that_fires_again_and_again_is_pending_three_times(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let organisation = fixture.organisation;
    let lease = store.acquire_evaluation_lease(LEASE).await.unwrap().unwrap();
    let firing = alert("conf-flap", lease);
    let mut resolved = firing.clone();
    (resolved.state, resolved.resolved_at) = (AlertState::Resolved, Some(lease.at));
    let flap = |nth: i32, destination: &'static str| {
        let id = |event: &str| format!("conf-flap-{destination}-{event}-{nth}");
        [
            change(
                firing.clone(),
                vec![notification(&id("begin"), destination, AlertEvent::Firing)],
            ),
            change(
                resolved.clone(),
                vec![notification(&id("end"), destination, AlertEvent::Resolved)],
            ),
        ]
    };
    let states = async || {
        let mut listed = store.notifications(organisation, None, 100).await.unwrap();
        listed.retain(|it| it.rule == "conf-flap" && it.destination == "down");
        listed.reverse();
        let states = listed.iter().map(|it| (it.id.clone(), it.state));
        let states: Vec<(String, NotificationState)> = states.collect();
        for one in &listed {
            let is_pending = one.state == NotificationState::Pending;
            assert_eq!(one.ended_at.is_none(), is_pending, "{one:?}");
        }
        states
    };
    let begin_and_end = |nth: i32, state: NotificationState| {
        [
            (format!("conf-flap-down-begin-{nth}"), state),
            (format!("conf-flap-down-end-{nth}"), state),
        ]
    };
    let (pending, superseded, delivered) =
        (NotificationState::Pending, NotificationState::Superseded, NotificationState::Delivered);

    // The first firing notification is not superseded, even if it was not attempted: no other one says
    // that the alert fired.
    assert!(store.change_alerts(lease, organisation, &flap(1, "down")).await.unwrap());
    assert_eq!(states().await, begin_and_end(1, pending));
    // Another destination has a backlog of its own.
    assert!(store.change_alerts(lease, organisation, &flap(1, "other")).await.unwrap());
    for nth in 2..=3 {
        assert!(store.change_alerts(lease, organisation, &flap(nth, "down")).await.unwrap());
    }
    let [begin, end] = flap(4, "down");
    assert!(store.change_alerts(lease, organisation, &[begin]).await.unwrap());
    let mut expected = begin_and_end(1, pending).to_vec();
    expected.extend(begin_and_end(2, superseded));
    expected.extend(begin_and_end(3, superseded));
    expected.push(begin_and_end(4, pending)[0].clone());
    assert_eq!(states().await, expected);

    // What is superseded is not sent; what was attempted is not superseded.
    for id in ["conf-flap-down-begin-1", "conf-flap-down-end-1", "conf-flap-down-begin-4"] {
        let claimed = store.claim_notifications(LEASE, 9, 16).await.unwrap();
        let next = claimed.iter().find(|it| it.id == id).unwrap_or_else(|| panic!("{claimed:?}"));
        if !id.ends_with("-4") {
            store.end_attempt(next.key, 1, self::end(AfterAttempt::Delivered)).await.unwrap();
        }
    }
    assert!(store.change_alerts(lease, organisation, &[end]).await.unwrap());
    let mut expected = begin_and_end(1, delivered).to_vec();
    expected.extend(begin_and_end(2, superseded));
    expected.extend(begin_and_end(3, superseded));
    expected.extend(begin_and_end(4, pending));
    assert_eq!(states().await, expected);
}

pub(crate) async fn each_destination_has_its_turn(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let lease = store.acquire_evaluation_lease(LEASE).await.unwrap().unwrap();
    let new = |nth: usize, destination: &str| {
        let id = format!("turn-{nth}");
        let firing = notification(&id, destination, AlertEvent::Firing);
        change(alert(&format!("turn-r{nth}"), lease), vec![firing])
    };
    let mut changes: Vec<_> = (1..=5).map(|nth| new(nth, "busy")).collect();
    changes.push(new(6, "other"));
    assert!(store.change_alerts(lease, fixture.organisation, &changes).await.unwrap());
    let claimed = store.claim_notifications(LEASE, 4, 2).await.unwrap();
    assert_eq!(ids(&claimed), ["turn-1", "turn-6"]);
    // What is being sent takes the first place of its destination.
    let more = [new(7, "third")];
    assert!(store.change_alerts(lease, fixture.organisation, &more).await.unwrap());
    let claimed = store.claim_notifications(LEASE, 4, 2).await.unwrap();
    assert_eq!(ids(&claimed), ["turn-7", "turn-2"]);
}

pub(crate) async fn what_rules_of_alerts_count_is_found(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let organisation = fixture.organisation;
    let gateway = fixture.gateway(&[("region", "eu")]).await;
    fixture.fill(&gateway, 3).await;
    store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    let all = store.watched_gateways(organisation).await.unwrap();
    let own = all.iter().find(|it| it.id == gateway.id).unwrap();
    let shown = store.gateway(organisation, gateway.id).await.unwrap().unwrap();
    assert_eq!((own.pending, own.oldest_pending_at), (shown.pending, shown.oldest_pending_at));
    assert_eq!((own.name.clone(), own.labels.clone()), (shown.name, shown.labels));
    assert_eq!((own.left_at, own.dead_letters), (shown.created_at, 0));
    assert!(!own.is_connected && !own.is_stopped && own.pending == 3);
    let since = gateway.created_at;
    let count = |reason: Option<Reason>, event_type: Option<&str>| {
        let event_type = event_type.map(|it| EventType::new(it).unwrap());
        let count = FailureCount { since, reason, event_type };
        async move {
            let found = store.failure_counts(organisation, &count).await.unwrap();
            found.into_iter().find(|(id, _)| *id == gateway.id).map(|(_, count)| count)
        }
    };
    assert_eq!(count(None, None).await, Some(3));
    assert_eq!(count(Some(Reason::NotConnected), None).await, Some(3));
    assert_eq!(count(Some(Reason::Expired), None).await, None);
    assert_eq!(count(None, Some("api.deployed")).await, Some(3));
    assert_eq!(count(None, Some("no.such.type")).await, None);
    assert_eq!(store.rejected_count(organisation, 0).await.unwrap(), 0);
    assert!(store.organisations().await.unwrap().contains(&organisation));

    let health = gateway_events::store::NodeHealth {
        disk_free: Some(1),
        disk_total: Some(2),
        certificate_expires_at: Some(since),
    };
    store.note_node_health(health).await.unwrap();
    let before = since.minus(Duration::from_hours(1));
    let nodes = store.node_conditions(before, 100).await.unwrap();
    let own = nodes.iter().find(|it| it.id == store.node()).unwrap();
    assert_eq!((own.health, own.stopped_at), (health, None));
}
