//! Where a connection starts, and what is recorded about a gateway's connections.

use std::time::Duration;

use futures_util::FutureExt as _;
use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, Reason, Sequence};
use gateway_events::store::positions::Repeats;
use gateway_events::store::{
    GatewayChange, KeyFault, NewConnection, NotedRefusal, Opened, Record, Store,
};

use super::{Fixture, closed, confirmed, connection, range, ranges};
use crate::support::TEST_TIMEOUT;

pub(crate) async fn a_new_connection_starts_at_the_position_of_the_last_one(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 5).await;
    let (first, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence::ZERO);
    fixture.record(vec![confirmed(&gateway, first, 1, 2), confirmed(&gateway, first, 3, 3)]).await;
    fixture.record(vec![closed(&gateway, first, Reason::ClosedByGateway, None, false)]).await;
    let (_, position, suspect) = fixture.open(&gateway).await;
    assert_eq!((position, suspect), (Sequence(3), Sequence(3)));
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(3));
}

pub(crate) async fn replicas_that_reconnect_in_any_order_find_every_position(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 9).await;
    let (slow, _, _) = fixture.open(&gateway).await;
    let (fast, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, slow, 1, 2), confirmed(&gateway, fast, 1, 7)]).await;
    for id in [slow, fast] {
        fixture.record(vec![closed(&gateway, id, Reason::ConnectionLost, None, false)]).await;
    }
    let (first, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence(2));
    fixture.record(vec![confirmed(&gateway, first, 3, 9)]).await;
    let (_, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence(2), "the first one may have been the fast one");
}

pub(crate) async fn a_reconnect_that_repeats_confirmed_events_is_known(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let declares = async |replicas| {
        let change = GatewayChange { replicas: Some(replicas), ..GatewayChange::default() };
        store.update_gateway(&fixture.actor(), gateway.id, change).await.unwrap();
    };
    declares(2).await;
    fixture.fill(&gateway, 9).await;
    let opened = async || {
        let new = connection(&gateway);
        (new.id, store.open_connection(new).await.unwrap())
    };
    let ends = async |id, first, last| {
        let end = closed(&gateway, id, Reason::ClosedByGateway, None, false);
        fixture.record(vec![confirmed(&gateway, id, first, last), end]).await;
    };
    for (first, last, repeated) in [(1, 4, 0), (5, 7, 0), (5, 9, 3)] {
        let (id, Opened { position, repeats, .. }) = opened().await;
        assert_eq!(position, Sequence(first - 1));
        assert_eq!(repeats, Repeats { events: repeated, missing_replicas: 1 });
        ends(id, first, last).await;
    }
    declares(1).await;
    let (id, Opened { position, repeats, .. }) = opened().await;
    assert_eq!((position, repeats), (Sequence(9), Repeats::default()));
    ends(id, 10, 9).await;
    // Two that were alive at the same time may both return.
    declares(2).await;
    fixture.fill(&gateway, 3).await;
    let ((slow, _), (fast, _)) = (opened().await, opened().await);
    fixture.record(vec![confirmed(&gateway, slow, 10, 10)]).await;
    ends(fast, 10, 12).await;
    ends(slow, 11, 11).await;
    let (_, Opened { position, repeats, .. }) = opened().await;
    assert_eq!((position, repeats), (Sequence(11), Repeats { events: 1, missing_replicas: 0 }));
}

pub(crate) async fn a_named_replica_moves_its_own_position_and_its_gateways(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 5).await;
    let replica = NewConnection { instance: "east".to_owned(), ..connection(&gateway) };
    store.open_connection(replica.clone()).await.unwrap();
    let (unnamed, _, _) = fixture.open(&gateway).await;
    let mut receipt = confirmed(&gateway, replica.id, 1, 4);
    if let Record::Confirmed { instance, .. } = &mut receipt {
        *instance = "east".into();
    }
    let before = store.totals(fixture.organisation).await.unwrap();
    fixture.record(vec![receipt, confirmed(&gateway, unnamed, 1, 2)]).await;
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(4));
    let after = store.totals(fixture.organisation).await.unwrap();
    assert_eq!(after.confirmed - before.confirmed, 4, "what the gateway has confirmed");
    let again = NewConnection { id: ConnectionId::new(), ..replica };
    assert_eq!(store.open_connection(again).await.unwrap().position, Sequence(4));
}

/// As after a node was unreachable for so long that its connections were deleted.
pub(crate) async fn a_receipt_on_a_deleted_connection_moves_its_gateway(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 5).await;
    fixture.record(vec![confirmed(&gateway, ConnectionId::new(), 1, 3)]).await;
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(3));
    let (_, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence(3));
}

pub(crate) async fn sequences_that_were_sent_are_known_and_those_not_connected_are_excluded(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 10).await;
    store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    let first = connection(&gateway);
    let opened = store.open_connection(first.clone()).await.unwrap();
    assert_eq!((opened.position, opened.sent), (Sequence::ZERO, Sequence::ZERO));
    let end = closed(&gateway, first.id, Reason::ConnectionLost, Some(range(2, 4)), false);
    fixture.record(vec![confirmed(&gateway, first.id, 1, 1), end]).await;
    let opened = store.open_connection(connection(&gateway)).await.unwrap();
    assert_eq!((opened.position, opened.sent), (Sequence(1), Sequence(4)));
}

