//! Lanes against the real store, with a peer in memory. Named after what goes wrong.

use std::time::Duration;

use serde_json::value::RawValue;

use super::*;
use crate::clock::Timestamp;
use crate::event::{
    CorrelationId, Event, EventId, EventType, GatewayId, NodeId, OrganisationKey, Sequence,
};
use crate::socket::memory::{Peer, Seen};
use crate::socket::{self, Incoming};
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{
    Delivery, DeliveryState, Gateway, Labels, NewEvent, Publish, Published, Target,
};

mod openings;

/// Everything here takes milliseconds; this is for a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

struct Node {
    store: Arc<SqliteStore>,
    dispatcher: Arc<Dispatcher>,
    organisation: OrganisationKey,
    id: GatewayId,
    key: GatewayKey,
    _directory: tempfile::TempDir,
}

async fn node(options: Options) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let wake = Wake::default();
    let database = sqlite::Options {
        path: directory.path().join("test.db"),
        readers: 2,
        min_free_bytes: 0,
        ballast_bytes: 0,
        ..sqlite::Options::default()
    };
    let store = SqliteStore::open(&database, NodeId::new(), wake.clone()).await.unwrap();
    store.node_heartbeat().await.unwrap();
    let organisation = store.organisation("default").await.unwrap();
    let id = GatewayId::new();
    let gateway = store.create_gateway(organisation, id, "one", &Labels::new(), 1).await.unwrap();
    let jobs = Supervisor::default();
    let dispatcher = Dispatcher::new(Arc::clone(&store) as Arc<dyn Store>, wake, options, &jobs);
    Node { store, dispatcher, organisation, id, key: gateway.key, _directory: directory }
}

