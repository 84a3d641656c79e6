//! Appending: events, targets and sequences.

use std::sync::Arc;

use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, EventType, GatewayId, Reason, Sequence};
use gateway_events::store::deployments::CANDIDATES;
use gateway_events::store::{
    DeploymentKey, Gateway, Labels, NewEvent, Record, Refusal, ReportedFailure, Store, Target,
    ValidationError,
};
use serde_json::value::RawValue;

use super::{Fixture, closed, event, event_with, invalid};

pub(crate) async fn sequences_of_concurrent_publishers_have_no_gap_and_no_duplicate(
    store: &dyn Store,
) {
    let fixture = &Fixture::of(store).await;
    let gateway = &fixture.gateway(&[]).await;
    let publishers = (0..40).map(|_| fixture.fill(gateway, 3));
    futures_util::future::join_all(publishers).await;
    let page = store.read(gateway.key, Sequence::ZERO, 1000, usize::MAX).await.unwrap();
    let numbers: Vec<_> = page.rows.iter().map(|row| row.sequence.0).collect();
    assert_eq!(numbers, (1..=120).collect::<Vec<_>>());
    assert_eq!(page.head, Sequence(120));
}

pub(crate) async fn a_repeated_id_gets_the_first_answer_and_different_content_is_refused(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let first = event(Target::Gateways(vec![gateway.id]));
    let answers = fixture.publish(vec![first.clone(), first.clone()]).await;
    assert_eq!(answers[0], answers[1], "within one request");
    let later = fixture.publish(vec![first.clone(), first.clone()]).await;
    assert_eq!(later, answers, "in a later one");
    let mut other = first.clone();
    other.digest = [2; 32];
    let refused = fixture.publish(vec![other]).await;
    assert_eq!(refused, [Err(Refusal::IdTaken(first.event.id.clone()))]);
    assert_eq!(fixture.again(&gateway).await.head, Sequence(1));
}

/// Its publisher had chosen no id, and uses the one in the response.
pub(crate) async fn an_event_can_be_repeated_with_the_id_that_the_service_generated(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let named = event(Target::Gateways(vec![gateway.id]));
    let unnamed = NewEvent { is_named: false, ..named.clone() };
    let first = fixture.publish(vec![unnamed]).await;
    assert_eq!(first[0].as_ref().unwrap().deliveries[0].sequence, Sequence(1));
    assert_eq!(fixture.publish(vec![named]).await, first);
    assert_eq!(fixture.again(&gateway).await.head, Sequence(1));
}

pub(crate) async fn a_repeat_names_the_gateways_in_the_order_of_the_first_answer(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let (one, two) = (fixture.gateway(&[]).await, fixture.gateway(&[]).await);
    for named in [vec![one.id, two.id], vec![two.id, one.id]] {
        let event = event(Target::Gateways(named));
        let first = fixture.publish(vec![event.clone()]).await;
        assert_eq!(fixture.publish(vec![event]).await, first);
    }
}

pub(crate) async fn a_repeated_key_gets_the_first_answer_though_part_of_it_was_refused(
    store: &dyn Store,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let request = || {
        vec![
            event(Target::Gateways(vec![gateway.id])),
            event(Target::Gateways(vec![GatewayId::new()])),
        ]
    };
    let key = gateway.id.to_string();
    let first = fixture.publish_with(request(), Some((&key, [1; 32]))).await.unwrap();
    assert!(first[0].is_ok() && first[1].is_err());
    // The publisher left the ids to the service, so a repeat has new ones.
    let again = fixture.publish_with(request(), Some((&key, [1; 32]))).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(fixture.again(&gateway).await.head, Sequence(1));
    assert_eq!(fixture.publish_with(request(), Some((&key, [2; 32]))).await, None);
}

pub(crate) async fn a_repeated_key_gets_every_item_of_the_first_answer(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let valid = || Ok(event(Target::Gateways(vec![gateway.id])));
    let key = Some((gateway.name.as_str(), [1; 32]));
    let request = vec![invalid(None, "unknown type"), valid(), invalid(None, "too large"), valid()];
    let first = fixture.publish_validated(request, key).await.unwrap();
    let refused = |why| Err(Refusal::Invalid(ValidationError::invalid("event", why)));
    assert_eq!((&first[0], &first[2]), (&refused("unknown type"), &refused("too large")));
    // Meanwhile the type was registered, and the last event has expired.
    let request = || vec![valid(), valid(), invalid(None, "too large"), invalid(None, "expired")];
    assert_eq!(fixture.publish_validated(request(), key).await.unwrap(), first);
    let request = || (0..4).map(|_| invalid(None, "expired")).collect();
    assert_eq!(fixture.publish_validated(request(), key).await.unwrap(), first);
    assert_eq!(fixture.again(&gateway).await.head, Sequence(2));
}

