//! What every store must do, whatever it keeps its rows in. Each story makes
//! gateways of its own and asks only through [`Store`].

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use gateway_events::clock::Timestamp;
use gateway_events::event::{
    ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId, OrganisationKey, Reason,
    Sequence,
};
use gateway_events::store::{
    Appended, Attempt, Gateway, Labels, NewConnection, NewEvent, Publish, Published, Range, Record,
    Refusal, RetentionLimits, Store, Target,
};
use serde_json::value::RawValue;

/// A story's own corner of a store.
pub(crate) struct Corner<'a> {
    store: &'a dyn Store,
    organisation: OrganisationKey,
}

impl<'a> Corner<'a> {
    async fn of(store: &'a dyn Store) -> Self {
        let organisation = store.organisation("default").await.unwrap();
        Self { store, organisation }
    }

    async fn gateway(&self, labels: &[(&str, &str)]) -> Gateway {
        let id = GatewayId::new();
        let labels: Labels =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let name = id.to_string();
        self.store.create_gateway(self.organisation, id, &name, &labels).await.unwrap()
    }

    async fn again(&self, gateway: &Gateway) -> Gateway {
        self.store.gateway(self.organisation, gateway.id).await.unwrap().unwrap()
    }

    async fn publish(&self, events: Vec<NewEvent>) -> Vec<Result<Appended, Refusal>> {
        self.publish_with(events, None).await.unwrap()
    }

    async fn publish_with(
        &self,
        events: Vec<NewEvent>,
        idempotency: Option<(&str, [u8; 32])>,
    ) -> Option<Vec<Result<Appended, Refusal>>> {
        let idempotency = idempotency.map(|(key, digest)| (key.to_owned(), digest));
        let publish = Publish { organisation: self.organisation, events, idempotency };
        match self.store.append(publish).await.unwrap() {
            Published::Done(answers) => Some(answers),
            Published::KeyReused => None,
        }
    }

    async fn fill(&self, gateway: &Gateway, count: usize) {
        let events = (0..count).map(|_| event(Target::Gateways(vec![gateway.id]))).collect();
        assert!(self.publish(events).await.iter().all(Result::is_ok));
    }

    async fn open(&self, gateway: &Gateway) -> (ConnectionId, Sequence, u32) {
        let connection = connection(gateway);
        let id = connection.id;
        let opened = self.store.open_connection(connection).await.unwrap();
        (id, opened.position, opened.failed_attempts)
    }

    async fn record(&self, records: Vec<Record>) {
        self.store.record(records).await.unwrap();
    }

    async fn attempts(&self, id: &EventId) -> Vec<Attempt> {
        let history = self.store.event_history(self.organisation, id).await.unwrap().unwrap();
        history.deliveries.into_iter().flat_map(|delivery| delivery.attempts).collect()
    }
}

fn event(target: Target) -> NewEvent {
    event_with(EventId::new(uuid::Uuid::now_v7().to_string()).unwrap(), target, "{}")
}

fn event_with(id: EventId, target: Target, payload: &str) -> NewEvent {
    let correlation_id = CorrelationId::new(id.as_str()).unwrap();
    NewEvent {
        event: Arc::new(Event {
            id,
            event_type: EventType::new("api.deployed").unwrap(),
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
            correlation_id,
            user_id: None,
            occurred_at: Timestamp::now(),
            expires_at: None,
        }),
        target,
        digest: [1; 32],
        artifact_id: None,
        deployment_id: None,
    }
}

fn connection(gateway: &Gateway) -> NewConnection {
    NewConnection {
        id: ConnectionId::new(),
        gateway: gateway.key,
        token: "token".to_owned(),
        instance: String::new(),
        transport: "websocket",
        remote_address: "192.0.2.1:4711".to_owned(),
    }
}

fn range(first: i64, last: i64) -> Range {
    Range { first: Sequence(first), last: Sequence(last) }
}

fn confirmed(gateway: &Gateway, connection: ConnectionId, first: i64, last: i64) -> Record {
    Record::Confirmed {
        gateway: gateway.key,
        connection,
        range: range(first, last),
        started_at: Timestamp::now(),
        finished_at: Timestamp::now(),
    }
}

