//! Lists of events and of deliveries, compared with what a test published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{CorrelationId, EventId, EventType, GatewayId, Reason, Sequence};
use gateway_events::store::{
    DeliveryFilter, DeliveryState, EventFilter, EventOrder, EventSummary, NewEvent,
    PublishedTarget, Record, RedriveSelection, ReportedFailure, Store, StoreError, Target,
};

use super::{Fixture, Gateway, confirmed, event, event_with};

/// Events that are published, at most.
const MAX_EVENTS: usize = 150;
const TYPES: [&str; 2] = ["api.deployed", "api.deleted"];

/// An event that the test published.
struct PublishedEvent {
    new: NewEvent,
    target: PublishedTarget,
    /// Its first sequence in each log.
    sequences: BTreeMap<GatewayId, Sequence>,
}

/// Gateways, and what was published to them.
struct History<'a> {
    fixture: Fixture<'a>,
    gateways: Vec<Gateway>,
    made: Vec<PublishedEvent>,
    random: fastrand::Rng,
}

impl<'a> History<'a> {
    async fn new(store: &'a dyn Store) -> Self {
        let fixture = Fixture::of(store).await;
        let gateways = vec![
            fixture.gateway(&[("env", "prod")]).await,
            fixture.gateway(&[("env", "prod")]).await,
            fixture.gateway(&[]).await,
        ];
        Self { fixture, gateways, made: Vec::new(), random: fastrand::Rng::with_seed(7) }
    }

    /// Publishes a few events with random content in one request.
    async fn publish(&mut self) {
        let count = self.random.usize(1..6);
        let batch: Vec<(NewEvent, PublishedTarget)> = (0..count).map(|_| self.event()).collect();
        let events = batch.iter().map(|(new, _)| new.clone()).collect();
        let answers = self.fixture.publish(events).await;
        for ((new, target), appended) in batch.into_iter().zip(answers) {
            let deliveries = appended.unwrap().deliveries.into_iter();
            let sequences = deliveries.map(|it| (it.gateway_id, it.sequence)).collect();
            self.made.push(PublishedEvent { new, target, sequences });
        }
    }

    fn event(&mut self) -> (NewEvent, PublishedTarget) {
        let random = &mut self.random;
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let id = self.gateways[random.usize(0..3)].id;
        let (target, published) = match random.u8(0..4) {
            0 => (Target::All, PublishedTarget::All),
            1 => (Target::Labels(labels.clone()), PublishedTarget::Labels(labels)),
            _ => (Target::Gateways(vec![id]), PublishedTarget::Gateways(vec![id])),
        };
        let id = format!("{}-{}", ["a", "b"][random.usize(0..2)], uuid::Uuid::now_v7());
        let mut new = event_with(EventId::new(id).unwrap(), target, "{}");
        let mut some = |name: &str| {
            let nth = random.u8(0..4);
            (nth > 0).then(|| format!("{name}{nth}"))
        };
        new.artifact_id = some("artifact");
        new.deployment_id = some("deployment");
        let (user_id, correlation) = (some("user"), some("c"));
        let mut fields = new.event.as_ref().clone();
        fields.user_id = user_id;
        fields.event_type = EventType::new(TYPES[random.usize(0..2)]).unwrap();
        if let Some(correlation) = correlation {
            fields.correlation_id = CorrelationId::new(correlation).unwrap();
        }
        new.event = Arc::new(fields);
        (new, published)
    }

    fn filter(&mut self) -> EventFilter {
        let random = &mut self.random;
        let mut text = |name: &str, one_in: u8| {
            (random.u8(0..one_in) == 0).then(|| format!("{name}{}", random.u8(1..4)))
        };
        EventFilter {
            window: TimeWindow::ALL,
            user_id: text("user", 4),
            artifact_id: text("artifact", 4),
            deployment_id: text("deployment", 5),
            correlation_id: text("c", 5).map(|it| it.parse().unwrap()),
            gateway_id: (random.u8(0..2) == 0).then(|| self.gateways[random.usize(0..3)].id),
            event_type: (random.u8(0..3) == 0).then(|| TYPES[random.usize(0..2)].parse().unwrap()),
            id_prefix: (random.u8(0..4) == 0).then(|| "a-0".parse().unwrap()),
        }
    }

