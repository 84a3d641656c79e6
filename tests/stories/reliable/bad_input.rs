//! Frames that a gateway should not send. Each is answered by `connection.error` and the close code
//! 4501, or is ignored; nothing is lost, and no other connection is affected.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::peer::Peer;
use super::resume::with_events;
use crate::both_databases::On;
use crate::support::Service;

/// A violation, sent after a hello and one unconfirmed event, and its code.
fn violations() -> Vec<(Value, &'static str)> {
    let nack = |members: Value| {
        let mut nack =
            json!({"type": "delivery.nack", "sequence": 1, "code": "invalid", "retryable": false});
        nack.as_object_mut().expect("one").extend(members.as_object().expect("one").clone());
        nack
    };
    vec![
        (json!({"type": "delivery.ack"}), "invalid_frame"),
        (json!({"type": "delivery.ack", "applied": "1"}), "invalid_frame"),
        (json!({"type": "delivery.ack", "applied": -1}), "invalid_frame"),
        (json!({"type": "delivery.ack", "applied": 1.5}), "invalid_frame"),
        (json!({"type": "delivery.ack", "applied": 1_u64 << 53}), "invalid_frame"),
        (json!({"type": "delivery.ack", "applied": 1_u64 << 63}), "invalid_frame"),
        (json!({"type": "delivery.ack", "applied": 2}), "beyond_sent"),
        (json!({"type": "delivery.ack", "received": 2}), "beyond_sent"),
        (json!({"type": "delivery.nack", "code": "invalid", "retryable": false}), "invalid_frame"),
        (json!({"type": "delivery.nack", "sequence": 1, "retryable": false}), "invalid_frame"),
        (json!({"type": "delivery.nack", "sequence": 1, "code": "invalid"}), "invalid_frame"),
        (nack(json!({"code": "no_such_code"})), "invalid_frame"),
        (nack(json!({"retryable": "no"})), "invalid_frame"),
        (nack(json!({"retryAfterMs": -1})), "invalid_frame"),
        (nack(json!({"retryAfterMs": u64::MAX})), "invalid_frame"),
        (nack(json!({"detail": "x".repeat(2049)})), "invalid_frame"),
        (nack(json!({"sequence": 2})), "beyond_sent"),
        (json!({"type": "delivery.progress"}), "invalid_frame"),
        (json!({"type": "delivery.progress", "sequence": null}), "invalid_frame"),
        (json!({"type": "delivery.progress", "sequence": 2}), "beyond_sent"),
        (json!({"type": "delivery.credit"}), "invalid_frame"),
        (json!({"type": "delivery.credit", "window": -1}), "invalid_frame"),
        (json!({"type": "delivery.credit", "window": u64::MAX}), "invalid_frame"),
        (
            json!({"type": "connection.hello", "resume": "server", "confirm": "applied"}),
            "hello_repeated",
        ),
        (json!({"type": 1}), "malformed_frame"),
        (json!({}), "malformed_frame"),
        (json!([]), "malformed_frame"),
    ]
}

#[tokio::test]
async fn a_violation_ends_its_connection_and_loses_nothing() {
    let service = Service::start_with(&[
        ("LIMITS__ATTEMPTS_PER_MINUTE", "1000"),
        ("DELIVERY__POISON", "block"),
    ])
    .await;
    let (id, key) = service.gateway("one").await;
    super::resume::publish(&service, &id, 1, 1).await;
    let mut other = Peer::connect(&service, &key, json!({"instance": "other"})).await;
    other.event(1).await;
    for (frame, code) in violations() {
        let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
        peer.event(1).await;
        peer.send(&frame).await;
        let (closed, error) = peer.closed().await;
        assert_eq!((closed, error["code"].as_str()), (4501, Some(code)), "{frame}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
    }
    for text in ["", "x", "{", "null", "\"delivery.ack\""] {
        let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
        peer.text(text).await;
        let (closed, error) = peer.closed().await;
        assert_eq!((closed, &error["code"]), (4501, &json!("malformed_frame")), "{text:?}");
    }
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.message(Message::binary(vec![0; 10])).await;
    assert_eq!(peer.closed().await.0, 4501);
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.text(&format!("{{\"type\":\"x\",\"y\":\"{}\"}}", "y".repeat(17 * 1024))).await;
    let (closed, error) = peer.closed().await;
    assert_eq!((closed, &error["code"]), (4501, &json!("frame_too_large")));

    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    peer.event(1).await;
    peer.applied(1).await;
    other.applied(1).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 1).await;
    other.settled().await;
}

#[tokio::test]
async fn a_hello_that_is_invalid_is_answered_with_an_error() {
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let (_, key) = service.gateway("one").await;
    let hello = json!({"type": "connection.hello", "resume": "server", "confirm": "applied"});
    let with = |member: &str, value: Value| {
        let mut hello = hello.clone();
        hello[member] = value;
        hello
    };
    let without = |member: &str| {
        let mut hello = hello.clone();
        hello.as_object_mut().expect("an object").remove(member);
        hello
    };
    for frame in [
        without("resume"),
        without("confirm"),
        with("resume", json!("newest")),
        with("resume", json!({"sequence": 1})),
        with("resume", json!({"epoch": "x", "sequence": 1})),
        with("resume", json!({"epoch": "01890a5d-ac96-774b-bcce-b302099a8057", "sequence": -1})),
        with("confirm", json!("written")),
        with("instance", json!("")),
        with("instance", json!("a\u{7}b")),
        with("instance", json!("x".repeat(65))),
        with("instance", json!(7)),
        with("window", json!(-1)),
        with("window", json!("many")),
        with("windowBytes", json!(1.5)),
        with("types", json!([])),
        with("types", json!("api.deployed")),
        with("types", json!(["no type"])),
        with("types", json!(vec!["a.b"; 65])),
    ] {
        let mut peer = Peer::greet(&service, &key).await;
        peer.send(&frame).await;
        let (closed, error) = peer.closed().await;
        assert_eq!((closed, &error["code"]), (4501, &json!("invalid_frame")), "{frame}: {error}");
    }
    let mut peer = Peer::greet(&service, &key).await;
    peer.applied(0).await;
    let (closed, error) = peer.closed().await;
    assert_eq!((closed, &error["code"]), (4501, &json!("hello_expected")));
}

#[tokio::test]
async fn unknown_types_and_members_and_repeats_are_ignored() {
    let (service, id, key) = with_events(&On::Embedded, 2).await;
    let mut peer = Peer::greet(&service, &key).await;
    peer.send(&json!({"type": "connection.later", "x": 1})).await;
    peer.hello(json!({"instance": "a", "later": [1]})).await;
    assert_eq!(peer.frame().await["type"], "connection.resumed");
    peer.event(1).await;
    peer.event(2).await;
    peer.send(&json!({"type": "delivery.later"})).await;
    peer.send(&json!({"type": "delivery.ack", "applied": 2, "later": {}})).await;
    peer.applied(2).await;
    peer.applied(1).await;
    peer.send(&json!({"type": "delivery.progress", "sequence": 1})).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    assert_eq!(service.invalid_messages("unknown message type").await, 1);
    peer.text(r#"{"type":"delivery.credit","window":1}"#).await;
}