impl Node {
    async fn publish(&self, event_id: &str, expires_at: Option<Timestamp>) {
        let event = Event {
            id: EventId::new(event_id).unwrap(),
            event_type: EventType::new("api.deployed").unwrap(),
            payload: RawValue::from_string(format!(r#"{{"deploymentId":"{event_id}"}}"#)).unwrap(),
            correlation_id: CorrelationId::new(event_id).unwrap(),
            user_id: None,
            occurred_at: Timestamp::now(),
            expires_at,
            traceparent: None,
        };
        let event = NewEvent {
            event: Arc::new(event),
            is_named: true,
            target: Target::Gateways(vec![self.id]),
            digest: [0; 32],
            artifact_id: Some("a".to_owned()),
            deployment_id: Some(event_id.to_owned()),
        };
        let publish =
            Publish { organisation: self.organisation, events: vec![Ok(event)], idempotency: None };
        let published = self.store.append(publish).await.unwrap();
        assert!(matches!(published, Published::Done(answers) if answers[0].is_ok()));
    }

    async fn publish_all(&self, names: impl IntoIterator<Item = i64>) {
        for name in names {
            self.publish(&format!("e-{name}"), None).await;
        }
    }

    async fn session(&self) -> Session {
        let permit = self.dispatcher.try_admit().unwrap();
        let admission = admission(self.key, self.id, self.organisation);
        self.dispatcher.open(permit, admission).await.unwrap()
    }

    async fn connect(&self) -> Peer {
        let (lane, transport) = socket::link();
        self.session().await.start(lane);
        Peer::new(transport)
    }

    /// Waits until every connection that has ended is on record.
    async fn settled(&self) {
        self.dispatcher.lanes.close();
        within(self.dispatcher.lanes.wait()).await;
        self.dispatcher.lanes.reopen();
        within(self.dispatcher.settle()).await.unwrap();
    }

    async fn gateway(&self) -> Gateway {
        self.store.gateway(self.organisation, self.id).await.unwrap().unwrap()
    }

    async fn delivery(&self, event_id: &str) -> Delivery {
        let id = EventId::new(event_id).unwrap();
        let history = self.store.event_history(self.organisation, &id).await.unwrap().unwrap();
        history.deliveries.into_iter().next().unwrap()
    }
}

fn admission(gateway: GatewayKey, id: GatewayId, organisation: OrganisationKey) -> Admission {
    Admission {
        gateway,
        gateway_id: id,
        gateway_name: "one".into(),
        organisation,
        token: "t".to_owned(),
        token_expires_at: None,
        transport: "memory",
        remote_address: "127.0.0.1".to_owned(),
    }
}

async fn within<T>(waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time")
}

async fn receive(peer: &mut Peer, numbers: impl IntoIterator<Item = i64>) {
    for number in numbers {
        let frame = within(peer.event()).await.expect("an event");
        assert_eq!(frame.sequence, Sequence(number));
    }
}

#[tokio::test]
async fn what_was_missed_and_what_is_new_come_in_one_order() {
    let node = node(Options { window_events: 2, ..Options::default() }).await;
    node.publish_all(1..=5).await;
    let mut peer = node.connect().await;
    for number in 1..=5 {
        receive(&mut peer, [number]).await;
        peer.pong(Sequence(number)).await;
    }
    node.publish_all(6..=8).await;
    for number in 6..=8 {
        receive(&mut peer, [number]).await;
        peer.pong(Sequence(number)).await;
    }
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    assert_eq!(node.gateway().await.confirmed, Sequence(8));
    assert_eq!(node.delivery("e-3").await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn a_lost_connection_means_that_the_unconfirmed_comes_again() {
    let node = node(Options::default()).await;
    node.publish_all(1..=3).await;
    let mut peer = node.connect().await;
    receive(&mut peer, 1..=3).await;
    peer.pong(Sequence(1)).await;
    peer.end(Reason::ConnectionLost).await;
    node.settled().await;
    let lost = node.delivery("e-2").await;
    assert_eq!((lost.state, lost.reason), (DeliveryState::Pending, Some(Reason::ConnectionLost)));
    let mut peer = node.connect().await;
    receive(&mut peer, 2..=3).await;
    peer.pong(Sequence(3)).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    assert!(node.delivery("e-2").await.delivered_since);
}

#[tokio::test]
async fn a_receipt_for_what_was_never_sent_confirms_nothing() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    peer.pong(Sequence(99)).await;
    peer.say(Incoming::Malformed("nonsense")).await;
    peer.send("nonsense").await;
    peer.end(Reason::ConnectionLost).await;
    node.settled().await;
    assert_eq!(node.gateway().await.confirmed, Sequence::ZERO);
}

#[tokio::test]
async fn a_log_that_can_not_be_read_ends_no_connection() {
    let node = node(Options {
        window_events: 1,
        heartbeat_interval: Duration::from_millis(20),
        ..Options::default()
    })
    .await;
    node.publish_all(1..=3).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    // From now on nobody can read or write.
    node.store.close().await;
    peer.pong(Sequence(1)).await;
    let mut pings = 0;
    while pings < 20 {
        match within(peer.next()).await {
            Seen::Ping => pings += 1,
            // It was read before.
            Seen::Event(frame) => assert_eq!(frame.sequence, Sequence(2)),
            Seen::Close(reason) => panic!("closed: {reason}"),
        }
    }
    assert_eq!(node.dispatcher.live(), 1);
}

#[tokio::test]
async fn silence_ends_a_connection() {
    let options = Options { heartbeat_timeout: Duration::from_millis(50), ..Options::default() };
    let node = node(options).await;
    let mut peer = node.connect().await;
    assert_eq!(within(peer.closed()).await, Reason::HeartbeatTimeout);
    peer.end(Reason::HeartbeatTimeout).await;
    node.settled().await;
    assert_eq!(node.gateway().await.live_connections, 0);
    assert_eq!(node.dispatcher.live(), 0);
}

#[tokio::test]
async fn a_busy_handler_gets_the_time_for_confirmation_and_no_more() {
    let node = node(Options {
        heartbeat_timeout: Duration::from_millis(20),
        confirmation_timeout: Duration::from_millis(200),
        ..Options::default()
    })
    .await;
    node.publish_all(1..=1).await;
    let started = tokio::time::Instant::now();
    let mut peer = node.connect().await;
    assert_eq!(within(peer.closed()).await, Reason::ConfirmationTimeout);
    assert!(started.elapsed() >= Duration::from_millis(200));
    peer.end(Reason::ConfirmationTimeout).await;
    node.settled().await;
    assert_eq!(node.delivery("e-1").await.reason, Some(Reason::ConfirmationTimeout));
}

#[tokio::test]
async fn poison_becomes_a_dead_letter_and_the_stream_goes_on() {
    let node = node(Options { max_attempts: 2, ..Options::default() }).await;
    node.publish_all(1..=2).await;
    for _ in 0..2 {
        let mut peer = node.connect().await;
        receive(&mut peer, 1..=2).await;
        peer.end(Reason::ConnectionLost).await;
        node.settled().await;
    }
    assert_eq!(node.delivery("e-1").await.state, DeliveryState::Failed);
    let mut peer = node.connect().await;
    receive(&mut peer, [2]).await;
}

#[tokio::test]
async fn an_expired_event_is_passed_over_and_on_record() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    node.publish("e-2", Some(Timestamp::from_micros(1))).await;
    node.publish_all(3..=3).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    peer.pong(Sequence(1)).await;
    receive(&mut peer, [3]).await;
    peer.pong(Sequence(3)).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    let expired = node.delivery("e-2").await;
    assert_eq!((expired.state, expired.reason), (DeliveryState::Failed, Some(Reason::Expired)));
    assert_eq!(node.delivery("e-1").await.state, DeliveryState::Delivered);
    assert_eq!(node.gateway().await.confirmed, Sequence(3));
}

#[tokio::test]
async fn a_reported_failure_is_found_although_the_event_was_received() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    peer.send(
        r#"{"type":"deployment.ack","payload":{"deploymentId":"e-1","artifactId":"a","resourceType":"api",
            "action":"deploy","status":"failed","errorCode":"DEPLOYMENT_ID_MISMATCH"}}"#,
    )
    .await;
    peer.pong(Sequence(1)).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    let failed = node.delivery("e-1").await;
    assert_eq!(
        (failed.state, failed.reason),
        (DeliveryState::Failed, Some(Reason::DeploymentIdMismatch))
    );
}

