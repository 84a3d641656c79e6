//! Who is let in is on record, and nobody else is.

use super::*;
use crate::store::memory::{Fault, MemoryDatabase, MemoryStore};

#[tokio::test]
async fn a_session_without_a_socket_leaves_no_live_connection() {
    let node = node(Options::default()).await;
    drop(node.session().await);
    node.settled().await;
    assert_eq!(node.gateway().await.live_connections, 0);
    assert_eq!(node.dispatcher.permits.available_permits(), Options::default().max_connections);
}

#[tokio::test]
async fn an_opening_of_unknown_outcome_leaves_no_live_connection() {
    let (database, wake) = (MemoryDatabase::new(Arc::new(Timestamp::now)), Wake::default());
    let store = MemoryStore::open(&database, NodeId::new(), wake.clone());
    let organisation = store.organisation("default").await.unwrap();
    let id = GatewayId::new();
    let gateway = store.create_gateway(organisation, id, "one", &Labels::new(), 1).await.unwrap();
    let options = Options::default();
    let dispatcher = Dispatcher::new(Arc::clone(&store) as Arc<dyn Store>, wake, options);
    let open = || {
        let permit = dispatcher.try_admit().unwrap();
        dispatcher.open(permit, admission(gateway.key, id, organisation))
    };
    for fault in [Fault::UnknownDone, Fault::UnknownUndone] {
        store.fail(1, fault);
        assert!(matches!(open().await, Err(StoreError::Unknown(_))), "{fault:?}");
        within(dispatcher.settle()).await.unwrap();
        let found = store.gateway(organisation, id).await.unwrap().unwrap();
        assert_eq!(found.live_connections, 0, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_racing_gateways_get_a_thousand_places() {
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
