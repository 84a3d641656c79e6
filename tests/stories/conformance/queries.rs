//! Queries, redrives, and the limits of requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, GatewayId, Reason, Sequence};
use gateway_events::store::{
    DeliveryFilter, DeliveryState, Fleet, GatewayChange, GatewayLag, Idempotency, Level, LogSpan,
    NewToken, Publish, Published, Record, RedriveSelection, Redriven, ReportedFailure, ResumeFrom,
    Scope, Store, StoreError, Target, TokenKind, VerdictState,
};

use crate::support::TEST_TIMEOUT;

use super::{Fixture, Gateway, closed, confirmed, event, event_with, performed, range};

impl Fixture<'_> {
    /// Dead-letters a whole range.
    pub(super) async fn give_up(&self, gateway: &Gateway, first: i64, last: i64) {
        let (connection, _, _) = self.open(gateway).await;
        self.record(vec![
            Record::Skipped {
                gateway: gateway.key,
                connection,
                instance: "".into(),
                range: range(first, last),
                reason: Reason::Expired,
                advance_to: None,
                at: Timestamp::now(),
            },
            closed(gateway, connection, Reason::ClosedByGateway, None, false),
        ])
        .await;
    }

    /// Redrives a gateway's dead letters with as many calls as needed.
    pub(super) async fn redrive_all(&self, gateway: &Gateway, dry_run: bool) -> Vec<Redriven> {
        let filter = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
        let (mut calls, mut next) = (Vec::new(), None);
        loop {
            let selection = RedriveSelection::Filter(filter.clone(), next);
            let done = self.store.redrive(&self.actor(), selection, dry_run).await.unwrap();
            assert_eq!(done.more, done.next.is_some());
            next = done.next;
            calls.push(done);
            if next.is_none() {
                return calls;
            }
        }
    }
}

pub(crate) async fn a_redrive_continues_where_it_stopped_oldest_first(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 2300).await;
    fixture.give_up(&gateway, 1, 2300).await;
    let old = |calls: &[Redriven]| -> Vec<i64> {
        calls.iter().flat_map(|call| &call.redriven).map(|one| one.sequence.0).collect()
    };
    let dry = fixture.redrive_all(&gateway, true).await;
    assert_eq!(old(&dry), (1..=2300).collect::<Vec<_>>());
    assert!(dry.iter().flat_map(|call| &call.redriven).all(|one| one.new_sequence.is_none()));
    assert_eq!(fixture.again(&gateway).await.head, Sequence(2300), "a dry run changes nothing");
    let done = fixture.redrive_all(&gateway, false).await;
    assert!(done.len() > 2, "a call is bounded");
    assert_eq!(old(&done), (1..=2300).collect::<Vec<_>>());
    let new = done.iter().flat_map(|call| &call.redriven).map(|one| one.new_sequence);
    assert_eq!(
        new.collect::<Vec<_>>(),
        (2301..=4600).map(|new| Some(Sequence(new))).collect::<Vec<_>>()
    );
    let again = fixture.redrive_all(&gateway, false).await;
    assert!(old(&again).is_empty());
}

pub(crate) async fn expired_events_are_counted_and_not_redriven(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let mut expired = event(Target::Gateways(vec![gateway.id]));
    let mut fields = expired.event.as_ref().clone();
    fields.expires_at = Some(Timestamp::now());
    expired.event = Arc::new(fields);
    fixture.publish(vec![expired, event(Target::Gateways(vec![gateway.id]))]).await;
    fixture.give_up(&gateway, 1, 2).await;
    let done = fixture.redrive_all(&gateway, false).await;
    assert_eq!((done[0].expired, done[0].redriven.len()), (1, 1));
    assert_eq!(done[0].redriven[0].sequence, Sequence(2));
    let one = RedriveSelection::One(gateway.id, Sequence(1));
    let done = store.redrive(&fixture.actor(), one, false).await.unwrap();
    assert_eq!((done.expired, done.redriven.len()), (1, 0));
    assert_eq!(fixture.again(&gateway).await.head, Sequence(3));
}