fn closed(
    gateway: &Gateway,
    connection: ConnectionId,
    reason: Reason,
    unconfirmed: Option<Range>,
    give_up: bool,
) -> Record {
    Record::Closed {
        gateway: gateway.key,
        connection,
        reason,
        detail: "as the story wants it".to_owned(),
        unconfirmed: unconfirmed.map(|range| (range, Timestamp::now())),
        give_up,
        at: Timestamp::now(),
    }
}

/// Keeps everything, until a story says otherwise.
fn keep_all() -> RetentionLimits {
    const LONG: Duration = Duration::from_hours(1000);
    RetentionLimits {
        max_age: LONG,
        max_events: i64::MAX / 2,
        hard_max_age: LONG,
        hard_max_events: i64::MAX / 2,
        left_behind: LONG,
        batch: 10_000,
    }
}

fn ids(answers: &[Result<Appended, Refusal>]) -> Vec<EventId> {
    answers.iter().map(|answer| answer.as_ref().unwrap().id.clone()).collect()
}

// ---- append ----------------------------------------------------------------

pub(crate) async fn numbers_of_concurrent_publishers_have_no_gap_and_no_repeat(store: &dyn Store) {
    let corner = &Corner::of(store).await;
    let gateway = &corner.gateway(&[]).await;
    let publishers = (0..40).map(|_| corner.fill(gateway, 3));
    futures_util::future::join_all(publishers).await;
    let page = store.read(gateway.key, Sequence::ZERO, 1000, usize::MAX).await.unwrap();
    let numbers: Vec<_> = page.rows.iter().map(|row| row.sequence.0).collect();
    assert_eq!(numbers, (1..=120).collect::<Vec<_>>());
    assert_eq!(page.head, Sequence(120));
}

pub(crate) async fn a_repeated_id_gets_the_first_answer_and_another_content_is_refused(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    let first = event(Target::Gateways(vec![gateway.id]));
    let answers = corner.publish(vec![first.clone(), first.clone()]).await;
    assert_eq!(answers[0], answers[1], "within one request");
    assert_eq!(corner.publish(vec![first.clone()]).await[0], answers[0], "in a later one");
    let mut other = first.clone();
    other.digest = [2; 32];
    let refused = corner.publish(vec![other]).await;
    assert_eq!(refused, [Err(Refusal::IdTaken(first.event.id.clone()))]);
    assert_eq!(corner.again(&gateway).await.head, Sequence(1));
}

pub(crate) async fn a_repeated_key_gets_the_first_answer_though_part_of_it_was_refused(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    let request = || {
        vec![
            event(Target::Gateways(vec![gateway.id])),
            event(Target::Gateways(vec![GatewayId::new()])),
        ]
    };
    let key = gateway.id.to_string();
    let first = corner.publish_with(request(), Some((&key, [1; 32]))).await.unwrap();
    assert!(first[0].is_ok() && first[1].is_err());
    // The publisher left the ids to the service, so a repeat has new ones.
    let again = corner.publish_with(request(), Some((&key, [1; 32]))).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(corner.again(&gateway).await.head, Sequence(1));
    assert_eq!(corner.publish_with(request(), Some((&key, [2; 32]))).await, None);
}

pub(crate) async fn an_unknown_gateway_refuses_its_event_alone(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let (gateway, unknown) = (corner.gateway(&[]).await, GatewayId::new());
    let answers = corner
        .publish(vec![
            event(Target::Gateways(vec![gateway.id, unknown])),
            event(Target::Gateways(vec![gateway.id])),
        ])
        .await;
    assert_eq!(answers[0], Err(Refusal::UnknownGateways(vec![unknown])));
    assert_eq!(answers[1].as_ref().unwrap().deliveries[0].sequence, Sequence(1));
}