pub(crate) async fn a_repeat_gets_the_first_answer_though_it_is_invalid_by_now(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let first = event(Target::Gateways(vec![gateway.id]));
    let id = Some(&first.event.id);
    // Two at the same time, just before and after the expiry, and one later.
    let request = vec![Ok(first.clone()), invalid(id, "expired")];
    let answers = fixture.publish_validated(request, None).await.unwrap();
    assert!(answers[0].is_ok());
    assert_eq!(answers[0], answers[1]);
    let later = fixture.publish_validated(vec![invalid(id, "expired")], None).await.unwrap();
    assert_eq!(later[0], answers[0]);
    let Err(mut other) = invalid(id, "expired") else { unreachable!("it is invalid") };
    other.identity = id.map(|id| (id.clone(), [2; 32]));
    let refused = fixture.publish_validated(vec![Err(other)], None).await.unwrap();
    let expired = ValidationError::invalid("event", "expired");
    assert_eq!(refused, [Err(Refusal::Invalid(expired))]);
}

pub(crate) async fn a_request_that_failed_may_succeed_with_the_same_key(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let key = Some((gateway.name.as_str(), [1; 32]));
    let to_unknown = event(Target::Gateways(vec![GatewayId::new()]));
    let refused = fixture.publish_with(vec![to_unknown], key).await.unwrap();
    assert!(refused[0].is_err());
    let refused = fixture.publish_validated(vec![invalid(None, "too large")], key).await.unwrap();
    assert!(refused[0].is_err());
    let corrected = event(Target::Gateways(vec![gateway.id]));
    assert!(fixture.publish_with(vec![corrected], key).await.unwrap()[0].is_ok());
}

pub(crate) async fn an_unknown_gateway_only_refuses_its_own_event(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (gateway, unknown) = (fixture.gateway(&[]).await, GatewayId::new());
    let answers = fixture
        .publish(vec![
            event(Target::Gateways(vec![gateway.id, unknown])),
            event(Target::Gateways(vec![gateway.id])),
        ])
        .await;
    assert_eq!(answers[0], Err(Refusal::UnknownGateways(vec![unknown])));
    assert_eq!(answers[1].as_ref().unwrap().deliveries[0].sequence, Sequence(1));
}

pub(crate) async fn labels_select_gateways_and_a_deleted_one_gets_nothing(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let mark = uuid::Uuid::now_v7().to_string();
    let both = fixture.gateway(&[("story", &mark), ("env", "prod")]).await;
    let _one = fixture.gateway(&[("story", &mark)]).await;
    let deleted = fixture.gateway(&[("story", &mark), ("env", "prod")]).await;
    store.delete_gateway(&fixture.actor(), deleted.id).await.unwrap();
    let labels =
        Labels::from([("story".to_owned(), mark.clone()), ("env".to_owned(), "prod".to_owned())]);
    let answers = fixture.publish(vec![event(Target::Labels(labels))]).await;
    let deliveries = &answers[0].as_ref().unwrap().deliveries;
    assert_eq!(deliveries.iter().map(|it| it.gateway_id).collect::<Vec<_>>(), [both.id]);
}

pub(crate) async fn payloads_keep_every_byte_and_pages_are_bounded(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let payload = "{ \"n\":1.10e2, \"big\":12345678901234567890.50,\t\"s\":\"\\u0000é\\/\" }";
    let events = (0..5)
        .map(|_| {
            let target = Target::Gateways(vec![gateway.id]);
            event_with(EventId::new(uuid::Uuid::now_v7().to_string()).unwrap(), target, payload)
        })
        .collect();
    fixture.publish(events).await;
    let page = store.read(gateway.key, Sequence(1), 100, payload.len() * 2).await.unwrap();
    assert_eq!(page.rows.len(), 2);
    assert_eq!(page.rows[0].sequence, Sequence(2));
    assert_eq!(page.rows[0].event.payload.get(), payload);
    let page = store.read(gateway.key, Sequence(1), 100, 1).await.unwrap();
    assert_eq!(page.rows.len(), 1, "one row comes, however small the bound");
    let page = store.read(gateway.key, Sequence(i64::MAX), 100, 1).await.unwrap();
    assert!(page.rows.is_empty());
}

