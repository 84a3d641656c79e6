//! The dispatcher with a real store, and a transport in memory or of text lines.

#![expect(clippy::unwrap_used, reason = "a failed call fails the test")]

use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::dispatch::{Admission, Dispatcher, Options, Session};
use gateway_events::event::{
    CorrelationId, Event, EventId, EventType, GatewayId, GatewayKey, NodeId, OrganisationKey,
    Reason, Sequence,
};
use gateway_events::jobs::Supervisor;
use gateway_events::store::sqlite::{self, SqliteStore};
use gateway_events::store::{
    Connections as _, Credentials as _, Delivery, DeliveryState, Gateway, Gateways as _,
    Health as _, Labels, Ledger as _, Log as _, NewEvent, Nodes as _, Publish, Published, Store,
    Target,
};
use gateway_events::transport::{
    self, DeploymentAction, DeploymentReport, DeploymentStatus, Incoming, InvalidMessage,
};
use gateway_events::wake::Wake;
use serde_json::value::RawValue;

use crate::conformance::actor;
use crate::reference::transport::{Peer, Seen};
use crate::support::TEST_TIMEOUT;

mod actions;
mod openings;
mod text_transport;

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
    let gateway =
        store.create_gateway(&actor(organisation), id, "one", &Labels::new(), 1).await.unwrap();
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
            attributes: None,
        };
        let event = NewEvent {
            event: Arc::new(event),
            is_named: true,
            target: Target::Gateways(vec![self.id]),
            digest: [0; 32],
            collapse: None,
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
        let (lane, transport) = transport::link();
        self.session().await.start(lane);
        Peer::new(transport)
    }

    /// Waits until all connections have ended and their outcomes are recorded.
    async fn settled(&self) {
        within(async {
            while self.gateway().await.live_connections > 0 || self.dispatcher.live() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
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
    tokio::time::timeout(TEST_TIMEOUT, waiting).await.expect("in time")
}

async fn receive(peer: &mut Peer, numbers: impl IntoIterator<Item = i64>) {
    for number in numbers {
        let frame = within(peer.event()).await.expect("an event");
        assert_eq!(frame.sequence, Sequence(number));
    }
}

#[tokio::test]
async fn a_backlog_and_new_events_arrive_in_one_order() {
    let node = node(Options { window_events: 2, ..Options::default() }).await;
    node.publish_all(1..=5).await;
    let mut peer = node.connect().await;
    for number in 1..=5 {
        receive(&mut peer, [number]).await;
        peer.confirm(Sequence(number)).await;
    }
    node.publish_all(6..=8).await;
    for number in 6..=8 {
        receive(&mut peer, [number]).await;
        peer.confirm(Sequence(number)).await;
    }
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    assert_eq!(node.gateway().await.confirmed, Sequence(8));
    assert_eq!(node.delivery("e-3").await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn unconfirmed_events_are_sent_again_after_a_lost_connection() {
    let node = node(Options::default()).await;
    node.publish_all(1..=3).await;
    let mut peer = node.connect().await;
    receive(&mut peer, 1..=3).await;
    peer.confirm(Sequence(1)).await;
    peer.end(Reason::ConnectionLost).await;
    node.settled().await;
    let lost = node.delivery("e-2").await;
    assert_eq!((lost.state, lost.reason), (DeliveryState::Pending, Some(Reason::ConnectionLost)));
    let mut peer = node.connect().await;
    receive(&mut peer, 2..=3).await;
    peer.confirm(Sequence(3)).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    assert!(node.delivery("e-2").await.delivered_since);
}

#[tokio::test]
async fn a_receipt_for_an_event_that_was_not_sent_confirms_nothing() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    peer.confirm(Sequence(99)).await;
    peer.send(Incoming::Invalid(InvalidMessage::Malformed)).await;
    peer.end(Reason::ConnectionLost).await;
    node.settled().await;
    assert_eq!(node.gateway().await.confirmed, Sequence::ZERO);
}

#[tokio::test]
async fn a_connection_outlives_an_unreadable_log() {
    let node = node(Options {
        window_events: 1,
        heartbeat_interval: Duration::from_millis(20),
        ..Options::default()
    })
    .await;
    node.publish_all(1..=3).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    // From now on, the log can be neither read nor written.
    node.store.close().await;
    peer.confirm(Sequence(1)).await;
    let mut probes = 0;
    while probes < 20 {
        match within(peer.next()).await {
            Seen::Probe => probes += 1,
            // It was read before.
            Seen::Event(outgoing) => assert_eq!(outgoing.sequence, Sequence(2)),
            Seen::Close(reason) => panic!("closed: {reason}"),
        }
    }
    assert_eq!(node.dispatcher.live(), 1);
}

#[tokio::test]
async fn a_connection_without_activity_is_closed() {
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
async fn a_busy_handler_has_until_the_confirmation_timeout() {
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
async fn a_poison_event_becomes_a_dead_letter_and_the_stream_continues() {
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
async fn an_expired_event_is_skipped_and_recorded() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    node.publish("e-2", Some(Timestamp::from_micros(1))).await;
    node.publish_all(3..=3).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    peer.confirm(Sequence(1)).await;
    receive(&mut peer, [3]).await;
    peer.confirm(Sequence(3)).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    let expired = node.delivery("e-2").await;
    assert_eq!((expired.state, expired.reason), (DeliveryState::Failed, Some(Reason::Expired)));
    assert_eq!(node.delivery("e-1").await.state, DeliveryState::Delivered);
    assert_eq!(node.gateway().await.confirmed, Sequence(3));
}

#[tokio::test]
async fn a_reported_failure_counts_after_the_event_was_received() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    let report = DeploymentReport {
        deployment_id: "e-1".to_owned(),
        artifact_id: "a".to_owned(),
        resource_type: "api".to_owned(),
        action: DeploymentAction::Deploy,
        status: DeploymentStatus::Failed,
        performed_at: None,
        error_code: Some("DEPLOYMENT_ID_MISMATCH".to_owned()),
    };
    peer.send(Incoming::Report(Box::new(report))).await;
    peer.confirm(Sequence(1)).await;
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
async fn a_connection_whose_task_panics_is_closed_on_record() {
    // A period that the settings and the clock would refuse.
    let options =
        Options { heartbeat_interval: Duration::ZERO, max_connections: 1, ..Options::default() };
    let node = node(options).await;
    let _peer = node.connect().await;
    node.settled().await;
    let (gateway, organisation) = (node.gateway().await, node.organisation);
    assert_eq!((gateway.live_connections, node.dispatcher.live()), (0, 0));
    let past = node.store.connections(organisation, Some(node.id), false, None, 1).await.unwrap();
    assert_eq!(past.rows[0].close_reason, Some(Reason::NodeLost));
    assert!(node.dispatcher.try_admit().is_some(), "its permit was given back");
}

#[tokio::test]
async fn a_drain_waits_for_receipts_and_admits_no_connection() {
    let node = node(Options::default()).await;
    node.publish_all(1..=1).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    let gateway = async {
        // It confirms the event while the node shuts down.
        peer.confirm(Sequence(1)).await;
        assert_eq!(within(peer.closed()).await, Reason::Shutdown);
        peer.end(Reason::Shutdown).await;
    };
    within(async { tokio::join!(node.dispatcher.drain(Duration::ZERO), gateway) }).await;
    assert!(node.dispatcher.try_admit().is_none());
    assert_eq!(node.delivery("e-1").await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn an_event_for_a_gateway_that_is_not_connected_fails_and_is_delivered_later() {
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