pub(crate) async fn labels_choose_gateways_and_a_deleted_one_gets_nothing(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let mark = uuid::Uuid::now_v7().to_string();
    let both = corner.gateway(&[("story", &mark), ("env", "prod")]).await;
    let _one = corner.gateway(&[("story", &mark)]).await;
    let deleted = corner.gateway(&[("story", &mark), ("env", "prod")]).await;
    store.delete_gateway(corner.organisation, deleted.id).await.unwrap();
    let labels = Labels::from([
        ("story".to_owned(), mark.clone()),
        ("env".to_owned(), "prod".to_owned()),
    ]);
    let answers = corner.publish(vec![event(Target::Labels(labels))]).await;
    let deliveries = &answers[0].as_ref().unwrap().deliveries;
    assert_eq!(deliveries.iter().map(|it| it.gateway_id).collect::<Vec<_>>(), [both.id]);
}

pub(crate) async fn payloads_keep_every_byte_and_pages_are_bounded(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    let payload = "{ \"n\":1.10e2, \"big\":12345678901234567890.50,\t\"s\":\"\\u0000é\\/\" }";
    let events = (0..5)
        .map(|_| {
            let target = Target::Gateways(vec![gateway.id]);
            event_with(EventId::new(uuid::Uuid::now_v7().to_string()).unwrap(), target, payload)
        })
        .collect();
    corner.publish(events).await;
    let page = store.read(gateway.key, Sequence(1), 100, payload.len() * 2).await.unwrap();
    assert_eq!(page.rows.len(), 2);
    assert_eq!(page.rows[0].sequence, Sequence(2));
    assert_eq!(page.rows[0].event.payload.get(), payload);
    let page = store.read(gateway.key, Sequence(1), 100, 1).await.unwrap();
    assert_eq!(page.rows.len(), 1, "one row comes, however small the bound");
    let page = store.read(gateway.key, Sequence(i64::MAX), 100, 1).await.unwrap();
    assert!(page.rows.is_empty());
}

// ---- positions -------------------------------------------------------------

pub(crate) async fn a_new_connection_starts_at_what_the_last_one_confirmed(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 5).await;
    let (first, position, _) = corner.open(&gateway).await;
    assert_eq!(position, Sequence::ZERO);
    corner.record(vec![confirmed(&gateway, first, 1, 2), confirmed(&gateway, first, 3, 3)]).await;
    corner.record(vec![closed(&gateway, first, Reason::ClosedByGateway, None, false)]).await;
    let (_, position, failed) = corner.open(&gateway).await;
    assert_eq!((position, failed), (Sequence(3), 0));
    assert_eq!(corner.again(&gateway).await.confirmed, Sequence(3));
}

pub(crate) async fn replicas_that_come_back_in_any_order_find_every_position(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 9).await;
    let (slow, _, _) = corner.open(&gateway).await;
    let (fast, _, _) = corner.open(&gateway).await;
    corner.record(vec![confirmed(&gateway, slow, 1, 2), confirmed(&gateway, fast, 1, 7)]).await;
    for id in [slow, fast] {
        corner.record(vec![closed(&gateway, id, Reason::ConnectionLost, None, false)]).await;
    }
    let (first, position, _) = corner.open(&gateway).await;
    assert_eq!(position, Sequence(2));
    corner.record(vec![confirmed(&gateway, first, 3, 9)]).await;
    let (_, position, _) = corner.open(&gateway).await;
    assert_eq!(position, Sequence(7), "the second one takes over what the fast one left");
}

pub(crate) async fn a_late_receipt_brings_no_taken_over_position_back(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 5).await;
    let (old, _, _) = corner.open(&gateway).await;
    corner.record(vec![closed(&gateway, old, Reason::ConnectionLost, None, false)]).await;
    let (new, _, _) = corner.open(&gateway).await;
    corner.record(vec![confirmed(&gateway, new, 1, 5)]).await;
    corner.record(vec![confirmed(&gateway, old, 1, 1)]).await;
    corner.record(vec![closed(&gateway, new, Reason::ClosedByGateway, None, false)]).await;
    assert_eq!(corner.open(&gateway).await.1, Sequence(5));
}

