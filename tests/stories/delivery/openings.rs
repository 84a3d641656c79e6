//! Every admitted connection is recorded, and no other is.

use gateway_events::store::StoreError;

use super::*;
use crate::conformance::actor;
use crate::reference::store::{Fault, MemoryDatabase, MemoryStore};

async fn until_none_is_live(store: &MemoryStore, organisation: OrganisationKey, id: GatewayId) {
    within(async {
        while store.gateway(organisation, id).await.unwrap().unwrap().live_connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_without_a_socket_leaves_no_live_connection() {
    let node = node(Options { max_connections: 1, ..Options::default() }).await;
    drop(node.session().await);
    node.settled().await;
    assert_eq!(node.gateway().await.live_connections, 0);
    assert!(node.dispatcher.try_admit().is_some(), "its permit was given back");
}

#[tokio::test]
async fn an_opening_of_unknown_outcome_leaves_no_live_connection() {
    let (database, wake) = (MemoryDatabase::new(Arc::new(Timestamp::now)), Wake::default());
    let store = MemoryStore::open(&database, NodeId::new(), wake.clone());
    let organisation = store.organisation("default").await.unwrap();
    let id = GatewayId::new();
    let gateway =
        store.create_gateway(&actor(organisation), id, "one", &Labels::new(), 1).await.unwrap();
    let options = Options::default();
    let jobs = Supervisor::default();
    let dispatcher = Dispatcher::new(Arc::clone(&store) as Arc<dyn Store>, wake, options, &jobs);
    let open = || {
        let permit = dispatcher.try_admit().unwrap();
        dispatcher.open(permit, admission(gateway.key, id, organisation))
    };
    for fault in [Fault::UnknownDone, Fault::UnknownUndone] {
        store.fail(1, fault);
        assert!(matches!(open().await, Err(StoreError::Unknown(_))), "{fault:?}");
        until_none_is_live(&store, organisation, id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_racing_gateways_get_a_thousand_permits() {
    let node = node(Options::default()).await;
    let racing: Vec<_> = (0..2000)
        .map(|_| {
            let dispatcher = Arc::clone(&node.dispatcher);
            tokio::spawn(async move { dispatcher.try_admit() })
        })
        .collect();
    let mut permits = Vec::new();
    for admitted in racing {
        permits.extend(within(admitted).await.unwrap());
    }
    assert_eq!(permits.len(), 1000);
    drop(permits);
    assert!(node.dispatcher.try_admit().is_some());
}

#[tokio::test]
async fn a_panic_in_the_store_loses_no_outcome() {
    let (database, wake) = (MemoryDatabase::new(Arc::new(Timestamp::now)), Wake::default());
    let store = MemoryStore::open(&database, NodeId::new(), wake.clone());
    let organisation = store.organisation("default").await.unwrap();
    let id = GatewayId::new();
    let gateway =
        store.create_gateway(&actor(organisation), id, "one", &Labels::new(), 1).await.unwrap();
    let jobs = Supervisor::default();
    let options = Options::default();
    let dispatcher = Dispatcher::new(Arc::clone(&store) as Arc<dyn Store>, wake, options, &jobs);
    let permit = dispatcher.try_admit().unwrap();
    let session = dispatcher.open(permit, admission(gateway.key, id, organisation)).await.unwrap();
    // The next record is the end of a session that was never started.
    store.fail(1, Fault::Panic);
    drop(session);
    // It waits until all outcomes are recorded.
    within(dispatcher.drain(Duration::ZERO)).await;
    let found = store.gateway(organisation, id).await.unwrap().unwrap();
    assert_eq!(found.live_connections, 0);
    assert_eq!(jobs.overdue(), None);
}

#[tokio::test]
async fn a_session_that_opens_during_a_drain_is_refused() {
    let node = node(Options::default()).await;
    let session = node.session().await;
    let permit = node.dispatcher.try_admit().unwrap();
    let drain = node.dispatcher.drain(Duration::ZERO);
    let refusing = async {
        while !session.is_stopped() {
            tokio::task::yield_now().await;
        }
        drop(session);
        // Admitted before the drain, and too late to be opened.
        let admission = admission(node.key, node.id, node.organisation);
        let late = node.dispatcher.open(permit, admission).await;
        assert!(matches!(late, Err(StoreError::Unavailable(_))));
    };
    within(async { tokio::join!(drain, refusing) }).await;
    node.settled().await;
}