    fn matching(&self, filter: &EventFilter) -> Vec<&PublishedEvent> {
        let has = |it: &&PublishedEvent| {
            let event = &it.new.event;
            let same =
                |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
            same(&filter.user_id, &event.user_id)
                && same(&filter.artifact_id, &it.new.artifact_id)
                && same(&filter.deployment_id, &it.new.deployment_id)
                && filter.correlation_id.as_ref().is_none_or(|of| *of == event.correlation_id)
                && filter.event_type.as_ref().is_none_or(|of| *of == event.event_type)
                && filter.gateway_id.is_none_or(|of| it.sequences.contains_key(&of))
                && filter
                    .id_prefix
                    .as_ref()
                    .is_none_or(|of| event.id.as_str().starts_with(of.as_str()))
        };
        self.made.iter().filter(has).collect()
    }

    /// Reads all pages. In between, more events are published.
    async fn list(&mut self, filter: &EventFilter, limit: usize) -> Vec<EventSummary> {
        let (mut rows, mut cursor) = (Vec::new(), None);
        loop {
            let page = self
                .fixture
                .store
                .events(self.fixture.organisation, filter, cursor, limit)
                .await
                .unwrap();
            assert!(page.rows.len() <= limit);
            rows.extend(page.rows);
            cursor = page.next;
            if cursor.is_none() {
                return rows;
            }
            if self.made.len() < MAX_EVENTS {
                self.publish().await;
            }
        }
    }
}

pub(crate) async fn events_are_listed_by_every_filter_while_others_are_appended(store: &dyn Store) {
    let mut history = History::new(store).await;
    for _ in 0..20 {
        history.publish().await;
    }
    for _ in 0..40 {
        let filter = history.filter();
        let limit = history.random.usize(1..8);
        let expected: BTreeSet<EventId> =
            history.matching(&filter).iter().map(|it| it.new.event.id.clone()).collect();
        let rows = history.list(&filter, limit).await;
        let found: Vec<EventId> = rows.iter().map(|row| row.id.clone()).collect();
        let distinct: BTreeSet<EventId> = found.iter().cloned().collect();
        assert_eq!(found.len(), distinct.len(), "an event is listed twice: {filter:?}");
        assert!(expected.is_subset(&distinct), "an event is missing: {filter:?}");
        let all: Vec<&PublishedEvent> = history.matching(&filter);
        for row in &rows {
            let made = all.iter().find(|it| it.new.event.id == row.id).expect("it matches");
            let event = &made.new.event;
            assert_eq!(row.event_type, event.event_type);
            assert_eq!(row.correlation_id, event.correlation_id);
            assert_eq!(row.user_id, event.user_id);
            assert_eq!(row.occurred_at, event.occurred_at);
            assert_eq!(row.artifact_id, made.new.artifact_id);
            assert_eq!(row.deployment_id, made.new.deployment_id);
            assert_eq!(row.target.as_ref(), Some(&made.target));
            assert_eq!(row.matched, i64::try_from(made.sequences.len()).unwrap());
        }
        // What was appended while the pages were read is not listed.
        assert_eq!(distinct, expected, "{filter:?}");
        match filter.order() {
            EventOrder::Id => assert!(found.is_sorted_by(|a, b| a > b), "{found:?}"),
            EventOrder::Age => {
                assert!(rows.is_sorted_by(|a, b| a.appended_at >= b.appended_at), "{rows:?}");
            }
            EventOrder::Log => {
                let gateway = filter.gateway_id.unwrap();
                let sequence = |id: &EventId| {
                    all.iter().find(|it| it.new.event.id == *id).unwrap().sequences[&gateway]
                };
                assert!(found.is_sorted_by(|a, b| sequence(a) > sequence(b)), "{found:?}");
            }
        }
    }
}