pub(crate) async fn an_opening_that_nobody_waits_for_leaves_nothing_live(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 2).await;
    // Polled once, so that it is queued, and then forgotten.
    assert!(store.open_connection(connection(&gateway)).now_or_never().is_none());
    store.node_heartbeat().await.unwrap();
    let live = store
        .connections(corner.organisation, Some(gateway.id), true, 10)
        .await
        .unwrap();
    assert!(live.is_empty(), "{live:?}");
    assert_eq!(store.sweep_not_connected(Some(&[gateway.key])).await.unwrap(), 2);
}

// ---- the ledger ------------------------------------------------------------

pub(crate) async fn dead_letters_are_passed_and_not_counted_as_confirmed(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 4).await;
    let before = store.totals(corner.organisation).await.unwrap();
    let (id, _, _) = corner.open(&gateway).await;
    corner
        .record(vec![
            Record::Skipped {
                gateway: gateway.key,
                connection: id,
                range: range(2, 2),
                reason: Reason::Expired,
                advance_to: None,
                at: Timestamp::now(),
            },
            confirmed(&gateway, id, 1, 1),
            confirmed(&gateway, id, 3, 4),
        ])
        .await;
    let after = store.totals(corner.organisation).await.unwrap();
    assert_eq!(after.confirmed - before.confirmed, 3);
    assert_eq!(after.dead_letters - before.dead_letters, 1);
    assert_eq!(after.failed_attempts - before.failed_attempts, 1);
}

pub(crate) async fn attempts_that_blame_the_event_are_counted_until_it_is_given_up(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 3).await;
    for (reason, counted) in
        [(Reason::ConnectionLost, 1), (Reason::Shutdown, 1), (Reason::ConfirmationTimeout, 2)]
    {
        let (id, _, _) = corner.open(&gateway).await;
        corner.record(vec![closed(&gateway, id, reason, Some(range(1, 2)), false)]).await;
        let (probe, position, failed) = corner.open(&gateway).await;
        assert_eq!((position, failed), (Sequence::ZERO, counted), "after {reason}");
        corner.record(vec![closed(&gateway, probe, Reason::Shutdown, None, false)]).await;
    }
    let (id, _, _) = corner.open(&gateway).await;
    corner.record(vec![closed(&gateway, id, Reason::ConnectionLost, Some(range(1, 2)), true)]).await;
    let (_, position, failed) = corner.open(&gateway).await;
    assert_eq!((position, failed), (Sequence(1), 0));
}

pub(crate) async fn an_end_or_a_report_that_comes_twice_is_on_record_once(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    let answers = corner.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    let (id, _, _) = corner.open(&gateway).await;
    let report = Record::Reported {
        gateway: gateway.key,
        connection: id,
        sequence: Sequence(1),
        result: Err((Reason::GatewayProcessingError, "no".to_owned())),
        at: Timestamp::now(),
    };
    let end = closed(&gateway, id, Reason::ConnectionLost, Some(range(1, 1)), false);
    corner.record(vec![report.clone(), end.clone()]).await;
    corner.record(vec![report, end]).await;
    let reasons: Vec<_> = corner
        .attempts(&ids(&answers)[0])
        .await
        .into_iter()
        .filter_map(|attempt| attempt.reason)
        .collect();
    assert_eq!(reasons, [Reason::GatewayProcessingError, Reason::ConnectionLost]);
}

pub(crate) async fn what_a_lost_node_had_sent_is_neither_failed_nor_delivered(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    let answers = corner.publish(vec![event(Target::Gateways(vec![gateway.id]))]).await;
    let (id, _, _) = corner.open(&gateway).await;
    corner.record(vec![closed(&gateway, id, Reason::NodeLost, Some(range(1, 1)), false)]).await;
    let attempts = corner.attempts(&ids(&answers)[0]).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].outcome.as_str(), attempts[0].reason), ("unknown", None));
}

