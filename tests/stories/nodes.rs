//! Several nodes on one database, by their stores.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_events::event::{EventId, NodeId, Reason, Sequence};
use gateway_events::store::postgres::{PostgresStore, verify};
use gateway_events::store::{
    Connections as _, Gateway, Health as _, Log as _, Maintenance as _, Nodes as _, Publish,
    Reaped, Reaping, RetentionLimits, Store, StoreError, Target, TrimMark, UndeliveredRange,
};
use gateway_events::wake::Wake;

use crate::conformance::{Fixture, closed, confirmed, event, event_with, keep_all, range};
use crate::server::Database;
use crate::store_postgres::{open, options};
use crate::support::TEST_TIMEOUT;

/// Longer than a test.
const GRACE: Duration = Duration::from_hours(1);

async fn two() -> (Arc<PostgresStore>, Arc<PostgresStore>, Database) {
    let database = Database::new();
    let (first, second) = tokio::join!(open(&database), open(&database));
    (first.unwrap(), second.unwrap(), database)
}

/// Stops all nodes and verifies the database.
async fn end(nodes: &[&PostgresStore], database: &Database) {
    for node in nodes {
        node.close().await;
    }
    let report = verify(&options(database)).await.unwrap();
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

#[tokio::test]
async fn nodes_that_append_to_the_same_gateways_leave_no_gap_and_never_deadlock() {
    const ROUNDS: usize = 40;
    let (first, second, database) = two().await;
    let (here, there) = (Fixture::of(first.as_ref()).await, Fixture::of(second.as_ref()).await);
    let mut forward = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..5 {
        let gateway = here.gateway(&[]).await;
        forward.push(gateway.id);
        keys.push(gateway.key);
    }
    // The other node targets the same gateways in the opposite order.
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    let requests = (0..ROUNDS).flat_map(|_| [(here, &forward), (there, &backward)]);
    join_all(requests.map(|(fixture, ids)| async move {
        let mut events: Vec<_> = ids.iter().map(|id| event(Target::Gateways(vec![*id]))).collect();
        events.push(event(Target::Gateways(ids.clone())));
        assert!(fixture.publish(events).await.iter().all(Result::is_ok));
    }))
    .await;
    let expected: Vec<i64> = (1..=i64::try_from(ROUNDS * 2 * 2).unwrap()).collect();
    for key in keys {
        let page = second.read(key, Sequence::ZERO, 1000, usize::MAX).await.unwrap();
        let numbers: Vec<_> = page.rows.iter().map(|row| row.sequence.0).collect();
        assert_eq!(numbers, expected);
    }
    end(&[&first, &second], &database).await;
}

#[tokio::test]
async fn a_request_that_reaches_two_nodes_at_once_is_appended_once() {
    let (first, second, database) = two().await;
    let (here, there) = (Fixture::of(first.as_ref()).await, Fixture::of(second.as_ref()).await);
    let gateway = here.gateway(&[]).await;
    for round in 0..20 {
        let mut events: Vec<_> =
            (0..4).map(|_| event(Target::Gateways(vec![gateway.id]))).collect();
        let same = events.clone();
        // Without a gateway, there is no stream whose lock would serialise them.
        events.reverse();
        let key = format!("key-{round}");
        let (one, other) = tokio::join!(here.publish(same), there.publish(events));
        let mut other = other;
        other.reverse();
        assert_eq!(one, other, "the same ids");
        let request = || vec![event(Target::Gateways(vec![gateway.id])), event(Target::All)];
        let (one, other) = tokio::join!(
            here.publish_with(request(), Some((&key, [7; 32]))),
            there.publish_with(request(), Some((&key, [7; 32]))),
        );
        assert_eq!(one.unwrap(), other.unwrap(), "the same key");
    }
    assert_eq!(here.again(&gateway).await.head, Sequence(20 * (4 + 2)));
    end(&[&first, &second], &database).await;
}

#[tokio::test]
async fn an_event_without_gateways_that_reaches_two_nodes_at_once_is_stored_once() {
    let (first, second, database) = two().await;
    let (here, there) = (Fixture::of(first.as_ref()).await, Fixture::of(second.as_ref()).await);
    // There is no stream whose lock would serialise them; only their ids conflict.
    let unmatched = || Target::Labels([("story".to_owned(), "unmatched".to_owned())].into());
    for _ in 0..20 {
        let events: Vec<_> = (0..8).map(|_| event(unmatched())).collect();
        let reversed: Vec<_> = events.iter().rev().cloned().collect();
        let (one, mut other) = tokio::join!(here.publish(events), there.publish(reversed));
        other.reverse();
        assert_eq!(one, other);
    }
    end(&[&first, &second], &database).await;
}

#[tokio::test]
async fn connections_of_a_dead_node_are_closed_and_those_of_a_live_one_are_not() {
    let (first, second, database) = two().await;
    let (here, there) = (Fixture::of(first.as_ref()).await, Fixture::of(second.as_ref()).await);
    let gateway = here.gateway(&[]).await;
    here.fill(&gateway, 5).await;
    let (lost, _, _) = here.open(&gateway).await;
    let (alive, _, _) = there.open(&gateway).await;
    here.record(vec![confirmed(&gateway, lost, 1, 3)]).await;
    let alone = here.gateway(&[]).await;
    here.fill(&alone, 2).await;
    let (lost_too, _, _) = here.open(&alone).await;
    assert_eq!(second.reap_dead_nodes().await.unwrap(), Reaping::default(), "both live");
    // By the database's clock, its last heartbeat was a minute ago.
    let silent = format!(
        "update nodes set heartbeat_at = heartbeat_at - interval '1 minute' where id = '{}'",
        first.node()
    );
    database.run(&silent);
    let reaped = [(gateway.id, lost), (alone.id, lost_too)]
        .map(|(gateway_id, connection_id)| Reaped { gateway_id, connection_id });
    let reaping = Reaping { nodes: vec![first.node()], connections: reaped.to_vec() };
    assert_eq!(second.reap_dead_nodes().await.unwrap(), reaping);
    assert_eq!(second.reap_dead_nodes().await.unwrap(), Reaping::default());
    let all = second
        .connections(there.organisation, Some(gateway.id), false, None, 10)
        .await
        .unwrap()
        .rows;
    let reasons: BTreeSet<_> = all.iter().map(|it| (it.connection_id, it.close_reason)).collect();
    assert_eq!(reasons, BTreeSet::from([(lost, Some(Reason::NodeLost)), (alive, None)]));
    // A gateway whose only connection was the dead node's has time to reconnect.
    let swept = second.sweep_not_connected(None, GRACE).await.unwrap();
    assert_eq!((swept.recorded.len(), swept.postponed.len()), (0, 1), "{swept:?}");
    // It was only slow: a late receipt still counts, and its end changes nothing.
    here.record(vec![
        confirmed(&gateway, lost, 4, 4),
        closed(&gateway, lost, Reason::ConnectionLost, Some(range(5, 5)), false),
    ])
    .await;
    assert_eq!(here.again(&gateway).await.confirmed, Sequence(4));
    let (_, position, _) = there.open(&gateway).await;
    assert_eq!(position, Sequence::ZERO, "the living one has confirmed nothing yet");
    end(&[&first, &second], &database).await;
}

#[tokio::test]
async fn an_orphaned_cursor_is_taken_over_by_one_connection_on_any_node() {
    let (first, second, database) = two().await;
    let (here, there) = (Fixture::of(first.as_ref()).await, Fixture::of(second.as_ref()).await);
    for _ in 0..10 {
        let gateway = here.gateway(&[]).await;
        here.fill(&gateway, 9).await;
        let ((slow, _, _), (fast, _, _)) = (here.open(&gateway).await, there.open(&gateway).await);
        here.record(vec![
            confirmed(&gateway, slow, 1, 2),
            confirmed(&gateway, fast, 1, 5),
            closed(&gateway, slow, Reason::Shutdown, None, false),
            closed(&gateway, fast, Reason::Shutdown, None, false),
        ])
        .await;
        let ((one, at, _), (other, too, _)) =
            tokio::join!(here.open(&gateway), there.open(&gateway));
        assert_eq!((at, too), (Sequence(2), Sequence(2)), "the lowest of those left and live");
        here.record(vec![confirmed(&gateway, one, 3, 9)]).await;
        there.record(vec![confirmed(&gateway, other, 3, 9)]).await;
        // If both had taken over the same one, the other would still exist.
        assert_eq!(here.open(&gateway).await.1, Sequence(9));
    }
    end(&[&first, &second], &database).await;
}

/// Sweeps; returns how many deliveries were recorded as failed.
async fn sweep(store: &dyn Store, gateway: &Gateway) -> i64 {
    let recorded =
        store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap().recorded;
    recorded.iter().map(|UndeliveredRange { range, .. }| range.last.0 - range.first.0 + 1).sum()
}

#[tokio::test]
async fn retention_and_the_sweep_run_on_any_node_while_others_append() {
    let (first, second, database) = two().await;
    let (here, there) = (Fixture::of(first.as_ref()).await, Fixture::of(second.as_ref()).await);
    let gateway = here.gateway(&[]).await;
    let limits = RetentionLimits { hard_max_events: 20, batch: 7, ..keep_all() };
    let housekeeping = async |node: Arc<PostgresStore>| {
        let (mut counts, mut mark) = ((0, 0), TrimMark::default());
        for _ in 0..30 {
            counts.0 += sweep(node.as_ref(), &gateway).await;
            counts.1 += node.trim(&limits, &mut mark).await.unwrap().deliveries;
        }
        counts
    };
    let appending = join_all((0..40).map(|nth| {
        let (fixture, gateway) = (if nth % 2 == 0 { here } else { there }, gateway.clone());
        async move { fixture.fill(&gateway, 5).await }
    }));
    let (_, one, other) = tokio::join!(
        appending,
        housekeeping(Arc::clone(&first)),
        housekeeping(Arc::clone(&second)),
    );
    let swept = one.0 + other.0 + sweep(second.as_ref(), &gateway).await;
    let mut trimmed = one.1 + other.1;
    let mut mark = TrimMark::default();
    loop {
        let batch = first.trim(&limits, &mut mark).await.unwrap();
        trimmed += batch.deliveries;
        if !batch.more {
            break;
        }
    }
    assert_eq!(trimmed, 180);
    // What retention removed first was recorded as lost, and is not swept any more.
    assert!(swept <= 200, "{swept} deliveries were recorded more than once");
    assert_eq!(here.again(&gateway).await.floor, Sequence(180));
    end(&[&first, &second], &database).await;
}

#[tokio::test]
async fn an_append_on_one_node_wakes_lanes_on_another() {
    let database = Database::new();
    let wake = Wake::default();
    let first = open(&database).await.unwrap();
    let second =
        PostgresStore::open(&options(&database), NodeId::new(), wake.clone()).await.unwrap();
    let fixture = Fixture::of(first.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    let mut listening = wake.subscribe(gateway.key);
    for round in 1..=20 {
        if round == 10 {
            // LISTEN is unavailable for a moment; polling continues.
            database.run(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and query ilike 'listen %'",
            );
        }
        fixture.fill(&gateway, 1).await;
        let reached = listening.state.wait_for(|state| state.head == Sequence(round));
        tokio::time::timeout(TEST_TIMEOUT, reached).await.expect("it is notified in time").unwrap();
    }
    end(&[&first, &second], &database).await;
}

#[tokio::test]
async fn a_lost_database_fails_requests_and_not_the_node() {
    let database = Database::new();
    let node = open(&database).await.unwrap();
    let fixture = Fixture::of(node.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    let mut accepted = 0;
    for _ in 0..10 {
        // All sessions of the node end at once.
        database.run(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        );
        let publish = || Publish {
            organisation: fixture.organisation,
            events: vec![Ok(event(Target::Gateways(vec![gateway.id])))],
            idempotency: None,
        };
        let mut tries = 0;
        loop {
            match node.append(publish()).await {
                Ok(_) => break,
                Err(StoreError::Unavailable(_) | StoreError::ConnectionLost(_)) => tries += 1,
                Err(other) => panic!("{other}"),
            }
            assert!(tries < 100, "it never came back");
            tokio::task::yield_now().await;
        }
        accepted += 1;
        assert_eq!(fixture.again(&gateway).await.head, Sequence(accepted));
    }
    end(&[&node], &database).await;
}

#[tokio::test]
async fn a_failed_commit_has_an_unknown_outcome_and_ends_nothing_else() {
    let database = Database::new();
    let node = open(&database).await.unwrap();
    let fixture = Fixture::of(node.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    // The session ends between the last statement and the end of the commit.
    database.run(
        "create function die() returns trigger language plpgsql as $$
         begin perform pg_terminate_backend(pg_backend_pid()), pg_sleep(10); return null; end $$;
         create constraint trigger die after insert on events
         deferrable initially deferred for each row when (new.id like 'doomed%')
         execute function die()",
    );
    let doomed =
        event_with(EventId::new("doomed-1").unwrap(), Target::Gateways(vec![gateway.id]), "{}");
    let publish = || Publish {
        organisation: fixture.organisation,
        events: vec![Ok(doomed.clone())],
        idempotency: None,
    };
    let failed = node.append(publish()).await;
    assert!(matches!(failed, Err(StoreError::Unknown(_))), "{failed:?}");
    node.check().await.unwrap();
    fixture.fill(&gateway, 1).await;
    database.run("drop trigger die on events");
    // The retry that the error asks of the publisher.
    let answers = fixture.publish(vec![doomed.clone()]).await;
    assert_eq!(answers[0].as_ref().unwrap().deliveries[0].sequence, Sequence(2));
    end(&[&node], &database).await;
}
