//! Supersession.

use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{CollapseKey, ConnectionId, Event, Reason, Sequence};
use gateway_events::store::supersession::{Collapse, Supersession};
use gateway_events::store::{
    DeliveryState, EventState, Gateway, NewEvent, Opened, Outcome, RetentionLimits, RolloutOf,
    Store, Target, TargetState, TrimMark,
};

use super::{Fixture, closed, confirmed, connection, event, keep_all};

fn with(gateway: &Gateway, collapse: impl Into<Option<Collapse>>) -> NewEvent {
    NewEvent { collapse: collapse.into(), ..event(Target::Gateways(vec![gateway.id])) }
}

fn key(key: &str) -> Collapse {
    Collapse::Key(CollapseKey::new(key).unwrap())
}

async fn opened(store: &dyn Store, gateway: &Gateway) -> (ConnectionId, Opened) {
    let new = connection(gateway);
    let id = new.id;
    (id, store.open_connection(new).await.unwrap())
}

/// Lets the newest events of a backlog supersede the others; how many those are.
async fn superseded(
    store: &dyn Store,
    gateway: &Gateway,
    connection: ConnectionId,
    opened: &Opened,
) -> u64 {
    let mut backlog = Supersession::new(gateway.key, connection, opened.head);
    while !backlog.is_done {
        backlog = store.supersede(backlog).await.unwrap();
    }
    backlog.superseded
}

/// The sequences of a log that are withheld as superseded.
async fn withheld(store: &dyn Store, gateway: &Gateway) -> Vec<i64> {
    let page = store.read(gateway.key, Sequence::ZERO, 100, 1 << 20).await.unwrap();
    let rows = page.rows.into_iter();
    rows.filter(|row| row.withheld == Some(Reason::Superseded)).map(|row| row.sequence.0).collect()
}

pub(crate) async fn the_newest_event_of_a_key_supersedes_what_was_not_sent(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let collapses = [
        Some(key("a")),
        Some(key("b")),
        None,
        Some(key("a")),
        Some(Collapse::Barrier),
        Some(key("a")),
        Some(key("a")),
    ];
    let events: Vec<NewEvent> =
        collapses.into_iter().map(|collapse| with(&gateway, collapse)).collect();
    fixture.publish(events.clone()).await;
    let (id, at) = opened(store, &gateway).await;
    assert!(at.is_collapsible);
    assert_eq!(superseded(store, &gateway, id, &at).await, 2);
    assert_eq!(withheld(store, &gateway).await, [1, 6]);
    // It is decided once.
    assert_eq!(superseded(store, &gateway, id, &at).await, 0);

    // It is pending until the position has passed it, as the gateway's lag says, too.
    let first = &events[0].event.id;
    let history = store.event_history(fixture.organisation, first).await.unwrap().unwrap();
    let delivery = &history.deliveries[0];
    let found = (delivery.state, delivery.superseded_by(), delivery.failures);
    assert_eq!(found, (DeliveryState::Pending, Some(Sequence(4)), 0));
    assert_eq!(delivery.attempts.last().map(|it| it.outcome), Some(Outcome::Superseded));

    // What was in the log while the connection was open may have been sent.
    fixture.record(vec![closed(&gateway, id, Reason::ConnectionLost, None, false)]).await;
    fixture.publish(vec![with(&gateway, key("b"))]).await;
    let (id, at) = opened(store, &gateway).await;
    assert_eq!(superseded(store, &gateway, id, &at).await, 0);
    assert_eq!(withheld(store, &gateway).await, [1, 6]);

    fixture.record(vec![confirmed(&gateway, id, 2, 5), confirmed(&gateway, id, 7, 8)]).await;
    let history = store.event_history(fixture.organisation, first).await.unwrap().unwrap();
    let delivery = &history.deliveries[0];
    let found = (delivery.state, delivery.superseded_by(), delivery.failures);
    assert_eq!(found, (DeliveryState::Superseded, Some(Sequence(4)), 0));
    let verdict = history.verdict();
    assert_eq!((verdict.state, verdict.superseded), (EventState::Superseded, 1));
    let of = RolloutOf::Event(first.clone());
    let rollout = store.rollout(fixture.organisation, &of).await.unwrap();
    assert_eq!(rollout.targets[0].state, TargetState::Superseded);
    assert_eq!((rollout.awaited(), rollout.possible(false)), (0, 0));
}

pub(crate) async fn an_event_supersedes_none_that_lasts_longer(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let with_end = |hours: Option<u64>| {
        let new = with(&gateway, key("a"));
        let end = hours.map(|hours| Timestamp::now().plus(Duration::from_secs(3600 * hours)));
        NewEvent { event: Arc::new(Event { expires_at: end, ..Event::clone(&new.event) }), ..new }
    };
    fixture.publish([None, Some(1), None, Some(2), Some(3), Some(1)].map(with_end).into()).await;
    let (id, at) = opened(store, &gateway).await;
    assert_eq!(superseded(store, &gateway, id, &at).await, 3);
    assert_eq!(withheld(store, &gateway).await, [1, 2, 4]);
}

pub(crate) async fn superseded_deliveries_that_retention_removes_do_not_fail(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let events: Vec<NewEvent> = (0..3).map(|_| with(&gateway, key("a"))).collect();
    fixture.publish(events.clone()).await;
    let (id, at) = opened(store, &gateway).await;
    assert_eq!(superseded(store, &gateway, id, &at).await, 2);
    fixture.record(vec![closed(&gateway, id, Reason::ConnectionLost, None, false)]).await;
    store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    let limits = RetentionLimits { hard_max_events: 1, ..keep_all() };
    let (mut mark, mut deliveries, mut lost) = (TrimMark::default(), 0, 0);
    loop {
        let step = store.trim(&limits, &mut mark).await.unwrap();
        (deliveries, lost) = (deliveries + step.deliveries, lost + step.lost);
        if !step.more {
            break;
        }
    }
    assert_eq!((deliveries, lost), (2, 0));
    let first = &events[0].event.id;
    let history = store.event_history(fixture.organisation, first).await.unwrap().unwrap();
    let delivery = &history.deliveries[0];
    let found = (delivery.state, delivery.trimmed, delivery.failures);
    assert_eq!(found, (DeliveryState::Superseded, true, 0));
}

pub(crate) async fn nothing_is_superseded_while_another_connection_is_open(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.publish(vec![with(&gateway, key("a")), with(&gateway, key("a"))]).await;
    let (first, at) = opened(store, &gateway).await;
    let (second, _) = opened(store, &gateway).await;
    assert_eq!(superseded(store, &gateway, second, &at).await, 0);
    fixture.record(vec![closed(&gateway, first, Reason::ConnectionLost, None, false)]).await;
    assert_eq!(superseded(store, &gateway, second, &at).await, 0);
    assert_eq!(superseded(store, &gateway, first, &at).await, 0);
    assert_eq!(withheld(store, &gateway).await, Vec::<i64>::new());
    // A log without keys is not examined.
    let other = fixture.gateway(&[]).await;
    fixture.fill(&other, 2).await;
    assert!(!opened(store, &other).await.1.is_collapsible);
}