pub(crate) async fn a_window_of_events_includes_its_start_and_excludes_its_end(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    for _ in 0..9 {
        fixture.fill(&gateway, 1).await;
    }
    let list = async |filter: EventFilter| {
        store.events(fixture.organisation, &filter, None, 100).await.unwrap().rows
    };
    let of_log = EventFilter { gateway_id: Some(gateway.id), ..EventFilter::default() };
    let all = list(of_log.clone()).await;
    assert_eq!(all.len(), 9);
    let (oldest, newest) = (all[8].appended_at, all[0].appended_at);
    let moment = Duration::from_micros(1);
    for at in all.iter().map(|row| row.appended_at) {
        let window = |from, to| TimeWindow::new(from, to).unwrap();
        for (window, expected) in [
            (window(at, newest.plus(moment)), all.iter().filter(|it| it.appended_at >= at).count()),
            (window(oldest.minus(moment), at), all.iter().filter(|it| it.appended_at < at).count()),
            (window(at, at.plus(moment)), all.iter().filter(|it| it.appended_at == at).count()),
        ] {
            // In the order of the log, and of time.
            let in_order = list(EventFilter { window, ..of_log.clone() }).await;
            assert_eq!(in_order.len(), expected, "{window:?}");
            let by_age = list(EventFilter { window, ..EventFilter::default() }).await;
            assert_eq!(by_age.len(), expected, "{window:?}");
        }
    }
    let of_unknown = EventFilter { gateway_id: Some(GatewayId::new()), ..EventFilter::default() };
    let refused = store.events(fixture.organisation, &of_unknown, None, 1).await;
    assert!(matches!(refused, Err(StoreError::NotFound("gateway"))), "{refused:?}");
}

