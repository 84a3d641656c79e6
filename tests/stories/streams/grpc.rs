//! gRPC, with the client that tonic generates over a plain HTTP/2 connection.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_events::transport::grpc;
use gateway_events::transport::grpc::generated::gateway_frame::Frame as Sent;
use gateway_events::transport::grpc::generated::gateways_client::GatewaysClient;
use gateway_events::transport::grpc::generated::server_frame::Frame as Received;
use gateway_events::transport::grpc::generated::{
    Confirm, ConnectionAck, ConnectionHello, DeliveryAck, DeliveryNack, DeliveryProgress, Envelope,
    Event, GatewayFrame, NackCode, Named, Position, ServerFrame, connection_hello,
};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::ended;
use crate::both_databases::{Backend, on_both};
use crate::edge::http2::offering;
use crate::reliable::publish;
use crate::support::streams::{check, check_sent};
use crate::support::{Service, TEST_TIMEOUT};

/// An HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Channel(SendRequest<tonic::body::Body>);

impl Channel {
    pub(super) async fn connect(service: &Service) -> Self {
        let stream = TokioIo::new(offering(service, &["h2"]).await);
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(stream)
            .await
            .expect("a handshake");
        tokio::spawn(connection);
        Self(requests)
    }
}

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let sending = self.0.send_request(request);
        Box::pin(sending)
    }
}

pub(super) fn origin(service: &Service) -> hyper::Uri {
    format!("https://localhost:{}", service.port).parse().expect("a URI")
}

pub(super) struct Peer {
    frames: mpsc::Sender<GatewayFrame>,
    stream: Streaming<ServerFrame>,
    ack: ConnectionAck,
}

impl Peer {
    /// Connects, and reads the first frame.
    async fn greet(service: &Service, key: Option<&str>) -> Result<Self, Status> {
        Self::greet_within(service, key, None).await
    }

    /// Likewise, with a deadline.
    pub(super) async fn greet_within(
        service: &Service,
        key: Option<&str>,
        within: Option<&str>,
    ) -> Result<Self, Status> {
        let channel = Channel::connect(service).await;
        let mut client = GatewaysClient::with_origin(channel, origin(service))
            .max_decoding_message_size(8 * 1024 * 1024);
        let (frames, queued) = mpsc::channel(16);
        let sent = futures_util::stream::unfold(queued, async |mut queued| {
            Some((queued.recv().await?, queued))
        });
        let mut request = tonic::Request::new(sent);
        if let Some(key) = key {
            request.metadata_mut().insert("api-key", key.parse().expect("metadata"));
        }
        if let Some(within) = within {
            request.metadata_mut().insert("grpc-timeout", within.parse().expect("metadata"));
        }
        let mut stream = client.connect(request).await?.into_inner();
        let first = timeout(TEST_TIMEOUT, stream.message()).await.expect("in time")?;
        let Some(Received::ConnectionAck(ack)) = first.and_then(|first| first.frame) else {
            panic!("the first frame is another one");
        };
        Ok(Self { frames, stream, ack })
    }

    /// Connects, says hello, and reads where delivery starts.
    pub(super) async fn connect(service: &Service, key: &str) -> Self {
        let mut peer = Self::greet(service, Some(key)).await.expect("admitted");
        peer.send(Sent::ConnectionHello(hello())).await;
        assert!(matches!(peer.frame().await, Received::ConnectionResumed(_)));
        peer
    }

    pub(super) async fn send(&self, frame: Sent) {
        if let Ok(Some(read)) = grpc::frame(GatewayFrame { frame: Some(frame.clone()) }) {
            check_sent("grpc", &serde_json::from_slice(&read.to_text()).expect("JSON"));
        }
        self.frames.send(GatewayFrame { frame: Some(frame) }).await.expect("it is open");
    }

    async fn applied(&self, sequence: u64) {
        self.send(Sent::DeliveryAck(DeliveryAck { applied: Some(sequence), received: None })).await;
    }