pub(crate) async fn an_event_with_a_long_deployment_id_is_stored_and_found(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let mut long = event(Target::Gateways(vec![gateway.id]));
    let id: String = (0..300).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    (long.artifact_id, long.deployment_id) = (Some("a".to_owned()), Some(id.clone()));
    let answers = fixture.publish(vec![long, event(Target::Gateways(vec![gateway.id]))]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(fixture.again(&gateway).await.head, Sequence(2));
    // It is found by its whole id, not only by the beginning.
    let found = async |deployment_id: String| {
        let artifact_id = "a".to_owned();
        let key = DeploymentKey {
            deployment_id,
            artifact_id,
            suffix: "deployed",
            performed_at: None,
            sent: Sequence(2),
        };
        store.find_deployment(gateway.key, &key).await.unwrap().map(|found| found.sequence)
    };
    assert_eq!(found(id.clone()).await, Some(Sequence(1)));
    assert_eq!(found(format!("{id}-")).await, None);
}

/// An event of a deployment, performed in this second.
pub(super) fn performed(
    gateway: &Gateway,
    deployment: usize,
    suffix: &str,
    second: Option<usize>,
) -> NewEvent {
    let payload = second.map_or_else(
        || "{}".to_owned(),
        |second| format!(r#"{{"performedAt":"2026-01-31T09:30:0{second}.000001Z"}}"#),
    );
    let id = EventId::new(uuid::Uuid::now_v7().to_string()).unwrap();
    let mut event = event_with(id, Target::Gateways(vec![gateway.id]), &payload);
    let parts = Arc::get_mut(&mut event.event).unwrap();
    parts.event_type = EventType::new(format!("api.{suffix}")).unwrap();
    event.artifact_id = Some("a".to_owned());
    event.deployment_id = Some(format!("d{deployment}"));
    event
}

#[expect(clippy::print_stdout, reason = "the seed is shown when the test fails")]
pub(crate) async fn a_report_belongs_to_the_sent_event_of_its_instant_or_else_the_newest(
    store: &dyn Store,
) {
    const SUFFIXES: [&str; 2] = ["deployed", "undeployed"];
    let seed = fastrand::u64(..);
    println!("the seed is {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let mut log = Vec::new();
    for _ in 0..40 {
        let second = chance.bool().then(|| chance.usize(..4));
        let (deployment, suffix) = (chance.usize(..2), SUFFIXES[chance.usize(..2)]);
        fixture.publish(vec![performed(&gateway, deployment, suffix, second)]).await;
        log.push((deployment, suffix, second));
    }
    for _ in 0..200 {
        let (deployment, suffix) = (chance.usize(..3), SUFFIXES[chance.usize(..2)]);
        let (second, sent) = (chance.bool().then(|| chance.usize(..5)), chance.usize(..=log.len()));
        let of_its_ids: Vec<_> = (1_i64..)
            .zip(&log[..sent])
            .filter(|(_, event)| (event.0, event.1) == (deployment, suffix))
            .collect();
        let same = of_its_ids.iter().filter(|(_, event)| second.is_some() && event.2 == second);
        let same: Vec<_> = same.map(|(sequence, _)| *sequence).collect();
        let any: Vec<_> = of_its_ids.iter().map(|(sequence, _)| *sequence).collect();
        let fitting = if same.is_empty() { any } else { same };
        let key = DeploymentKey {
            artifact_id: "a".to_owned(),
            deployment_id: format!("d{deployment}"),
            suffix,
            // The same millisecond in another notation.
            performed_at: second.map(|second| {
                Timestamp::parse(&format!("2026-01-31T10:30:0{second}.000+01:00")).unwrap()
            }),
            sent: Sequence(i64::try_from(sent).unwrap()),
        };
        let found = store.find_deployment(gateway.key, &key).await.unwrap();
        let found = found.map(|it| (it.sequence.0, it.confirms.map(|it| it.0)));
        let expected = fitting.last().map(|newest| (*newest, fitting.first().copied()));
        assert_eq!(found, expected, "{key:?}, seed {seed}");
    }
}

pub(crate) async fn a_report_finds_its_event_among_events_with_unusual_payloads(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    for payload in [
        r#"{"performedAt":"2026-01-31T09:30:01Z"}"#,
        r#"{"note":"\u0000","performedAt":"2026-01-31T09:30:02Z"}"#,
        r#"{"performedAt":"2026-01-31T09:30:03Z","performedAt":"2026-01-31T09:30:04Z"}"#,
        r#"{"performedAt":"2026-01-31T09:30:05Z\u0000"}"#,
        r#"{"performedAt":{"performedAt":"2026-01-31T09:30:06Z"}}"#,
    ] {
        let mut event = performed(&gateway, 1, "deployed", None);
        let parts = Arc::get_mut(&mut event.event).unwrap();
        parts.payload = RawValue::from_string(payload.to_owned()).unwrap();
        fixture.publish(vec![event]).await;
    }
    let found = async |second: u8| {
        let key = DeploymentKey {
            artifact_id: "a".to_owned(),
            deployment_id: "d1".to_owned(),
            suffix: "deployed",
            performed_at: Timestamp::parse(&format!("2026-01-31T09:30:0{second}Z")).ok(),
            sent: Sequence(5),
        };
        store.find_deployment(gateway.key, &key).await.unwrap().map(|found| found.sequence.0)
    };
    assert_eq!(found(1).await, Some(1));
    assert_eq!(found(2).await, Some(2), "a sibling holds a null character");
    assert_eq!(found(4).await, Some(3), "the last of duplicate members counts");
    for other in [3, 5, 6] {
        assert_eq!(found(other).await, Some(5), "no event has second {other}: the newest one");
    }
}

pub(crate) async fn a_late_report_finds_its_event_behind_many_newer_ones(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let found = async |second: u8, sent: usize| {
        let key = DeploymentKey {
            artifact_id: "a".to_owned(),
            deployment_id: "d1".to_owned(),
            suffix: "deployed",
            performed_at: Timestamp::parse(&format!("2026-01-31T09:30:0{second}Z")).ok(),
            sent: Sequence(i64::try_from(sent).unwrap()),
        };
        let found = store.find_deployment(gateway.key, &key).await.unwrap().unwrap();
        (found.sequence.0, found.confirms.map(|it| it.0))
    };
    let events = |count, second| {
        let event = |_| performed(&gateway, 1, "deployed", Some(second));
        (0..count).map(event).collect::<Vec<_>>()
    };
    fixture.publish(events(1, 1)).await;
    fixture.publish(events(199, 2)).await;
    assert_eq!(found(1, 200).await, (1, Some(1)));
    assert_eq!(found(2, 200).await, (200, Some(2)));
    assert_eq!(found(3, 200).await, (200, Some(1)), "no event has its instant: the newest one");
    fixture.publish(events(CANDIDATES - 200, 2)).await;
    assert_eq!(found(1, CANDIDATES).await, (1, None), "older ones may have its instant, too");
    fixture.publish(events(1, 2)).await;
    let last = i64::try_from(CANDIDATES).unwrap() + 1;
    assert_eq!(found(1, CANDIDATES + 1).await, (last, None), "the bound");
}

pub(crate) async fn an_unmatched_report_finds_its_event_when_it_is_recorded(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    for second in 1..=4 {
        fixture.publish(vec![performed(&gateway, 1, "deployed", Some(second))]).await;
    }
    let (id, ..) = fixture.open(&gateway).await;
    let unmatched = |deployment_id: &str, second: i64, result, sent_here| Record::Unmatched {
        gateway: gateway.key,
        connection: id,
        instance: "".into(),
        key: DeploymentKey {
            artifact_id: "a".to_owned(),
            deployment_id: deployment_id.to_owned(),
            suffix: "deployed",
            performed_at: Timestamp::parse(&format!("2026-01-31T09:30:0{second}Z")).ok(),
            sent: Sequence(4),
        },
        result,
        sent_here: Sequence(sent_here),
        at: Timestamp::now(),
    };
    let failed = || Err(ReportedFailure::new(Reason::GatewayProcessingError, "no".to_owned()));
    fixture.record(vec![unmatched("unknown", 1, failed(), 4)]).await;
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(0), "it answers no event");
    let again = unmatched("d1", 2, failed(), 3);
    fixture.record(vec![again.clone(), again]).await;
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(2), "and what came before");
    let totals = store.totals(fixture.organisation).await.unwrap();
    assert_eq!((totals.confirmed, totals.dead_letters), (1, 1));
    fixture.record(vec![unmatched("d1", 4, Ok(()), 3)]).await;
    assert_eq!(fixture.again(&gateway).await.confirmed, Sequence(4));
    fixture.record(vec![closed(&gateway, id, Reason::ConnectionLost, None, false)]).await;
    let (_, position, _) = fixture.open(&gateway).await;
    assert_eq!(position, Sequence(2), "the last one was sent on another connection");
}
