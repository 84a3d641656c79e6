//! The inbox: what other programs insert, and what becomes of it.

use std::time::Duration;

use async_trait::async_trait;
use gateway_events::event::{EventId, GatewayId, Sequence};
use gateway_events::store::{
    Gateway, InboxRow, NewEvent, RejectedFilter, Rejection, RejectionReason, RetentionLimits,
    RetrySelection, Store, StoreError, Target, TrimMark, Unreadable, ValidatedRow,
};

use super::{Fixture, actor, event_with, keep_all, pass};

/// Another program, with its own connection to the database.
#[async_trait]
pub(crate) trait InboxProgram: Sync {
    /// Inserts rows in one transaction; returns the ids of their events.
    async fn insert(&self, rows: &[Row]) -> Vec<String>;
}

/// A row to insert. The database fills in omitted columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) organisation: Option<String>,
    pub(crate) event_type: String,
    pub(crate) payload: String,
    pub(crate) gateway_id: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) event_id: Option<String>,
}

fn row(payload: &str) -> Row {
    Row { event_type: "a.b".to_owned(), payload: payload.to_owned(), ..Row::default() }
}

async fn page(store: &dyn Store) -> Vec<InboxRow> {
    store.inbox_page(1000, 1 << 20).await.unwrap()
}

/// The validated row, for these gateways.
fn good(fixture: &Fixture<'_>, row: &InboxRow, gateways: &[GatewayId]) -> ValidatedRow {
    ValidatedRow { id: row.id, result: Ok((fixture.organisation, event_of(row, gateways))) }
}

fn event_of(row: &InboxRow, gateways: &[GatewayId]) -> NewEvent {
    let content = row.content.as_ref().unwrap();
    let id = EventId::new(content.event_id.clone().unwrap()).unwrap();
    event_with(id, Target::Gateways(gateways.to_vec()), &content.payload)
}

fn bad(row: &InboxRow) -> ValidatedRow {
    let rejection =
        Rejection { reason: RejectionReason::Invalid, detail: "as the test says".to_owned() };
    ValidatedRow { id: row.id, result: Err(rejection) }
}

async fn log(store: &dyn Store, gateway: &Gateway) -> Vec<String> {
    let page = store.read(gateway.key, Sequence::ZERO, 1000, usize::MAX).await.unwrap();
    page.rows.iter().map(|row| row.event.id.as_str().to_owned()).collect()
}

pub(crate) async fn rows_are_moved_in_the_order_of_their_insertion(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let mut ids = outsider.insert(&[row("{\"n\":1}"), row("{\"n\":2}"), row("{\"n\":3}")]).await;
    ids.extend(outsider.insert(&[row("{\"n\":4}"), row("{\"n\":5}")]).await);
    for (limit, rows) in [(3, 3), (5, 5), (100, 5)] {
        assert_eq!(store.inbox_depth(limit).await.unwrap().rows, rows, "counted up to {limit}");
    }
    let validated: Vec<_> =
        page(store).await.iter().map(|row| good(&fixture, row, &[gateway.id])).collect();
    assert_eq!(store.drain_inbox(validated).await.unwrap().appended, 5);
    assert_eq!(log(store, &gateway).await, ids);
    let depth = store.inbox_depth(100).await.unwrap();
    assert_eq!((depth.rows, depth.oldest), (0, None));
}

pub(crate) async fn a_row_is_moved_once(store: &dyn Store, outsider: &dyn InboxProgram) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    outsider.insert(&[row("{}"), row("{}")]).await;
    let rows = page(store).await;
    // The second one stays: it is validated later.
    store.drain_inbox(vec![good(&fixture, &rows[0], &[gateway.id])]).await.unwrap();
    let both = vec![bad(&rows[0]), good(&fixture, &rows[1], &[gateway.id])];
    let drained = store.drain_inbox(both).await.unwrap();
    assert_eq!((drained.appended, drained.rejected.len()), (1, 0));
    assert_eq!(fixture.again(&gateway).await.head, Sequence(2));
}