pub(crate) async fn an_event_that_another_replica_confirmed_is_not_given_up(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 2).await;
    let (slow, _, _) = corner.open(&gateway).await;
    let (fast, _, _) = corner.open(&gateway).await;
    let before = store.totals(corner.organisation).await.unwrap().dead_letters;
    corner.record(vec![confirmed(&gateway, fast, 1, 2)]).await;
    corner
        .record(vec![closed(&gateway, slow, Reason::ConnectionLost, Some(range(1, 2)), true)])
        .await;
    assert_eq!(store.totals(corner.organisation).await.unwrap().dead_letters, before);
}

// ---- housekeeping ----------------------------------------------------------

pub(crate) async fn what_nobody_was_there_for_is_recorded_once(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 1500).await;
    let only = [gateway.key];
    assert_eq!(store.sweep_not_connected(Some(&only)).await.unwrap(), 1500);
    assert_eq!(store.sweep_not_connected(Some(&only)).await.unwrap(), 0);
    let (id, position, _) = corner.open(&gateway).await;
    assert_eq!(position, Sequence::ZERO, "they are delivered all the same");
    corner.fill(&gateway, 1).await;
    assert_eq!(store.sweep_not_connected(Some(&only)).await.unwrap(), 0);
    let end = closed(&gateway, id, Reason::ConnectionLost, Some(range(1, 3)), false);
    corner.record(vec![end]).await;
    assert_eq!(store.sweep_not_connected(Some(&only)).await.unwrap(), 1);
}

pub(crate) async fn retention_keeps_what_is_not_confirmed(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 10).await;
    let (fast, _, _) = corner.open(&gateway).await;
    let (_slow, _, _) = corner.open(&gateway).await;
    corner.record(vec![confirmed(&gateway, fast, 1, 10)]).await;
    let limits = RetentionLimits { max_events: 2, ..keep_all() };
    store.trim(&limits).await.unwrap();
    assert_eq!(corner.again(&gateway).await.floor, Sequence::ZERO, "the slow one needs them all");
}

pub(crate) async fn retention_trims_what_is_confirmed_in_bounded_batches(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 10).await;
    let (id, _, _) = corner.open(&gateway).await;
    corner.record(vec![confirmed(&gateway, id, 1, 9)]).await;
    let limits = RetentionLimits { max_events: 2, batch: 3, ..keep_all() };
    let trimmed = store.trim(&limits).await.unwrap();
    assert_eq!((trimmed.deliveries, trimmed.more), (3, true));
    while store.trim(&limits).await.unwrap().more {}
    let gateway = corner.again(&gateway).await;
    assert_eq!(gateway.floor, Sequence(8));
    let page = store.read(gateway.key, Sequence::ZERO, 100, usize::MAX).await.unwrap();
    assert_eq!(page.rows.first().map(|row| row.sequence), Some(Sequence(9)));
}

pub(crate) async fn what_the_hard_limit_takes_is_recorded_as_lost(store: &dyn Store) {
    let corner = Corner::of(store).await;
    let gateway = corner.gateway(&[]).await;
    corner.fill(&gateway, 1300).await;
    // The very first is a dead letter already, and is not lost a second time.
    let (id, _, _) = corner.open(&gateway).await;
    corner
        .record(vec![
            Record::Reported {
                gateway: gateway.key,
                connection: id,
                sequence: Sequence(1),
                result: Err((Reason::ApplyFailed, String::new())),
                at: Timestamp::now(),
            },
            closed(&gateway, id, Reason::ClosedByGateway, None, false),
        ])
        .await;
    let before = store.totals(corner.organisation).await.unwrap();
    let limits = RetentionLimits { hard_max_events: 100, ..keep_all() };
    let trimmed = store.trim(&limits).await.unwrap();
    assert_eq!((trimmed.deliveries, trimmed.lost), (1200, 1199));
    let after = store.totals(corner.organisation).await.unwrap();
    assert_eq!(after.dead_letters - before.dead_letters, 1199);
    assert_eq!(after.failed_attempts - before.failed_attempts, 1199);
    assert_eq!(corner.again(&gateway).await.floor, Sequence(1200));
    let next = store.read(gateway.key, Sequence(1200), 1, usize::MAX).await.unwrap();
    assert_eq!(next.rows[0].sequence, Sequence(1201));
}
