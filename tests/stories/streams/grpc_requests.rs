//! What gRPC requires of requests: their method, their content type and their deadline.

use std::time::Duration;

use gateway_events::transport::grpc::generated::gateway_frame::Frame as Sent;
use gateway_events::transport::grpc::generated::{DeliveryAck, DeliveryNack, NackCode};
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{Service as _, ServiceExt as _};

use super::closed;
use super::grpc::{Channel, Peer, hello, origin};
use crate::support::Service;

const CONNECT: &str = "/gateway_events.v1.Gateways/Connect";
const CHECK: &str = "/grpc.health.v1.Health/Check";

#[tokio::test]
async fn requests_that_are_not_of_grpc_are_refused() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    for path in [CONNECT, CHECK, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        for (method, content_type, status, allow) in [
            ("GET", "application/grpc", 405, Some("POST")),
            ("PUT", "application/grpc", 405, Some("POST")),
            ("POST", "application/json", 415, None),
            ("POST", "application/grpc+json", 415, None),
            ("POST", "", 415, None),
        ] {
            let uri = format!("https://localhost:{}{path}", service.port);
            let request = Request::builder().method(method).uri(uri).header("api-key", &key);
            let request = request.header(CONTENT_TYPE, content_type);
            let request = request.body(tonic::body::Body::empty()).expect("a request");
            // The service closes the connection after a refusal.
            let mut channel = Channel::connect(&service).await;
            let ready = channel.ready().await.expect("a connection");
            let answer = ready.call(request).await.expect("an answer");
            assert_eq!(answer.status(), status, "{method} {path} {content_type}");
            let allows = answer.headers().get("allow").map(|it| it.to_str().expect("text"));
            assert_eq!(allows, allow);
        }
    }
    let path = format!("/gateways/{id}/connections?status=all");
    let shown = service.admin().get(&path).await.success();
    assert_eq!(shown["count"], 0);
}

#[tokio::test]
async fn a_stream_ends_at_the_deadline_of_its_gateway() {
    // Long enough to be admitted on a busy machine.
    const DEADLINE: Option<&str> = Some("10S");
    let service = Service::start_with(&[("RELIABLE__HELLO_TIMEOUT", "1m")]).await;
    let (id, key) = service.gateway("one").await;
    let is_exceeded = |status: Option<Status>| {
        assert_eq!(status.map(|status| status.code()), Some(Code::DeadlineExceeded));
    };
    let with_hello = async {
        let mut peer = Peer::greet_within(&service, Some(&key), DEADLINE).await.expect("admitted");
        peer.send(Sent::ConnectionHello(hello())).await;
        is_exceeded(peer.ended().await.1);
    };
    let without_hello = async {
        let mut peer = Peer::greet_within(&service, Some(&key), DEADLINE).await.expect("admitted");
        is_exceeded(peer.ended().await.1);
    };
    tokio::join!(with_hello, without_hello);
    let past = format!("/gateways/{id}/connections?status=all");
    let shown = service.eventually(&past, |shown| closed(shown).is_some()).await;
    assert_eq!(closed(&shown).expect("it has ended")["closeReason"], "closed_by_gateway");
    let refused = Peer::greet_within(&service, Some(&key), Some("1 second")).await;
    let refused = refused.err().expect("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("grpc-timeout"), "{refused:?}");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let service = Service::start().await;
    for (within, code) in
        [(Duration::ZERO, Some(Code::DeadlineExceeded)), (Duration::from_mins(1), None)]
    {
        let channel = Channel::connect(&service).await;
        let mut client = HealthClient::with_origin(channel, origin(&service));
        let mut request = tonic::Request::new(HealthCheckRequest { service: String::new() });
        request.set_timeout(within);
        assert_eq!(client.check(request).await.err().map(|status| status.code()), code);
    }
}

#[tokio::test]
async fn errors_name_sequences_as_they_were_sent() {
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (_, key) = service.gateway("one").await;
    let nack = |sequence| DeliveryNack {
        sequence,
        code: NackCode::Invalid.into(),
        ..DeliveryNack::default()
    };
    let ack = |applied| DeliveryAck { applied: Some(applied), received: None };
    for sequence in [u64::MAX, 1 << 63, (1 << 63) - 1, 1 << 53] {
        for frame in [Sent::DeliveryAck(ack(sequence)), Sent::DeliveryNack(nack(sequence))] {
            let mut peer = Peer::connect(&service, &key).await;
            peer.send(frame).await;
            let (code, ended) = peer.ended().await;
            let ended = ended.expect("a status");
            assert_eq!((code.as_str(), ended.code()), ("invalid_frame", Code::InvalidArgument));
            let shown = format!("not {sequence}");
            assert!(ended.message().ends_with(&shown), "{ended:?}");
        }
    }
}