pub(crate) async fn a_redriven_event_is_listed_once_at_its_first_place(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    fixture.fill(&gateway, 5).await;
    let (connection, _, _) = fixture.open(&gateway).await;
    let failed = Record::Reported {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        sequence: Sequence(2),
        result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    fixture.record(vec![confirmed(&gateway, connection, 1, 5), failed]).await;
    let filter = EventFilter { gateway_id: Some(gateway.id), ..EventFilter::default() };
    let list = async |filter: &EventFilter| {
        let page = store.events(fixture.organisation, filter, None, 100).await.unwrap();
        page.rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let before = list(&filter).await;
    let one = RedriveSelection::One(gateway.id, Sequence(2));
    store.redrive(&fixture.actor(), one, false).await.unwrap();
    assert_eq!(fixture.again(&gateway).await.head, Sequence(6));
    assert_eq!(list(&filter).await, before);
    fixture.fill(&gateway, 1).await;
    // The redrive is the newest delivery of a window that ends before the newest event.
    let newest = list(&filter).await.remove(0);
    let end = store.event_history(fixture.organisation, &newest).await.unwrap().unwrap();
    let window = TimeWindow::between(None, Some(end.appended_at)).unwrap();
    assert_eq!(list(&EventFilter { window, ..filter }).await, before);
}

pub(crate) async fn an_event_keeps_its_target_as_published(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let label = uuid::Uuid::now_v7().to_string();
    let first = fixture.gateway(&[("name", &label)]).await;
    let second = fixture.gateway(&[("name", &label)]).await;
    let wanted = BTreeMap::from([("name".to_owned(), label.clone())]);
    let mut many = Vec::new();
    for _ in 0..12 {
        many.push(fixture.gateway(&[]).await.id);
    }
    let events = [
        Target::Labels(wanted.clone()),
        Target::Gateways(many.clone()),
        Target::Labels(BTreeMap::from([("name".to_owned(), "unmatched".to_owned())])),
    ]
    .map(event);
    let ids: Vec<EventId> = events.iter().map(|it| it.event.id.clone()).collect();
    assert!(fixture.publish(events.to_vec()).await.iter().all(Result::is_ok));
    // Gateways that come and go change nothing.
    store.delete_gateway(&fixture.actor(), second.id).await.unwrap();
    fixture.gateway(&[("name", &label)]).await;
    let shown = async |id: &EventId| {
        let history = store.event_history(fixture.organisation, id).await.unwrap().unwrap();
        (history.target.unwrap(), history.matched)
    };
    assert_eq!(shown(&ids[0]).await, (PublishedTarget::Labels(wanted), 2));
    many.sort_unstable();
    assert_eq!(shown(&ids[1]).await, (PublishedTarget::Gateways(many.clone()), 12));
    assert_eq!(shown(&ids[2]).await.1, 0);
    let of_first = EventFilter { gateway_id: Some(first.id), ..EventFilter::default() };
    let page = store.events(fixture.organisation, &of_first, None, 10).await.unwrap();
    assert_eq!((page.rows.len(), page.rows[0].matched), (1, 2));
    let of_many = EventFilter { gateway_id: Some(many[0]), ..EventFilter::default() };
    let page = store.events(fixture.organisation, &of_many, None, 10).await.unwrap();
    let Some(PublishedTarget::Gateways(listed)) = &page.rows[0].target else {
        panic!("it was published for gateways: {page:?}");
    };
    assert_eq!(listed.len(), 10, "a list names a few");
    assert!(listed.iter().all(|id| many.contains(id)));
}

pub(crate) async fn deliveries_are_listed_by_state_in_pages(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    // Three gateways: one has confirmed a part, one nothing, and one everything.
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(fixture.gateway(&[]).await);
    }
    let everywhere = Target::Gateways(gateways.iter().map(|it| it.id).collect());
    let rare = event(everywhere.clone());
    let mut fields = rare.event.as_ref().clone();
    fields.event_type = EventType::new("api.rare").unwrap();
    fixture.publish((0..9).map(|_| event(everywhere.clone())).collect()).await;
    fixture.publish(vec![NewEvent { event: Arc::new(fields), ..rare.clone() }]).await;
    let (part, _, _) = fixture.open(&gateways[0]).await;
    let (whole, _, _) = fixture.open(&gateways[2]).await;
    let failed = Record::Reported {
        gateway: gateways[0].key,
        connection: part,
        instance: "".into(),
        sequence: Sequence(2),
        result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    fixture.record(vec![confirmed(&gateways[0], part, 1, 4), failed]).await;
    fixture.record(vec![confirmed(&gateways[2], whole, 1, 10)]).await;
    let list = async |state, filter: &DeliveryFilter, limit| {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = store
                .deliveries_in_state(fixture.organisation, filter, Some(state), cursor, limit)
                .await;
            let page = page.unwrap();
            assert!(page.rows.len() <= limit);
            found.extend(page.rows.iter().map(|row| {
                assert_eq!(row.state, state);
                let nth = gateways.iter().position(|it| it.id == row.gateway_id);
                (nth.unwrap(), row.sequence.0)
            }));
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
    };
    let of = |nth, sequences: std::ops::RangeInclusive<i64>| {
        sequences.rev().map(move |sequence| (nth, sequence))
    };
    let pending: Vec<_> = of(1, 1..=10).chain(of(0, 5..=10)).collect();
    let delivered: Vec<_> = of(2, 1..=10).chain(of(0, 3..=4)).chain(of(0, 1..=1)).collect();
    let all = DeliveryFilter::default();
    for limit in [1, 3, 6, 100] {
        assert_eq!(list(DeliveryState::Pending, &all, limit).await, pending, "{limit}");
        assert_eq!(list(DeliveryState::Delivered, &all, limit).await, delivered, "{limit}");
    }
    let of_gateway = DeliveryFilter { gateway_id: Some(gateways[0].id), ..all.clone() };
    let expected: Vec<_> = of(0, 5..=10).collect();
    assert_eq!(list(DeliveryState::Pending, &of_gateway, 4).await, expected);
    let of_type = DeliveryFilter { event_type: Some("api.rare".parse().unwrap()), ..all.clone() };
    assert_eq!(list(DeliveryState::Pending, &of_type, 1).await, [(1, 10), (0, 10)]);
    assert_eq!(list(DeliveryState::Delivered, &of_type, 5).await, [(2, 10)]);
    let of_event = DeliveryFilter { event_id: Some(rare.event.id.clone()), ..all.clone() };
    assert_eq!(list(DeliveryState::Pending, &of_event, 1).await, [(1, 10), (0, 10)]);
    let both = DeliveryFilter { gateway_id: Some(gateways[2].id), ..of_event };
    assert!(list(DeliveryState::Pending, &both, 5).await.is_empty());
    // A window that ends before the last event.
    let end = store.event_history(fixture.organisation, &rare.event.id).await.unwrap().unwrap();
    let window = TimeWindow::between(None, Some(end.appended_at)).unwrap();
    let early = DeliveryFilter { window, ..all.clone() };
    let found = list(DeliveryState::Pending, &early, 4).await;
    assert!(!found.contains(&(1, 10)) && !found.contains(&(0, 10)), "{found:?}");
    let window = TimeWindow::between(Some(end.appended_at), None).unwrap();
    let late = DeliveryFilter { window, ..all };
    let found = list(DeliveryState::Delivered, &late, 4).await;
    assert!(found.contains(&(2, 10)) && !found.contains(&(2, 1)) || found.len() == 13, "{found:?}");
}

pub(crate) async fn deliveries_are_listed_by_their_newest_outcome(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let mut gateways = Vec::new();
    for _ in 0..2 {
        gateways.push(fixture.gateway(&[]).await);
    }
    let everywhere = Target::Gateways(gateways.iter().map(|it| it.id).collect());
    fixture.publish((0..5).map(|_| event(everywhere.clone())).collect()).await;
    let (first, _, _) = fixture.open(&gateways[0]).await;
    let (second, _, _) = fixture.open(&gateways[1]).await;
    fixture.record(vec![confirmed(&gateways[1], second, 1, 3)]).await;
    fixture.record(vec![confirmed(&gateways[0], first, 1, 4)]).await;
    let failed = Record::Reported {
        gateway: gateways[0].key,
        connection: first,
        instance: "".into(),
        sequence: Sequence(2),
        result: Err(ReportedFailure::new(Reason::ApplyFailed, String::new())),
        confirms: None,
        at: Timestamp::now(),
    };
    fixture.record(vec![failed]).await;
    let list = async |state, filter: &DeliveryFilter, limit| {
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = store
                .deliveries_by_outcome(fixture.organisation, filter, state, cursor, limit)
                .await
                .unwrap();
            assert!(page.rows.len() <= limit);
            found.extend(page.rows.iter().map(|row| {
                let nth = gateways.iter().position(|it| it.id == row.gateway_id);
                (nth.unwrap(), row.sequence.0)
            }));
            cursor = page.next;
            if cursor.is_none() {
                return found;
            }
        }
    };
    let any = DeliveryFilter::default();
    for limit in [1, 2, 100] {
        let all = list(None, &any, limit).await;
        assert_eq!(all[0], (0, 2), "newest first, and once: {all:?}");
        assert_eq!(all[1..], [(0, 4), (0, 3), (0, 1), (1, 3), (1, 2), (1, 1)]);
        let delivered = list(Some(DeliveryState::Delivered), &any, limit).await;
        assert_eq!(delivered, all[1..]);
        assert_eq!(list(Some(DeliveryState::Failed), &any, limit).await, [(0, 2)]);
        assert!(list(Some(DeliveryState::Pending), &any, limit).await.is_empty());
    }
    let one = DeliveryFilter { gateway_id: Some(gateways[1].id), ..DeliveryFilter::default() };
    assert_eq!(list(None, &one, 2).await, [(1, 3), (1, 2), (1, 1)]);
    let event_type = Some(EventType::new("api.rare").unwrap());
    assert!(list(None, &DeliveryFilter { event_type, ..any }, 2).await.is_empty());
}