pub(crate) async fn a_late_receipt_does_not_recreate_a_position_that_was_taken_over(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 5).await;
    let (old, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![closed(&gateway, old, Reason::ConnectionLost, None, false)]).await;
    let (new, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, new, 1, 5)]).await;
    fixture.record(vec![confirmed(&gateway, old, 1, 1)]).await;
    fixture.record(vec![closed(&gateway, new, Reason::ClosedByGateway, None, false)]).await;
    assert_eq!(fixture.open(&gateway).await.1, Sequence(5));
}

pub(crate) async fn an_abandoned_opening_leaves_no_live_connection(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 2).await;
    // Polled once, so that it is queued, and then dropped.
    assert!(store.open_connection(connection(&gateway)).now_or_never().is_none());
    // Records are written after it: the first may share its transaction; the second has its own,
    // which begins when the first is complete.
    for _ in 0..2 {
        let sign = Record::Heartbeat { connection: ConnectionId::new(), at: Timestamp::now() };
        fixture.record(vec![sign]).await;
    }
    let live =
        store.connections(fixture.organisation, Some(gateway.id), true, None, 10).await.unwrap();
    assert!(live.rows.is_empty(), "{live:?}");
    let recorded =
        store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap().recorded;
    assert_eq!(ranges(&recorded), [(gateway.id, range(1, 2))]);
}

pub(crate) async fn the_peak_of_simultaneous_connections_is_known(store: &dyn Store) {
    const HOUR: Duration = Duration::from_hours(1);
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let peak = async |within| store.peak_connections(gateway.key, within).await.unwrap();
    assert_eq!(peak(HOUR).await, 0);
    // Never more than two at once, although five in total.
    let mut open = Vec::new();
    for _ in 0..5 {
        if open.len() == 2 {
            let end = closed(&gateway, open.remove(0), Reason::ClosedByGateway, None, false);
            fixture.record(vec![end]).await;
        }
        open.push(fixture.open(&gateway).await.0);
    }
    assert_eq!(peak(HOUR).await, 2);
    for id in open {
        fixture.record(vec![closed(&gateway, id, Reason::NodeLost, None, false)]).await;
    }
    assert_eq!(peak(HOUR).await, 2, "they ended a moment ago");
    assert_eq!(store.peak_connections(gateway.key, Duration::ZERO).await.unwrap(), 0);
    let other = fixture.gateway(&[]).await;
    fixture.open(&other).await;
    assert_eq!(peak(HOUR).await, 2);
}

pub(crate) async fn a_refusal_is_recorded_for_its_gateway(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (gateway, other) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    assert_eq!(gateway.last_refusal, None);
    let refusal = |code: &str, cause, address: &str| NotedRefusal {
        code: code.to_owned(),
        cause,
        address: address.to_owned(),
    };
    let cause = Some(KeyFault::Revoked);
    store.note_refusal(gateway.key, refusal("too_many_attempts", None, "192.0.2.7"));
    // A record is skipped while the writer is busy, so it is repeated.
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    let noted = async {
        loop {
            looks.tick().await;
            store.note_refusal(gateway.key, refusal("unauthorized", cause, "2001:db8::7"));
            let noted = fixture.again(&gateway).await.last_refusal;
            if let Some(noted) = noted.filter(|noted| noted.code == "unauthorized") {
                return noted;
            }
        }
    };
    let noted = tokio::time::timeout(TEST_TIMEOUT, noted).await.expect("noted in time");
    assert_eq!((noted.address.as_str(), noted.cause), ("2001:db8::7", cause));
    assert!(Timestamp::now().since(noted.at) < Duration::from_mins(1));
    assert_eq!(fixture.again(&other).await.last_refusal, None);
}

pub(crate) async fn an_unused_opening_is_not_counted_as_a_replica(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 9).await;
    // Both in one batch, behind others that keep the writer at work.
    let (unused, used) = (connection(&gateway), connection(&gateway));
    let busy = futures_util::future::join_all((0..20).map(|_| fixture.gateway(&[])));
    let (opened, also, _) = futures_util::join!(
        store.open_connection(unused.clone()),
        store.open_connection(used.clone()),
        busy
    );
    assert_eq!((opened.unwrap().position, also.unwrap().position), (Sequence(0), Sequence(0)));
    fixture.record(vec![unused.unused(Timestamp::now())]).await;
    let mut id = used.id;
    for (first, last) in [(1, 4), (1, 6), (7, 9)] {
        fixture.record(vec![confirmed(&gateway, id, first, last)]).await;
        fixture.record(vec![closed(&gateway, id, Reason::ConnectionLost, None, false)]).await;
        let (next, position, _) = fixture.open(&gateway).await;
        // The first one to reconnect may be the one for which the unused connection was opened.
        assert!(last == 4 || position == Sequence(last), "{position:?} instead of {last}");
        id = next;
    }
}