    async fn next(&mut self) -> Result<Option<Received>, Status> {
        loop {
            match timeout(TEST_TIMEOUT, self.stream.message()).await.expect("in time")? {
                // A sign of life.
                Some(ServerFrame { frame: None }) => {}
                Some(frame) => {
                    check_received(&frame);
                    return Ok(frame.frame);
                }
                None => return Ok(None),
            }
        }
    }

    async fn frame(&mut self) -> Received {
        self.next().await.expect("a frame").expect("the stream continues")
    }

    /// The next event, which must have this sequence.
    pub(super) async fn event(&mut self, sequence: u64) -> Event {
        loop {
            match self.frame().await {
                Received::DeliveryMark(_) => {}
                Received::Event(event) => {
                    assert_eq!(event.sequence, sequence);
                    return event;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Reads to the end; returns the code of the last `ConnectionError` and the status.
    pub(super) async fn ended(&mut self) -> (String, Option<Status>) {
        let mut code = String::new();
        loop {
            match self.next().await {
                Ok(Some(Received::ConnectionError(error))) => code = error.code,
                Ok(Some(_)) => {}
                Ok(None) => return (code, None),
                Err(status) => return (code, Some(status)),
            }
        }
    }
}

/// Compares a message with the document, in its JSON form.
fn check_received(message: &ServerFrame) {
    let text = if let Some(Received::Event(Event { cloud_event: Some(event), .. })) = &message.frame
    {
        event.clone()
    } else {
        let read = grpc::server_frame(message.clone()).expect("a valid frame");
        read.expect("a known frame").to_text()
    };
    check("grpc", &serde_json::from_slice(&text).expect("JSON"));
}

pub(super) fn hello() -> ConnectionHello {
    ConnectionHello {
        instance: Some("a".to_owned()),
        resume: Some(connection_hello::Resume::Named(Named::Server.into())),
        confirm: Confirm::Applied.into(),
        ..ConnectionHello::default()
    }
}

on_both! {
    events_are_streamed_and_confirmed
    events_are_cloud_events_to_a_gateway_that_asks_for_them
    a_bad_first_frame_ends_its_stream_with_the_status_of_the_contract
    a_bad_later_frame_ends_its_stream_with_the_status_of_the_contract
}

async fn events_are_streamed_and_confirmed(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 2).await;
    let mut peer = Peer::connect(&service, &key).await;
    assert_eq!((peer.ack.gateway_id.as_str(), peer.ack.head), (id.as_str(), 2));
    let event = peer.event(1).await;
    let log = service.api().get(&format!("/gateways/{id}/log")).await.expect("the log");
    let first = log["list"].as_array().expect("a list");
    let first = first.iter().find(|entry| entry["sequence"] == 1).expect("the first");
    assert_eq!(first["eventId"], event.event_id);
    let payload: serde_json::Value = serde_json::from_slice(&event.payload).expect("JSON");
    assert_eq!((event.r#type.as_str(), &payload["deploymentId"]), ("api.deployed", &json!("d-1")));
    assert_eq!((event.previous, event.attempt, &event.epoch), (0, 1, &peer.ack.epoch));
    peer.event(2).await;
    peer.applied(2).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    let shown = service.admin().get("/connections?status=connected").await.success();
    assert_eq!(shown["list"][0]["transport"], "grpc");
    // The gateway ends the stream, and misses an event.
    drop(peer.frames);
    let past = format!("/gateways/{id}/connections?status=all");
    let shown = service.eventually(&past, ended).await;
    assert_eq!(shown["list"][0]["closeReason"], "closed_by_gateway");
    publish(&service, &id, 3, 3).await;
    // The first two are among them if the gateway took long to connect.
    let failed = "/deliveries?status=failed&reason=not_connected";
    let has_third = |shown: &serde_json::Value| {
        shown["list"].as_array().is_some_and(|list| list.iter().any(|it| it["sequence"] == 3))
    };
    service.eventually(failed, has_third).await;
    let mut peer = Peer::connect(&service, &key).await;
    peer.event(3).await;
    let nack =
        DeliveryNack { sequence: 3, code: NackCode::Invalid.into(), ..DeliveryNack::default() };
    peer.send(Sent::DeliveryNack(nack)).await;
    let failed = "/deliveries?status=failed&reason=invalid";
    service.eventually(failed, |shown| shown["count"] == 1).await;
}

async fn events_are_cloud_events_to_a_gateway_that_asks_for_them(backend: Backend) {
    let service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 1).await;
    let mut peer = Peer::greet(&service, Some(&key)).await.expect("admitted");
    let hello = ConnectionHello { envelope: Envelope::Cloudevents.into(), ..hello() };
    peer.send(Sent::ConnectionHello(hello)).await;
    let Received::ConnectionResumed(resumed) = peer.frame().await else { panic!("another frame") };
    assert_eq!(resumed.envelope(), Envelope::Cloudevents);
    let event = peer.event(1).await;
    assert!(event.payload.is_empty(), "{event:?}");
    let json: serde_json::Value =
        serde_json::from_slice(&event.cloud_event.expect("a CloudEvent")).expect("JSON");
    assert_eq!((&json["specversion"], &json["id"]), (&json!("1.0"), &json!(event.event_id)));
    assert_eq!(
        (&json["type"], &json["sequence"]),
        (&json!("api.deployed"), &json!(format!("{:016}", 1)))
    );
    assert_eq!(json["data"]["deploymentId"], "d-1");
    peer.applied(1).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
}

#[tokio::test]
async fn an_idle_stream_shows_in_each_interval_that_the_service_lives() {
    let service = Service::start_with(&[
        ("RELIABLE__HEARTBEAT_INTERVAL", "200ms"),
        ("DELIVERY__HEARTBEAT_INTERVAL", "300ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "1s"),
    ])
    .await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::connect(&service, &key).await;
    assert_eq!(peer.ack.heartbeat_ms, 200);
    let mut signs = 0;
    while signs < 10 {
        let next = timeout(TEST_TIMEOUT, peer.stream.message()).await.expect("a sign in time");
        match next.expect("a message").expect("the stream continues").frame {
            // Clients ignore a message without a frame.
            None => signs += 1,
            Some(Received::DeliveryMark(_)) => {}
            Some(other) => panic!("{other:?}"),
        }
    }
    publish(&service, &id, 1, 1).await;
    peer.event(1).await;
}

async fn a_bad_first_frame_ends_its_stream_with_the_status_of_the_contract(backend: Backend) {
    let service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (_, key) = service.gateway("one").await;
    for key in [None, Some("gwk_nonsense")] {
        let refused = Peer::greet(&service, key).await.err().expect("refused");
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    let position = |epoch: &str| {
        let position =
            Position { epoch: epoch.to_owned(), sequence: 1 << 63, ..Position::default() };
        Some(connection_hello::Resume::Position(position))
    };
    let epoch = "01890a5d-ac96-774b-bcce-b302099a8057";
    let large = "x".repeat(1024 * 1024 + 1);
    for (frame, code, status) in [
        (
            Sent::ConnectionHello(ConnectionHello { resume: None, ..hello() }),
            "invalid_frame",
            Code::InvalidArgument,
        ),
        (
            Sent::ConnectionHello(ConnectionHello { confirm: 0, ..hello() }),
            "invalid_frame",
            Code::InvalidArgument,
        ),
        (
            Sent::ConnectionHello(ConnectionHello { confirm: 9, ..hello() }),
            "invalid_frame",
            Code::InvalidArgument,
        ),
        (
            Sent::ConnectionHello(ConnectionHello { envelope: 9, ..hello() }),
            "invalid_frame",
            Code::InvalidArgument,
        ),
        (
            Sent::ConnectionHello(ConnectionHello { resume: position("x"), ..hello() }),
            "invalid_frame",
            Code::InvalidArgument,
        ),
        (
            Sent::ConnectionHello(ConnectionHello { resume: position(epoch), ..hello() }),
            "invalid_frame",
            Code::InvalidArgument,
        ),
        (
            Sent::ConnectionHello(ConnectionHello { instance: Some("a\nb".to_owned()), ..hello() }),
            "invalid_frame",
            Code::InvalidArgument,
        ),
        (
            Sent::ConnectionHello(ConnectionHello { instance: Some(large), ..hello() }),
            "frame_too_large",
            Code::ResourceExhausted,
        ),
        (
            Sent::DeliveryProgress(DeliveryProgress { sequence: 1 }),
            "hello_expected",
            Code::InvalidArgument,
        ),
    ] {
        let mut peer = Peer::greet(&service, Some(&key)).await.expect("admitted");
        peer.send(frame).await;
        let (error, ended) = peer.ended().await;
        assert_eq!((error.as_str(), ended.map(|ended| ended.code())), (code, Some(status)));
    }
}

async fn a_bad_later_frame_ends_its_stream_with_the_status_of_the_contract(backend: Backend) {
    let service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, 1, 1).await;
    for (frame, code) in [
        (Sent::DeliveryAck(DeliveryAck::default()), "invalid_frame"),
        (Sent::DeliveryAck(DeliveryAck { applied: Some(2), received: None }), "beyond_sent"),
        (
            Sent::DeliveryNack(DeliveryNack { sequence: 1, ..DeliveryNack::default() }),
            "invalid_frame",
        ),
        (Sent::ConnectionHello(hello()), "hello_repeated"),
    ] {
        let mut peer = Peer::connect(&service, &key).await;
        peer.event(1).await;
        peer.send(frame).await;
        let (error, ended) = peer.ended().await;
        let ended = ended.map(|ended| ended.code());
        assert_eq!((error.as_str(), ended), (code, Some(Code::InvalidArgument)));
    }
}

#[tokio::test]
async fn missing_hello_ends_the_grpc_stream() {
    let service = Service::start_with(&[("RELIABLE__HELLO_TIMEOUT", "500ms")]).await;
    let (_, key) = service.gateway("one").await;
    let mut peer = Peer::greet(&service, Some(&key)).await.expect("admitted");
    let (error, ended) = peer.ended().await;
    let ended = ended.map(|ended| ended.code());
    assert_eq!((error.as_str(), ended), ("hello_timeout", Some(Code::DeadlineExceeded)));
}

#[tokio::test]
async fn a_stream_ends_with_its_key_its_gateway_and_its_node() {
    let mut service = Service::start_with(&[("SHUTDOWN__DRAIN", "100ms")]).await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::connect(&service, &key).await;
    let tokens = service.api().get(&format!("/gateways/{id}/tokens")).await.expect("tokens");
    let token = tokens["list"][0]["id"].as_str().expect("an id");
    service.api().delete(&format!("/gateways/{id}/tokens/{token}")).await.expect("revoked");
    let (error, ended) = peer.ended().await;
    assert_eq!(
        (error.as_str(), ended.expect("a status").code()),
        ("token_revoked", Code::Unauthenticated)
    );

    let (id, key) = service.gateway("two").await;
    let disabled = json!({"disabled": true});
    service.api().patch(&format!("/gateways/{id}"), &disabled).await.expect("disabled");
    let refused = Peer::greet(&service, Some(&key)).await.err().expect("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);

    let (_, key) = service.gateway("three").await;
    let mut peer = Peer::connect(&service, &key).await;
    service.ask_to_end();
    let mut is_asked = false;
    let status = loop {
        match peer.next().await {
            Ok(Some(Received::ConnectionDrain(_))) => is_asked = true,
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a status"),
            Err(status) => break status,
        }
    };
    assert!(is_asked);
    assert_eq!(status.code(), Code::Unavailable);
    let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(after.is_some_and(|after| after >= Duration::from_secs(1)), "{status:?}");
    service.ended().await;
}

#[tokio::test]
async fn too_many_attempts_are_refused_with_the_time_of_the_next() {
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "2")]).await;
    let mut refused = Code::Unauthenticated;
    for _ in 0..10 {
        let status = Peer::greet(&service, Some("gwk_nonsense")).await.err().expect("refused");
        refused = status.code();
        if refused == Code::ResourceExhausted {
            let after = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert!(after.is_some_and(|after| after >= Duration::from_secs(1)), "{status:?}");
            break;
        }
    }
    assert_eq!(refused, Code::ResourceExhausted);
}

#[tokio::test]
async fn health_says_whether_the_node_is_ready() {
    let service = Service::start().await;
    let channel = Channel::connect(&service).await;
    let mut client = HealthClient::with_origin(channel, origin(&service));
    for name in ["", "gateway_events.v1.Gateways"] {
        let request = HealthCheckRequest { service: name.to_owned() };
        let answer = client.check(request).await.expect("an answer").into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let other = HealthCheckRequest { service: "another".to_owned() };
    assert_eq!(client.check(other).await.expect_err("none").code(), Code::NotFound);
}

/// The names of the services, by a version of the reflection service.
macro_rules! reflected {
    ($version:ident, $service:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

        let channel = Channel::connect($service).await;
        let mut client = ServerReflectionClient::with_origin(channel, origin($service));
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let requests = futures_util::stream::iter([request]);
        let answers = client.server_reflection_info(requests).await.expect("a stream");
        let answer = timeout(TEST_TIMEOUT, answers.into_inner().message()).await.expect("in time");
        let answer = answer.expect("an answer").and_then(|answer| answer.message_response);
        let Some(MessageResponse::ListServicesResponse(list)) = answer else {
            panic!("another answer");
        };
        list.service.into_iter().map(|service| service.name).collect::<Vec<String>>()
    }};
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let service = Service::start().await;
    for names in [reflected!(v1, &service), reflected!(v1alpha, &service)] {
        for name in ["gateway_events.v1.Gateways", "grpc.health.v1.Health"] {
            assert!(names.iter().any(|known| known == name), "{names:?}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_and_harms_no_other() {
    let service = Service::start_with(&[
        ("DELIVERY__WRITE_TIMEOUT", "1s"),
        ("DELIVERY__HEARTBEAT_INTERVAL", "500ms"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "3s"),
    ])
    .await;
    let (id, key) = service.gateway("one").await;
    let mut stuck = Peer::connect(&service, &key).await;
    let mut other = Peer::greet(&service, Some(&key)).await.expect("admitted");
    let instance = Some("other".to_owned());
    other.send(Sent::ConnectionHello(ConnectionHello { instance, ..hello() })).await;
    assert!(matches!(other.frame().await, Received::ConnectionResumed(_)));
    let large = "x".repeat(900_000);
    for number in 1..=12 {
        let event = json!({"type": "gateway.config.updated", "gatewayIds": [id],
            "payload": {"configType": large, "action": "update"}});
        service.api().post("/events", &event).await.expect("accepted");
        other.event(number).await;
        other.applied(number).await;
    }
    let past = format!("/gateways/{id}/connections?status=all");
    let shown = service.eventually(&past, ended).await;
    let reason = super::closed(&shown).and_then(|it| it["closeReason"].as_str());
    assert!(matches!(reason, Some("write_timeout" | "connection_lost")), "{shown}");
    // What it reads then ends with an error: it must connect again.
    let (_, status) = stuck.ended().await;
    assert!(status.is_some(), "it ended as if it was complete");
}