pub(crate) async fn concurrent_redrives_append_each_delivery_once(store: &dyn Store) {
    let fixture = &Fixture::of(store).await;
    let gateway = &fixture.gateway(&[]).await;
    fixture.fill(gateway, 50).await;
    fixture.give_up(gateway, 1, 50).await;
    let redrives = (0..4).map(|_| fixture.redrive_all(gateway, false));
    let calls = futures_util::future::join_all(redrives).await;
    let done: Vec<_> = calls.iter().flatten().flat_map(|call| &call.redriven).collect();
    let sequences: BTreeSet<_> = done.iter().map(|one| one.sequence).collect();
    assert_eq!((done.len(), sequences.len()), (50, 50));
    assert_eq!(fixture.again(gateway).await.head, Sequence(100));
}

pub(crate) async fn connections_are_paged_newest_first(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let mut opened = Vec::new();
    for nth in 0..7 {
        let (id, _, _) = fixture.open(&gateway).await;
        if nth < 5 {
            fixture.record(vec![closed(&gateway, id, Reason::ClosedByGateway, None, false)]).await;
        }
        opened.push(id);
    }
    opened.reverse();
    for (live_only, expected) in [(false, &opened[..]), (true, &opened[..2])] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let of = Some(gateway.id);
            let page = store.connections(fixture.organisation, of, live_only, after, 2).await;
            let page = page.unwrap();
            assert!(page.rows.len() <= 2);
            found.extend(page.rows.iter().map(|row| row.connection_id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected);
    }
}

pub(crate) async fn a_tokens_use_is_recorded_at_most_once_a_minute(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let id = uuid::Uuid::now_v7().simple().to_string();
    let token = NewToken { id: id.clone(), digest: [3; 32], expires_at: None };
    store.create_access_token(&fixture.actor(), "t", &[Scope::Read], token).await.unwrap();
    let last_used = async || {
        // A write after the one under test: with a single writing connection, it runs after it.
        store.node_heartbeat().await.unwrap();
        store.access_credential(&id).await.unwrap().unwrap().last_used_at
    };
    assert_eq!(last_used().await, None);
    assert_eq!(last_used().await, None, "looking it up is no use");
    store.note_use(TokenKind::Access, &id, None);
    // There is no notification of the write, so the test polls.
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let noted = async {
        loop {
            looks.tick().await;
            if let noted @ Some(_) = last_used().await {
                return noted;
            }
        }
    };
    let noted = tokio::time::timeout(TEST_TIMEOUT, noted).await.expect("noted in time");
    store.note_use(TokenKind::Access, &id, noted);
    assert_eq!(last_used().await, noted, "once a minute");
}

pub(crate) async fn the_deliveries_of_a_request_are_limited(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let mut gateways = Vec::new();
    for _ in 0..21 {
        gateways.push(fixture.gateway(&[]).await);
    }
    let ids: Vec<_> = gateways.iter().map(|gateway| gateway.id).collect();
    let publish = |gateways: usize| Publish {
        organisation: fixture.organisation,
        events: (0..1000).map(|_| Ok(event(Target::Gateways(ids[..gateways].to_vec())))).collect(),
        idempotency: Some(Idempotency { key: ids[0].to_string(), digest: [9; 32] }),
    };
    let refused = store.append(publish(21)).await.unwrap();
    assert!(matches!(refused, Published::TooMany { deliveries: 21_000, .. }), "{refused:?}");
    assert_eq!(fixture.again(&gateways[0]).await.head, Sequence::ZERO, "nothing was stored");
    // The refusal is not stored under the key. A request within the limit is accepted as a whole.
    let Published::Done(answers) = store.append(publish(20)).await.unwrap() else {
        panic!("it fits");
    };
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(fixture.again(&gateways[19]).await.head, Sequence(1000));
    assert_eq!(fixture.again(&gateways[20]).await.head, Sequence::ZERO);
}

pub(crate) async fn concurrent_large_requests_are_each_appended_as_a_whole(store: &dyn Store) {
    let fixture = &Fixture::of(store).await;
    let mut gateways = Vec::new();
    for _ in 0..12 {
        gateways.push(fixture.gateway(&[]).await);
    }
    let ids: Vec<_> = gateways.iter().map(|gateway| gateway.id).collect();
    let publish = async || {
        let events = (0..600).map(|_| event(Target::Gateways(ids.clone()))).collect();
        fixture.publish(events).await
    };
    let requests = (0..4).map(|_| publish());
    for answers in futures_util::future::join_all(requests).await {
        let numbers: Vec<i64> = answers
            .iter()
            .map(|answer| answer.as_ref().unwrap().deliveries[0].sequence.0)
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "in one piece");
    }
    for gateway in &gateways {
        assert_eq!(fixture.again(gateway).await.head, Sequence(2400));
    }
}

