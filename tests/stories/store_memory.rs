//! The store of the simulations behaves like the databases, and fails where a test injects a fault.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use gateway_events::clock::Timestamp;
use gateway_events::event::{NodeId, Reason, Sequence};
use gateway_events::store::{
    Connections as _, Health as _, InboxContent, Ledger as _, Log as _, Maintenance as _,
    Nodes as _, Publish, Published, StoreError, Target, TrimMark,
};
use gateway_events::wake::Wake;

use crate::conformance::{self, Fixture, InboxProgram, Row, connection, event, keep_all};
use crate::reference::store::{Clock, Fault, MemoryDatabase, MemoryStore};

fn database() -> MemoryDatabase {
    MemoryDatabase::new(Arc::new(Timestamp::now))
}

fn open(database: &MemoryDatabase) -> Arc<MemoryStore> {
    MemoryStore::open(database, NodeId::new(), Wake::default())
}

#[expect(clippy::unused_async, reason = "the databases are waited for")]
async fn fresh() -> (Arc<MemoryStore>, MemoryDatabase) {
    let database = database();
    (open(&database), database)
}

conformance::conforms!(fresh);
conformance::conforms_beside_another_program!(fresh, inbox_program);

/// Another program that inserts into the inbox.
pub(crate) struct Program(pub(crate) MemoryDatabase);

#[expect(clippy::unused_async, reason = "the databases are waited for")]
async fn inbox_program(database: &MemoryDatabase) -> Program {
    Program(database.clone())
}

#[async_trait]
impl InboxProgram for Program {
    async fn insert(&self, rows: &[Row]) -> Vec<String> {
        let contents: Vec<InboxContent> = rows.iter().map(content).collect();
        let ids = contents.iter().filter_map(|row| row.event_id.clone()).collect();
        self.0.insert_into_inbox(contents);
        ids
    }
}

/// Fills in omitted columns as the databases do.
fn content(row: &Row) -> InboxContent {
    let id = row.event_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    InboxContent {
        organisation: row.organisation.clone().unwrap_or_else(|| "default".to_owned()),
        event_type: row.event_type.clone(),
        payload: row.payload.clone(),
        gateway_id: row.gateway_id.clone(),
        target: row.target.clone(),
        event_id: Some(id),
        correlation_id: None,
        user_id: None,
        expires_at: None,
        traceparent: None,
        collapse_key: None,
    }
}

#[tokio::test]
async fn injected_faults_take_effect_and_a_repeat_succeeds() {
    let store = open(&database());
    let fixture = Fixture::of(store.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    for (fault, done) in
        [(Fault::Unavailable, false), (Fault::UnknownUndone, false), (Fault::UnknownDone, true)]
    {
        let head = fixture.again(&gateway).await.head;
        let events = vec![Ok(event(Target::Gateways(vec![gateway.id])))];
        let publish = Publish { organisation: fixture.organisation, events, idempotency: None };
        store.fail(1, fault);
        let refused = store.append(publish.clone()).await;
        let is_unknown = matches!(refused, Err(StoreError::Unknown(_)));
        assert_eq!(is_unknown, fault != Fault::Unavailable, "{refused:?}");
        let after = fixture.again(&gateway).await.head;
        assert_eq!(after, if done { head.next() } else { head }, "{fault:?}");
        // With the same id, as the error suggests.
        let Ok(Published::Done(answers)) = store.append(publish).await else {
            panic!("it is well")
        };
        assert_eq!(answers[0].as_ref().unwrap().deliveries[0].sequence, head.next());
        assert_eq!(fixture.again(&gateway).await.head, head.next());
    }
    // A later one, and one that only reads.
    store.fail(2, Fault::UnknownDone);
    store.totals(fixture.organisation).await.unwrap();
    let refused = store.totals(fixture.organisation).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    store.totals(fixture.organisation).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_stores_records() {
    let database = database();
    let store = open(&database);
    let fixture = Fixture::of(store.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    store.set_full(true);
    assert!(!store.has_room().await);
    conformance::a_drain_is_refused_and_keeps_its_rows(store.as_ref(), &Program(database)).await;
    let refused = conformance::publish_sized(store.as_ref(), 1).await;
    assert!(matches!(refused, Err(StoreError::StorageFull)), "{refused:?}");
    fixture.open(&gateway).await;
    store.set_full(false);
    fixture.fill(&gateway, 1).await;
}

#[tokio::test]
async fn another_node_closes_the_connections_of_a_dead_one_after_the_timeout() {
    let now = Arc::new(std::sync::Mutex::new(Timestamp::from_micros(0)));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || *now.lock().unwrap())
    };
    let database = MemoryDatabase::new(clock);
    let (dead, other) = (open(&database), open(&database));
    let fixture = Fixture::of(dead.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    assert_eq!(gateway.created_at, Timestamp::from_micros(0), "the clock that was handed in");
    let (id, _, _) = fixture.open(&gateway).await;
    // Dropped, as by a crash: its end is not recorded.
    drop(dead);
    let later = |duration| *now.lock().unwrap() = Timestamp::from_micros(0).plus(duration);
    later(Duration::from_secs(30));
    assert!(other.reap_dead_nodes().await.unwrap().connections.is_empty(), "it may live");
    later(Duration::from_secs(31));
    let reaped = other.reap_dead_nodes().await.unwrap();
    assert_eq!(reaped.connections.iter().map(|it| it.connection_id).collect::<Vec<_>>(), [id]);
    let fixture = Fixture::of(other.as_ref()).await;
    let page = other.connections(fixture.organisation, None, false, None, 9).await.unwrap();
    assert_eq!(page.rows[0].close_reason, Some(Reason::NodeLost));
}

#[tokio::test]
async fn nodes_on_one_database_are_woken_by_each_others_appends() {
    let database = database();
    let (store, wake) = (open(&database), Wake::default());
    let other = MemoryStore::open(&database, NodeId::new(), wake.clone());
    let fixture = Fixture::of(store.as_ref()).await;
    let gateway = fixture.gateway(&[]).await;
    let heard = wake.subscribe(gateway.key);
    fixture.fill(&gateway, 3).await;
    assert_eq!(heard.state.borrow().head, Sequence(3));
    other.close().await;
    let refused = other.open_connection(connection(&gateway)).now_or_never();
    assert!(refused.is_none(), "answered when it is polled again");
    let refused = other.trim(&keep_all(), &mut TrimMark::default()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    fixture.fill(&gateway, 1).await;
}
