//! Events for gateways that are not connected: when they are recorded as failed, and when they
//! expire.

use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::Reason;
use gateway_events::store::{
    DeliveryFilter, DeliveryState, ExpiryMark, Gateway, NewEvent, Store, Target, UndeliveredRange,
};

use super::{Fixture, closed, confirmed, event, event_with, range, ranges};
use crate::support::TEST_TIMEOUT;

/// An event that expired long ago, or will expire.
pub(super) fn expiring(target: Target, has_expired: bool) -> NewEvent {
    let mut new = event(target.clone());
    let (now, long) = (Timestamp::now(), Duration::from_hours(1));
    let at = if has_expired { now.minus(long) } else { now.plus(long) };
    let mut event = event_with(new.event.id.clone(), target, "{}").event;
    Arc::get_mut(&mut event).unwrap().expires_at = Some(at);
    new.event = event;
    new
}

/// A complete search for expired events, batch by batch.
pub(super) async fn expire(store: &dyn Store) -> Vec<UndeliveredRange> {
    let (mut mark, mut expired) = (ExpiryMark::default(), Vec::new());
    loop {
        let found = store.expire(&mut mark).await.unwrap();
        expired.extend(found.expired);
        if !found.more {
            return expired;
        }
    }
}

pub(crate) async fn an_unconfirmed_event_expires_while_its_gateway_is_not_connected(
    store: &dyn Store,
) {
    use DeliveryState::{Delivered, Failed, Pending};
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let only = || Target::Gateways(vec![gateway.id]);
    let events = vec![
        expiring(only(), true),
        event(only()),
        expiring(only(), true),
        expiring(only(), false),
    ];
    let ids: Vec<_> = events.iter().map(|new| new.event.id.clone()).collect();
    fixture.publish(events).await;
    let (id, ..) = fixture.open(&gateway).await;
    assert_eq!(expire(store).await, [], "a live connection decides itself");
    fixture.record(vec![confirmed(&gateway, id, 1, 1)]).await;
    fixture.record(vec![closed(&gateway, id, Reason::Shutdown, None, false)]).await;
    let failed = |first, last| (gateway.id, range(first, last));
    assert_eq!(ranges(&expire(store).await), [failed(3, 3)]);
    assert_eq!(expire(store).await, []);
    let mut states = Vec::new();
    for id in &ids {
        let history = store.event_history(fixture.organisation, id).await.unwrap().unwrap();
        states.push(history.deliveries[0].state);
    }
    assert_eq!(states, [Delivered, Pending, Failed, Pending]);
    let filter = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
    let page = store.failed_deliveries(fixture.organisation, &filter, None, 10).await.unwrap();
    let reasons: Vec<_> = page.rows.iter().map(|row| (row.sequence.0, row.reason)).collect();
    assert_eq!(reasons, [(3, Some(Reason::Expired))]);
    // An expired delivery is not recorded as `not_connected` as well.
    let swept = store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    assert_eq!(ranges(&swept.recorded), [failed(2, 2), failed(4, 4)]);
    let (_, position, _) = fixture.open(&gateway).await;
    assert_eq!(position.0, 1, "the others are delivered all the same");
}

pub(crate) async fn many_expired_events_are_recorded_in_bounded_batches(store: &dyn Store) {
    const GATEWAYS: usize = 70;
    const EVENTS: usize = 40;
    let fixture = Fixture::of(store).await;
    let mut gateways = Vec::new();
    for _ in 0..GATEWAYS {
        gateways.push(fixture.gateway(&[("many", "yes")]).await);
    }
    let labels = || Target::Labels([("many".to_owned(), "yes".to_owned())].into());
    fixture.publish((0..EVENTS).map(|_| expiring(labels(), true)).collect()).await;
    let (mut mark, mut total, mut calls) = (ExpiryMark::default(), 0, 0);
    loop {
        let found = store.expire(&mut mark).await.unwrap();
        let lengths = found.expired.iter().map(|one| one.range.last.0 - one.range.first.0 + 1);
        let count: i64 = lengths.sum();
        assert!(count <= 1_000, "{count} deliveries in one batch");
        (total, calls) = (total + count, calls + 1);
        if !found.more {
            break;
        }
    }
    assert_eq!(total, 2_800);
    assert!(calls > 2, "{calls} calls");
    assert_eq!(store.totals(fixture.organisation).await.unwrap().dead_letters, 2_800);
}

pub(crate) async fn a_gateway_that_just_disconnected_has_a_grace_period_and_no_other(
    store: &dyn Store,
) {
    const GRACE: Duration = Duration::from_hours(1);
    let fixture = Fixture::of(store).await;
    let (gone, never) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let (id, ..) = fixture.open(&gone).await;
    fixture.record(vec![closed(&gone, id, Reason::ConnectionLost, None, false)]).await;
    for gateway in [&gone, &never] {
        fixture.fill(gateway, 2).await;
    }
    let both = [gone.key, never.key];
    let swept = store.sweep_not_connected(Some(&both), GRACE).await.unwrap();
    assert_eq!(ranges(&swept.recorded), [(never.id, range(1, 2))]);
    let [(postponed, left)] = swept.postponed[..] else { panic!("{swept:?}") };
    assert_eq!(postponed, gone.key);
    assert!(!left.is_zero() && left <= GRACE, "{left:?}");
    let swept = store.sweep_not_connected(Some(&both), Duration::ZERO).await.unwrap();
    assert_eq!(ranges(&swept.recorded), [(gone.id, range(1, 2))]);
    assert_eq!(swept.postponed, []);
}

pub(crate) async fn expired_events_of_a_connected_gateway_delay_no_others(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (stalled, away) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let to = |gateway: &Gateway| Target::Gateways(vec![gateway.id]);
    let (id, ..) = fixture.open(&stalled).await;
    fixture.publish((0..200).map(|_| expiring(to(&stalled), true)).collect()).await;
    let mut mark = ExpiryMark::default();
    while store.expire(&mut mark).await.unwrap().more {}
    let mut late = expiring(to(&away), true);
    Arc::get_mut(&mut late.event).unwrap().expires_at = Some(Timestamp::now());
    fixture.publish(vec![late]).await;
    let found = store.expire(&mut mark).await.unwrap();
    assert_eq!(ranges(&found.expired), [(away.id, range(1, 1))], "found by the first call");
    // Those that were skipped are examined again, too.
    fixture.record(vec![closed(&stalled, id, Reason::Shutdown, None, false)]).await;
    let mut total = 0;
    let mut polls = tokio::time::interval(Duration::from_millis(50));
    let all = async {
        while total < 200 {
            let found = store.expire(&mut mark).await.unwrap();
            total +=
                found.expired.iter().map(|it| it.range.last.0 - it.range.first.0 + 1).sum::<i64>();
            if !found.more {
                polls.tick().await;
            }
        }
    };
    tokio::time::timeout(TEST_TIMEOUT * 3, all).await.expect("all of them are given up");
    assert_eq!(total, 200);
}