/// Publishes an event with a payload of more than this many bytes, to no gateway.
pub(crate) async fn publish_sized(store: &dyn Store, bytes: usize) -> Result<(), StoreError> {
    let organisation = store.organisation("default").await?;
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(bytes));
    let id = EventId::new(uuid::Uuid::now_v7().to_string()).unwrap();
    let events = vec![Ok(event_with(id, Target::Gateways(Vec::new()), &payload))];
    store.append(Publish { organisation, events, idempotency: None }).await.map(drop)
}

pub(crate) async fn a_redrive_counts_everything_that_it_skips(store: &dyn Store) {
    const EVENTS: i64 = 7_000;
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    for _ in 0..7 {
        fixture.fill(&gateway, 1_000).await;
    }
    store.sweep_not_connected(Some(&[gateway.key]), Duration::ZERO).await.unwrap();
    let (id, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, id, 1, EVENTS - 10)]).await;
    for dry_run in [true, false] {
        let calls = fixture.redrive_all(&gateway, dry_run).await;
        let (delivered, pending) =
            calls.iter().fold((0, 0), |(sum, rest), it| (sum + it.delivered, rest + it.pending));
        assert_eq!((delivered, pending), (EVENTS - 10, 10), "in {} calls", calls.len());
    }
}

pub(crate) async fn a_redriven_delivery_shows_its_newest_redrive_and_its_state(store: &dyn Store) {
    use DeliveryState::{Delivered, Failed, Pending};
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 4).await;
    let (connection, _, _) = fixture.open(&gateway).await;
    let failed = |sequence| Record::Reported {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        sequence: Sequence(sequence),
        result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    let stands = async || {
        let filter = DeliveryFilter { gateway_id: Some(gateway.id), ..DeliveryFilter::default() };
        let page = store.failed_deliveries(fixture.organisation, &filter, None, 10).await.unwrap();
        let mut rows: Vec<_> = page
            .rows
            .into_iter()
            .map(|row| {
                let newest = row.redriven_as.map(|it| (it.sequence.0, it.state));
                (row.sequence.0, newest, row.delivered_since)
            })
            .collect();
        rows.sort_by_key(|row| row.0);
        rows
    };
    // Two adjacent ones and a separate one become 5, 6 and 7.
    fixture.record(vec![failed(1), failed(2), failed(4)]).await;
    fixture.redrive_all(&gateway, false).await;
    let expected = [(1, 5, Pending), (2, 6, Pending), (4, 7, Pending)];
    assert_eq!(stands().await, expected.map(|(old, new, state)| (old, Some((new, state)), false)));
    fixture.record(vec![confirmed(&gateway, connection, 1, 5), failed(6)]).await;
    let expected = [
        (1, Some((5, Delivered)), true),
        (2, Some((6, Failed)), false),
        (4, Some((7, Pending)), false),
        (6, None, false),
    ];
    assert_eq!(stands().await, expected);
    // A redrive of the redrive, 8, determines the state of both.
    fixture.redrive_all(&gateway, false).await;
    fixture.record(vec![confirmed(&gateway, connection, 6, 8)]).await;
    let expected = [(1, 5), (2, 8), (4, 7), (6, 8)];
    assert_eq!(stands().await, expected.map(|(old, new)| (old, Some((new, Delivered)), true)));
}

pub(crate) async fn a_closed_connection_keeps_the_position_that_it_had(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 6).await;
    let (first, _, _) = fixture.open(&gateway).await;
    let end = closed(&gateway, first, Reason::ClosedByGateway, None, false);
    fixture.record(vec![confirmed(&gateway, first, 1, 2), end]).await;
    // It takes over the first one's position, and is closed because of the poison event 5.
    let (second, _, _) = fixture.open(&gateway).await;
    let end = closed(&gateway, second, Reason::ConnectionLost, Some(range(5, 5)), true);
    fixture.record(vec![confirmed(&gateway, second, 3, 4), end]).await;
    let (third, _, _) = fixture.open(&gateway).await;
    fixture.record(vec![confirmed(&gateway, third, 6, 6)]).await;
    let of = Some(gateway.id);
    let page = store.connections(fixture.organisation, of, false, None, 10).await.unwrap();
    let shown: Vec<_> = page.rows.iter().map(|row| (row.connection_id, row.confirmed.0)).collect();
    assert_eq!(shown, [(third, 6), (second, 5), (first, 2)]);
}