#[tokio::test]
async fn a_revoked_token_ends_its_connections_at_once() {
    let node = node(Options::default()).await;
    let mut peer = node.connect().await;
    node.dispatcher.close_token("another", Reason::TokenRevoked);
    assert_eq!(node.dispatcher.connected(node.key), 1);
    node.dispatcher.close_token("t", Reason::TokenRevoked);
    assert_eq!(within(peer.closed()).await, Reason::TokenRevoked);
    peer.end(Reason::TokenRevoked).await;
    node.settled().await;
    assert_eq!(node.dispatcher.connected(node.key), 0);
}

#[tokio::test]
async fn a_lane_that_panics_gives_back_its_place_and_is_closed_on_record() {
    // Settings refuse this period, and so does the clock.
    let options = Options { heartbeat_interval: Duration::ZERO, ..Options::default() };
    let node = node(options).await;
    let _peer = node.connect().await;
    node.settled().await;
    let (gateway, organisation) = (node.gateway().await, node.organisation);
    assert_eq!((gateway.live_connections, node.dispatcher.live()), (0, 0));
    let past = node.store.connections(organisation, Some(node.id), false, None, 1).await.unwrap();
    assert_eq!(past.rows[0].close_reason, Some(Reason::NodeLost));
    assert_eq!(node.dispatcher.permits.available_permits(), Options::default().max_connections);
}

#[tokio::test]
async fn a_drain_waits_for_receipts_and_admits_nobody() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    let gateway = async {
        // It handles the event while the node goes down.
        peer.pong(Sequence(1)).await;
        assert_eq!(within(peer.closed()).await, Reason::Shutdown);
        peer.end(Reason::Shutdown).await;
    };
    within(async { tokio::join!(node.dispatcher.drain(Duration::ZERO), gateway) }).await;
    assert!(node.dispatcher.try_admit().is_none());
    assert_eq!(node.delivery("e-1").await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn an_event_without_a_listener_is_on_record_and_comes_later() {
    let options = Options { not_connected_grace: Duration::ZERO, ..Options::default() };
    let node = node(options).await;
    let jobs = Supervisor::default();
    node.dispatcher.start_sweep(&jobs);
    node.publish_all(1..=1).await;
    within(async {
        while node.delivery("e-1").await.reason != Some(Reason::NotConnected) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    within(jobs.stop()).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
}
