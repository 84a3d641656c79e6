//! The rows that the feed reads.

use gateway_events::event::{EventType, Reason};
use gateway_events::store::{FeedDetails, FeedRows, FeedSpans, Outcome, Store, Target};

use super::{Fixture, closed, confirmed, event, range};

async fn since(store: &dyn Store, ends: (i64, i64, i64), details: &FeedDetails) -> FeedRows {
    let above = |key: i64| vec![key + 1..=i64::MAX];
    let spans = FeedSpans {
        events: above(ends.0),
        attempts: above(ends.1),
        connections: above(ends.2),
        limit: 100,
    };
    store.feed_rows(&spans, details).await.unwrap()
}

pub(crate) async fn the_feed_has_events_attempts_and_changes_of_connections(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (one, other) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    let ends = store.feed_ends().await.unwrap();
    let from = (ends.events, ends.attempts, ends.connections);
    let (both, single) =
        (event(Target::Gateways(vec![one.id, other.id])), event(Target::Gateways(vec![one.id])));
    let ids = [both.event.id.clone(), single.event.id.clone()];
    fixture.publish(vec![both, single]).await;
    let (connection, ..) = fixture.open(&one).await;
    fixture.record(vec![confirmed(&one, connection, 1, 1)]).await;
    fixture
        .record(vec![closed(&one, connection, Reason::ConnectionLost, Some(range(2, 2)), false)])
        .await;

    let details = FeedDetails { gateways: vec![other.id], types: true };
    let rows = since(store, from, &details).await;
    let events: Vec<_> = rows.events.iter().map(|row| (&row.id, row.matched)).collect();
    assert_eq!(events, [(&ids[0], Some(2)), (&ids[1], Some(1))]);
    assert_eq!(rows.events[0].gateways, [other.id]);
    assert!(rows.events[1].gateways.is_empty());
    assert!(rows.events.iter().all(|row| row.organisation == fixture.organisation));
    let outcomes: Vec<_> =
        rows.attempts.iter().map(|row| (row.first.0, row.last.0, row.outcome)).collect();
    assert_eq!(outcomes, [(1, 1, Outcome::Received), (2, 2, Outcome::Failed)]);
    assert_eq!(rows.attempts[1].reason, Some(Reason::ConnectionLost));
    assert_eq!(rows.attempts[1].event_id.as_ref(), Some(&ids[1]));
    assert_eq!(
        rows.attempts[0].types.iter().map(EventType::as_str).collect::<Vec<_>>(),
        ["api.deployed"]
    );
    let changes: Vec<_> =
        rows.connections.iter().map(|row| (row.connection, row.closed, row.reason)).collect();
    assert_eq!(
        changes,
        [(connection, false, None), (connection, true, Some(Reason::ConnectionLost))]
    );
    assert_eq!(rows.connections[0].gateway_name, one.name);
    assert_eq!(rows.connections[0].transport.as_deref(), Some("websocket"));

    // Keys ascend, and pages are bounded per span.
    let keys: Vec<i64> = rows.events.iter().map(|row| row.key).collect();
    assert!(keys.is_sorted() && keys[0] > ends.events);
    let spans = FeedSpans {
        events: vec![keys[0]..=keys[0], keys[1]..=i64::MAX],
        limit: 1,
        ..FeedSpans::default()
    };
    let rows = store.feed_rows(&spans, &FeedDetails::default()).await.unwrap();
    assert_eq!(rows.events.iter().map(|row| row.key).collect::<Vec<_>>(), keys);
    assert!(rows.attempts.is_empty() && rows.connections.is_empty());
    let now = store.feed_ends().await.unwrap();
    assert_eq!((now.events, now.connections), (keys[1], ends.connections + 2));
}