pub(crate) async fn a_gateway_is_failing_from_its_first_failed_report_until_a_success_or_a_redrive(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 9).await;
    let (connection, _, _) = fixture.open(&gateway).await;
    let reported = |sequence, result| Record::Reported {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        sequence: Sequence(sequence),
        result,
        confirms: None,
        at: Timestamp::now(),
    };
    let failed =
        |sequence, reason| reported(sequence, Err(ReportedFailure::new(reason, String::new())));
    let reports = async || {
        let verdict = fixture.again(&gateway).await.verdict();
        let is_failing = verdict.state == VerdictState::Failing;
        is_failing.then(|| (verdict.reason.unwrap().into_owned(), verdict.failures))
    };
    fixture.record(vec![confirmed(&gateway, connection, 1, 9)]).await;
    assert_eq!(reports().await, None, "receipts alone are no failure");
    fixture.record(vec![reported(2, Ok(())), failed(1, Reason::ApplyFailed)]).await;
    assert_eq!(reports().await, None, "a late report about an older event changes nothing");
    fixture.record(vec![failed(3, Reason::ApplyFailed)]).await;
    let since = fixture.again(&gateway).await.verdict().since;
    fixture.record(vec![failed(4, Reason::GatewayProcessingError)]).await;
    assert_eq!(reports().await, Some(("gateway_processing_error".to_owned(), 2)));
    assert_eq!(fixture.again(&gateway).await.verdict().since, since);
    fixture.record(vec![reported(3, Ok(()))]).await;
    assert_eq!(
        reports().await,
        Some(("gateway_processing_error".to_owned(), 2)),
        "an older success"
    );
    fixture.record(vec![reported(5, Ok(()))]).await;
    assert_eq!(reports().await, None);
    fixture.record(vec![failed(6, Reason::ApplyFailed)]).await;
    assert_eq!(reports().await, Some(("apply_failed".to_owned(), 1)));
    let newest = RedriveSelection::One(gateway.id, Sequence(6));
    store.redrive(&fixture.actor(), newest, false).await.unwrap();
    assert_eq!(reports().await, None, "its redrive, 10, is pending");
    assert_eq!(fixture.again(&gateway).await.pending, 1);
    fixture.record(vec![failed(10, Reason::ApplyFailed)]).await;
    assert_eq!(reports().await, Some(("apply_failed".to_owned(), 1)));
}

pub(crate) async fn a_gateway_is_failing_until_an_event_of_the_same_type_is_applied(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let failures = async |gateway: &Gateway| fixture.again(gateway).await.verdict().failures;
    // Reports on single deployments, whose types alternate.
    let gateway = fixture.gateway(&[]).await;
    let suffixes = ["deployed", "undeployed", "deployed", "undeployed", "deployed"];
    let events = suffixes.iter().enumerate();
    let events = events.map(|(nth, suffix)| performed(&gateway, nth, suffix, None)).collect();
    assert!(fixture.publish(events).await.iter().all(Result::is_ok));
    let (connection, _, _) = fixture.open(&gateway).await;
    let reported = |sequence, result: Result<(), Reason>| Record::Reported {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        sequence: Sequence(sequence),
        result: result.map_err(|reason| ReportedFailure::new(reason, String::new())),
        confirms: Some(Sequence(sequence)),
        at: Timestamp::now(),
    };
    for (sequence, result, count) in [
        (1, Err(Reason::ApplyFailed), 1),
        (2, Ok(()), 1),
        (3, Err(Reason::ApplyFailed), 2),
        (4, Ok(()), 2),
        (5, Ok(()), 0),
    ] {
        fixture.record(vec![reported(sequence, result)]).await;
        assert_eq!(failures(&gateway).await, count, "after the report on {sequence}");
    }

    // Cumulative acknowledgements.
    let gateway = fixture.gateway(&[]).await;
    let suffix = |number: usize| if [1, 7].contains(&number) { "deployed" } else { "undeployed" };
    let events = (1..=9).map(|number| performed(&gateway, number, suffix(number), None));
    assert!(fixture.publish(events.collect()).await.iter().all(Result::is_ok));
    let east = fixture.open_as(&gateway, "east", Level::Applied, ResumeFrom::Server).await;
    fixture.record(vec![east.rejected(1)]).await;
    assert_eq!(failures(&gateway).await, 1);
    for (first, last, count) in [(2, 3, 1), (4, 6, 1), (7, 8, 0), (9, 9, 0)] {
        fixture.record(vec![east.confirmed(first, last)]).await;
        assert_eq!(failures(&gateway).await, count, "after {first} to {last}");
    }
}