pub(crate) async fn a_rejected_row_delays_no_other_row(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let (gateway, unknown) = (fixture.gateway(&[]).await, GatewayId::new());
    let taken = fixture.publish(vec![super::event(Target::Gateways(vec![gateway.id]))]).await;
    let taken = super::ids(&taken)[0].as_str().to_owned();
    let rows =
        [row("{}"), row("{}"), row("{}"), Row { event_id: Some(taken), ..row("{}") }, row("{}")];
    let ids = outsider.insert(&rows).await;
    let rows = page(store).await;
    let mut clash = event_of(&rows[3], &[gateway.id]);
    clash.digest = [9; 32];
    let drained = store
        .drain_inbox(vec![
            good(&fixture, &rows[0], &[gateway.id]),
            bad(&rows[1]),
            good(&fixture, &rows[2], &[gateway.id, unknown]),
            ValidatedRow { id: rows[3].id, result: Ok((fixture.organisation, clash)) },
            good(&fixture, &rows[4], &[gateway.id]),
        ])
        .await
        .unwrap();
    let reasons: Vec<_> = drained.rejected.iter().map(|(id, why)| (*id, why.reason)).collect();
    assert_eq!(
        reasons,
        [
            (rows[1].id, RejectionReason::Invalid),
            (rows[2].id, RejectionReason::UnknownGateways),
            (rows[3].id, RejectionReason::EventIdTaken),
        ]
    );
    assert!(drained.rejected[1].1.detail.contains(&unknown.to_string()));
    assert_eq!(log(store, &gateway).await[1..], [ids[0].clone(), ids[4].clone()]);
    assert!(page(store).await.is_empty());
    let listed =
        store.rejected(fixture.organisation, &RejectedFilter::default(), None, 100).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|row| (row.inbox_id, row.reason)).rev().collect();
    assert_eq!(listed, reasons);
}

pub(crate) async fn a_repeated_row_creates_no_second_event(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let twice = Row { event_id: Some(uuid::Uuid::now_v7().to_string()), ..row("{}") };
    outsider.insert(&[twice.clone(), twice.clone()]).await;
    for _ in 0..2 {
        let validated: Vec<_> =
            page(store).await.iter().map(|row| good(&fixture, row, &[gateway.id])).collect();
        let drained = store.drain_inbox(validated).await.unwrap();
        assert!(drained.appended > 0 && drained.rejected.is_empty());
        outsider.insert(std::slice::from_ref(&twice)).await;
    }
    assert_eq!(fixture.again(&gateway).await.head, Sequence(1));
}

pub(crate) async fn a_rejected_row_can_be_put_back_once(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let (organisation, all) = (fixture.organisation, RejectedFilter::default());
    let ids = outsider.insert(&[row("{\"n\":1}"), row("{\"n\":2}"), row("{\"n\":3}")]).await;
    let rows = page(store).await;
    store.drain_inbox(rows.iter().map(bad).collect()).await.unwrap();
    let rejected = store.rejected(organisation, &all, None, 2).await.unwrap();
    assert_eq!(rejected.len(), 2);
    let first =
        store.rejected(organisation, &all, Some(rejected[1].id), 2).await.unwrap().remove(0);
    let (shown, payload) = store.rejected_row(organisation, first.id, 4).await.unwrap().unwrap();
    assert_eq!((&shown, payload.as_str()), (&first, "{\"n\""));
    assert_eq!(first.event_id.as_ref(), Some(&ids[0]));

    store.delete_rejected(&actor(organisation), rejected[1].id).await.unwrap();
    let again = store.delete_rejected(&actor(organisation), rejected[1].id).await;
    assert!(matches!(again, Err(StoreError::NotFound(_))));
    let other = RejectedFilter { reason: Some(RejectionReason::Expired), ..all.clone() };
    let retried =
        store.retry_rejected(&actor(organisation), RetrySelection::Filter(other)).await.unwrap();
    assert_eq!(retried.retried, 0);
    let retried = store
        .retry_rejected(&actor(organisation), RetrySelection::Filter(all.clone()))
        .await
        .unwrap();
    assert_eq!((retried.retried, retried.more), (2, false));
    let twice = store.retry_rejected(&actor(organisation), RetrySelection::One(first.id)).await;
    assert!(matches!(twice, Err(StoreError::Conflict(_))), "{twice:?}");
    assert!(store.rejected(organisation, &all, None, 9).await.unwrap().is_empty());
    let everything = RejectedFilter { retried: true, ..all };
    assert_eq!(store.rejected(organisation, &everything, None, 9).await.unwrap().len(), 2);

    let back = page(store).await;
    assert!(back.iter().all(|row| row.id > rows[2].id), "{back:?}");
    let validated = back.iter().map(|row| good(&fixture, row, &[gateway.id])).collect();
    store.drain_inbox(validated).await.unwrap();
    assert_eq!(log(store, &gateway).await, [ids[0].clone(), ids[2].clone()]);
}