pub(crate) async fn a_log_is_read_in_pages_with_states(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let read = async |after: i64, limit: usize, max_bytes: usize| {
        let span = LogSpan { after: Sequence(after), limit, max_bytes };
        let page = store.gateway_log(fixture.organisation, gateway.id, span).await.unwrap();
        page.expect("the gateway is there")
    };
    assert!(read(0, 10, 1_000_000).await.rows.is_empty());
    fixture.fill(&gateway, 100).await;
    fixture.give_up(&gateway, 40, 41).await;
    let page = read(0, 1000, 1_000_000).await;
    assert_eq!((page.gateway.head, page.rows.len()), (Sequence(100), 100));
    for (number, row) in (1..).zip(&page.rows) {
        assert_eq!(row.sequence, Sequence(number));
        let is_dead = (40..=41).contains(&number);
        assert_eq!(row.state == DeliveryState::Failed, is_dead, "{number}");
    }
    for (after, limit) in [(0, 1), (0, 8), (7, 9), (90, 9), (90, 100), (100, 5)] {
        let rows = read(after, limit, 1_000_000).await.rows;
        let numbers: Vec<i64> = rows.iter().map(|row| row.sequence.0).collect();
        let wanted: Vec<i64> = (after + 1..=100).take(limit).collect();
        assert_eq!(numbers, wanted, "after {after}, at most {limit}");
    }
    // However few bytes are requested, a page has a row; whatever the number of rows, it has about
    // as many bytes as were requested.
    assert_eq!(read(0, 50, 0).await.rows.len(), 1);
    let size = page.rows[0].event.payload.get().len();
    let few = read(0, 100, 20 * size).await.rows.len();
    assert!((10..=22).contains(&few), "{few} rows of {size} bytes");
    assert!(read(i64::from(u32::MAX), 5, 100).await.rows.is_empty());
    let span = LogSpan { after: Sequence::ZERO, limit: 1, max_bytes: 1 };
    let unknown = store.gateway_log(fixture.organisation, GatewayId::new(), span).await.unwrap();
    assert!(unknown.is_none());
}

pub(crate) async fn gateways_are_counted_by_state_with_those_furthest_behind(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let mut gateways = Vec::new();
    for events in [3, 5, 2, 1, 9] {
        let gateway = fixture.gateway(&[]).await;
        fixture.fill(&gateway, events).await;
        gateways.push(gateway);
    }
    let [one, two, three, disabled, deleted] = &gateways[..] else { unreachable!() };
    let (id, ..) = fixture.open(one).await;
    fixture.record(vec![confirmed(one, id, 1, 2)]).await;
    fixture.give_up(two, 5, 5).await;
    let change = GatewayChange { disabled: Some(true), ..GatewayChange::default() };
    store.update_gateway(&fixture.actor(), disabled.id, change).await.unwrap();
    store.delete_gateway(&fixture.actor(), deleted.id).await.unwrap();
    let lag = |gateway: &Gateway, events: u64| GatewayLag {
        id: gateway.id,
        name: gateway.name.clone(),
        events,
        age: Duration::ZERO,
    };
    let counted = Fleet {
        connected: 1,
        away: 2,
        disabled: 1,
        failing: 0,
        pending: 9,
        dead_letters: 1,
        furthest_behind: vec![lag(two, 5), lag(three, 2)],
    };
    let mut fleet = store.fleet(2).await.unwrap();
    // Two's last event was given up; the others are pending.
    for lag in &mut fleet.furthest_behind {
        assert!(lag.age > Duration::ZERO, "{lag:?}");
        lag.age = Duration::ZERO;
    }
    assert_eq!(fleet, counted);
    let all = store.fleet(100).await.unwrap().furthest_behind;
    let lags: Vec<u64> = all.iter().map(|lag| lag.events).collect();
    assert_eq!(lags, [5, 2, 1, 1]);
    assert_eq!(store.fleet(0).await.unwrap(), Fleet { furthest_behind: Vec::new(), ..counted });
}