pub(crate) async fn pages_of_the_inbox_are_bounded(store: &dyn Store, outsider: &dyn InboxProgram) {
    let large = row(&format!("{{\"s\":\"{}\"}}", "x".repeat(5000)));
    let small = || row(&format!("{{\"s\":\"{}\"}}", "x".repeat(500)));
    outsider.insert(&[large, small(), small(), small(), row("{}")]).await;
    let rows = store.inbox_page(1000, 1300).await.unwrap();
    assert!(matches!(rows[0].content, Err(Unreadable::TooLarge(bytes)) if bytes > 5000));
    assert_eq!(rows.len(), 3, "the large one is not read, and two small ones fit");
    assert!(rows[1..].iter().all(|row| row.content.is_ok()));
    assert_eq!(store.inbox_page(2, 1 << 20).await.unwrap().len(), 2);
}

pub(crate) async fn rows_beyond_the_limit_of_a_transaction_are_moved_by_the_next(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    let ids = outsider.insert(&[row("{}"), row("{}"), row("{}"), row("{}"), row("{}")]).await;
    // A gateway that is named twice counts as two deliveries.
    let weights = [15_000, 5_000, 1, 20_001, 1];
    for moved in [2, 1, 1, 1] {
        let rows = page(store).await;
        let heavy = weights[weights.len() - rows.len()..].iter().zip(&rows);
        let validated = heavy.map(|(weight, row)| good(&fixture, row, &vec![gateway.id; *weight]));
        assert_eq!(store.drain_inbox(validated.collect()).await.unwrap().appended, moved);
        assert_eq!(page(store).await.len(), rows.len() - moved, "the others stay");
    }
    assert_eq!(log(store, &gateway).await, ids);
}

pub(crate) async fn a_commit_of_another_program_is_noticed(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    const TEST_TIMEOUT: Duration = Duration::from_mins(1);
    let one = [row("{}")];
    store.inbox_changed().await.unwrap();
    for _ in 0..3 {
        let (changed, _) = tokio::join!(
            tokio::time::timeout(TEST_TIMEOUT, store.inbox_changed()),
            outsider.insert(&one)
        );
        changed.expect("it is noticed").unwrap();
    }
    // Also between two calls.
    outsider.insert(&one).await;
    tokio::time::timeout(TEST_TIMEOUT, store.inbox_changed())
        .await
        .expect("it is noticed")
        .unwrap();
}

pub(crate) async fn rows_rejected_long_ago_are_deleted(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    outsider.insert(&[row("{}"), row("{}"), row("{}")]).await;
    store.drain_inbox(page(store).await.iter().map(bad).collect()).await.unwrap();
    let everything = RejectedFilter { retried: true, ..RejectedFilter::default() };
    let left =
        async || store.rejected(fixture.organisation, &everything, None, 9).await.unwrap().len();
    let mut mark = TrimMark::default();
    pass(store, &keep_all(), &mut mark).await;
    assert_eq!(left().await, 3);
    let limits = RetentionLimits { hard_max_age: Duration::ZERO, batch: 2, ..keep_all() };
    while left().await == 3 {
        assert!(store.trim(&limits, &mut mark).await.unwrap().more);
    }
    assert_eq!(left().await, 1, "a batch has two");
    pass(store, &limits, &mut mark).await;
    assert_eq!(left().await, 0);
}

pub(crate) async fn a_drain_is_refused_and_keeps_its_rows(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let gateway = fixture.gateway(&[]).await;
    outsider.insert(&[row("{}")]).await;
    let rows = page(store).await;
    let refused = store.drain_inbox(vec![good(&fixture, &rows[0], &[gateway.id])]).await;
    assert!(matches!(refused, Err(StoreError::StorageFull)), "{refused:?}");
    assert_eq!(page(store).await.len(), 1);
    assert_eq!(fixture.again(&gateway).await.head, Sequence::ZERO);
}
