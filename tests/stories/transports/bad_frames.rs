//! Frames that a gateway should not send, as JSON: each is answered with the error of the contract, and
//! ends its own connection only. `streams::grpc` has those of gRPC, whose messages have other shapes.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::test_bed::World;
use super::{Kind, TestBed};
use crate::both_databases::{Backend, on_both};
use crate::reliable::peer::{Peer as Socket, hello};
use crate::streams::long_poll::Peer as Polling;
use crate::streams::sse_peer::Peer as Stream;
use crate::support::http::in_words_of_the_contract;

on_both! {
    a_bad_frame_ends_its_socket
    a_bad_hello_is_answered_with_an_error
    an_error_says_what_the_member_must_be
    a_bad_frame_ends_its_stream_of_events
    a_bad_frame_ends_its_polled_connection
}

/// A frame that is valid, and values that each of its members must not have.
struct Shape {
    valid: Value,
    required: &'static [&'static str],
    bad: Vec<(&'static str, Vec<Value>)>,
}

/// Values that are not a sequence.
fn not_sequences() -> Vec<Value> {
    vec![
        json!("1"),
        json!(-1),
        json!(1.5),
        json!(true),
        json!([1]),
        json!({}),
        json!(1_u64 << 53),
        json!(1_u64 << 63),
        json!(u64::MAX),
    ]
}

fn shapes() -> Vec<Shape> {
    let not_windows = || vec![json!("1"), json!(-1), json!(1.5), json!([]), json!(1_u64 << 32)];
    let not_bytes = || vec![json!("1"), json!(-1), json!(1.5), json!([]), json!(1_u64 << 53)];
    let or_null = |mut values: Vec<Value>| {
        values.push(Value::Null);
        values
    };
    vec![
        Shape {
            valid: json!({"type": "delivery.ack", "applied": 0}),
            required: &["applied"],
            bad: vec![("applied", not_sequences()), ("received", not_sequences())],
        },
        Shape {
            valid: json!({
                "type": "delivery.nack", "sequence": 1, "code": "invalid", "retryable": false,
            }),
            required: &["sequence", "code", "retryable"],
            bad: vec![
                ("sequence", or_null(not_sequences())),
                ("code", vec![json!("other"), json!(""), json!(1), Value::Null]),
                ("retryable", vec![json!("no"), json!(0), Value::Null]),
                ("retryAfterMs", vec![json!(-1), json!("1"), json!(86_400_001), json!(u64::MAX)]),
                ("detail", vec![json!(1), json!("x".repeat(2049)), json!({})]),
            ],
        },
        Shape {
            valid: json!({"type": "delivery.progress", "sequence": 1}),
            required: &["sequence"],
            bad: vec![("sequence", or_null(not_sequences()))],
        },
        Shape {
            valid: json!({"type": "delivery.credit", "window": 1}),
            required: &["window"],
            bad: vec![("window", not_windows()), ("windowBytes", not_bytes())],
        },
    ]
}

fn hello_shape() -> Shape {
    let position = |epoch: &str, sequence: Value| json!({"epoch": epoch, "sequence": sequence});
    let epoch = "01890a5d-ac96-774b-bcce-b302099a8057";
    let mut resumes = vec![
        json!("newest"),
        json!(1),
        Value::Null,
        json!({"sequence": 1}),
        json!({"epoch": epoch}),
        position("x", json!(1)),
        json!({"epoch": epoch, "sequence": 1, "eventId": ""}),
        json!({"epoch": epoch, "sequence": 1, "eventId": 1}),
        json!({"epoch": epoch, "sequence": 1, "eventId": "an id"}),
        json!({"epoch": epoch, "sequence": 1, "eventId": "id\u{7}"}),
        json!({"epoch": epoch, "sequence": 1, "eventId": "é"}),
        json!({"epoch": epoch, "sequence": 1, "eventId": "x".repeat(65)}),
    ];
    resumes.extend(not_sequences().into_iter().map(|sequence| position(epoch, sequence)));
    Shape {
        valid: json!({"type": "connection.hello", "resume": "server", "confirm": "applied"}),
        required: &["resume", "confirm"],
        bad: vec![
            ("resume", resumes),
            ("confirm", vec![json!("written"), json!(1), json!(true), Value::Null]),
            (
                "instance",
                vec![json!(""), json!("a\u{7}b"), json!("a\n"), json!("x".repeat(65)), json!(7)],
            ),
            ("window", vec![json!(-1), json!("many"), json!(1_u64 << 32), json!(1.5)]),
            ("windowBytes", vec![json!(-1), json!("many"), json!(1.5), json!(1_u64 << 53)]),
            (
                "types",
                vec![
                    json!([]),
                    json!("api.deployed"),
                    json!(["no type"]),
                    json!([1]),
                    json!(vec!["a.b"; 65]),
                ],
            ),
        ],
    }
}

impl Shape {
    /// The frame without each required member, and with each bad value.
    fn frames(&self) -> Vec<String> {
        let without = self.required.iter().map(|member| {
            let mut frame = self.valid.clone();
            frame.as_object_mut().expect("an object").remove(*member);
            frame
        });
        let with = self.bad.iter().flat_map(|(member, values)| {
            values.iter().map(|value| {
                let mut frame = self.valid.clone();
                frame[*member] = value.clone();
                frame
            })
        });
        without.chain(with).map(|frame| frame.to_string()).collect()
    }
}

/// Texts that are not a frame.
fn malformed() -> Vec<String> {
    let texts =
        ["", "x", "{", "null", "7", "\"delivery.ack\"", "{}", "{\"type\":1}", "{\"type\":null}"];
    texts.map(str::to_owned).into()
}

/// A frame that is too large.
fn large() -> String {
    json!({"type": "delivery.later", "pad": "x".repeat(16 * 1024)}).to_string()
}

/// Frames that are valid, and contradict a connection on which nothing was sent.
fn contradictions() -> Vec<(String, &'static str)> {
    [
        (json!({"type": "delivery.ack", "applied": 1}), "beyond_sent"),
        (json!({"type": "delivery.ack", "received": 1}), "beyond_sent"),
        (json!({"type": "delivery.ack", "applied": (1_u64 << 53) - 1}), "beyond_sent"),
        (json!({"type": "delivery.progress", "sequence": 1}), "beyond_sent"),
        (
            json!({"type": "delivery.nack", "sequence": 1, "code": "invalid", "retryable": true}),
            "beyond_sent",
        ),
    ]
    .map(|(frame, code)| (frame.to_string(), code))
    .into()
}

/// A gateway whose connection a bad frame ends, and another one with an event in flight, which must be
/// confirmed afterwards.
async fn beside_another(backend: &Backend, kind: Kind, case: impl AsyncFn(&TestBed)) {
    let settings = [("LIMITS__ATTEMPTS_PER_MINUTE", "1000")];
    let world = std::sync::Arc::new(World::served(backend, &settings).await);
    let other = TestBed::new(world.clone(), kind, "other").await;
    other.publish(1..=1).await;
    let mut peer = other.connected().await;
    peer.event(1).await;
    case(&TestBed::new(world, kind, "bad").await).await;
    peer.applied(1).await;
    other.confirmed(1).await;
    other.publish(2..=2).await;
    peer.event(2).await;
}

async fn a_bad_frame_ends_its_socket(backend: Backend) {
    beside_another(&backend, Kind::WebSocket, async |bed| {
        let (service, instance) = (bed.service(), json!({"instance": "a"}));
        let invalid = shapes().into_iter().flat_map(|shape| shape.frames());
        let mut cases: Vec<(String, &str)> = invalid.map(|it| (it, "invalid_frame")).collect();
        cases.extend(malformed().into_iter().map(|it| (it, "malformed_frame")));
        cases.push(("[]".to_owned(), "malformed_frame"));
        cases.push((large(), "frame_too_large"));
        cases.push((hello_shape().valid.to_string(), "hello_repeated"));
        cases.extend(contradictions());
        for (text, code) in cases {
            let mut peer = Socket::connect(service, &bed.key, instance.clone()).await;
            peer.text(&text).await;
            let (closed, error) = peer.closed().await;
            assert_eq!((closed, error["code"].as_str()), (4501, Some(code)), "{text}: {error}");
            in_words_of_the_contract(error["message"].as_str().expect("a message"));
        }
        let mut peer = Socket::connect(service, &bed.key, instance).await;
        peer.message(Message::binary(vec![0; 10])).await;
        assert_eq!(peer.closed().await.0, 4501);
    })
    .await;
}

async fn a_bad_hello_is_answered_with_an_error(backend: Backend) {
    beside_another(&backend, Kind::WebSocket, async |bed| {
        let invalid = hello_shape().frames().into_iter().map(|it| (it, "invalid_frame"));
        let early = shapes().into_iter().map(|it| (it.valid.to_string(), "hello_expected"));
        let other = malformed().into_iter().map(|it| (it, "malformed_frame"));
        for (text, code) in invalid.chain(early).chain(other).chain([(large(), "frame_too_large")])
        {
            let mut peer = Socket::greet(bed.service(), &bed.key).await;
            peer.text(&text).await;
            let (closed, error) = peer.closed().await;
            assert_eq!((closed, error["code"].as_str()), (4501, Some(code)), "{text}: {error}");
            in_words_of_the_contract(error["message"].as_str().expect("a message"));
        }
        let shown = bed.service().api().get(&format!("/gateways/{}/connections", bed.id)).await;
        assert_eq!(shown.expect("connections")["count"], 0, "none of them was recorded");
    })
    .await;
}

/// Frames, and what is said about them: the member, and what it must be.
fn refused() -> Vec<(Value, &'static str)> {
    const SEQUENCE: &str = "must be a whole number from 0 to 9007199254740991, not";
    let nack = |member: &str, value: Value| {
        let mut nack = shapes().remove(1).valid;
        nack[member] = value;
        nack
    };
    let ack = |applied: Value| json!({"type": "delivery.ack", "applied": applied});
    let frames = [
        (ack(json!("x")), format!("delivery.ack: applied: {SEQUENCE} \"x\"")),
        (ack(json!(-1)), format!("delivery.ack: applied: {SEQUENCE} -1")),
        (ack(json!(1.5)), format!("delivery.ack: applied: {SEQUENCE} 1.5")),
        (ack(json!([1])), format!("delivery.ack: applied: {SEQUENCE} an array")),
        (ack(json!({})), format!("delivery.ack: applied: {SEQUENCE} an object")),
        (ack(json!(1_u64 << 63)), format!("delivery.ack: applied: {SEQUENCE} 9223372036854775808")),
        (nack("sequence", Value::Null), format!("delivery.nack: sequence: {SEQUENCE} null")),
        (
            nack("code", json!("other")),
            "delivery.nack: code: must be one of `apply_failed`, `invalid`, `unsupported`, \
             `dependency_missing`, `timeout`, `overloaded`, `conflict`, not \"other\""
                .to_owned(),
        ),
        (
            nack("code", json!(1)),
            "delivery.nack: code: must be one of `apply_failed`, `invalid`, `unsupported`, \
             `dependency_missing`, `timeout`, `overloaded`, `conflict`, not 1"
                .to_owned(),
        ),
        (
            nack("retryable", json!("no")),
            "delivery.nack: retryable: must be true or false, not \"no\"".to_owned(),
        ),
        (
            nack("retryAfterMs", json!("1")),
            "delivery.nack: retryAfterMs: must be a whole number from 0 to 86400000, not \"1\""
                .to_owned(),
        ),
        (
            nack("retryAfterMs", json!(86_400_001)),
            "delivery.nack: retryAfterMs: must be a whole number from 0 to 86400000, not 86400001"
                .to_owned(),
        ),
        (nack("detail", json!(7)), "delivery.nack: detail: must be a string, not 7".to_owned()),
        (
            json!({"type": "delivery.progress"}),
            "delivery.progress: sequence: is required".to_owned(),
        ),
        (
            json!({"type": "delivery.credit", "window": 1_u64 << 32}),
            "delivery.credit: window: must be a whole number from 0 to 4294967295, not 4294967296"
                .to_owned(),
        ),
        (json!({"type": 1}), "type: must be a string, not 1".to_owned()),
        (json!({}), "type: is required".to_owned()),
    ];
    frames.map(|(frame, message)| (frame, &*message.leak())).into()
}

async fn an_error_says_what_the_member_must_be(backend: Backend) {
    let world = std::sync::Arc::new(
        World::served(&backend, &[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await,
    );
    let socket = TestBed::new(world.clone(), Kind::WebSocket, "one").await;
    let stream = TestBed::new(world, Kind::Sse, "two").await;
    for (frame, message) in refused() {
        let mut peer = Socket::connect(socket.service(), &socket.key, json!({})).await;
        peer.text(&frame.to_string()).await;
        assert_eq!(peer.closed().await.1["message"], message);
        let mut peer = Stream::connect(stream.service(), &stream.key, "").await;
        assert_eq!(peer.post(&frame).await.json()["detail"], message);
        assert_eq!(peer.ended().await["message"], message);
    }
    let position = json!({"epoch": "x", "sequence": "1"});
    for (member, value, message) in [
        ("confirm", json!(7), "confirm: must be `received` or `applied`, not 7"),
        (
            "resume",
            json!(7),
            "resume: must be an object, \"server\", \"latest\" or \"earliest\", not 7",
        ),
        ("resume", position, "resume.epoch: must be a UUID such as"),
        ("types", json!("a.b"), "types: must be an array, not \"a.b\""),
        ("types", json!(["a.b", 1]), "types.1: must be a string, not 1"),
        (
            "windowBytes",
            json!([]),
            "windowBytes: must be a whole number from 0 to 9007199254740991, not an array",
        ),
    ] {
        let mut peer = Socket::greet(socket.service(), &socket.key).await;
        peer.text(&hello(&json!({member: value})).to_string()).await;
        let error = peer.closed().await.1;
        let said = error["message"].as_str().expect("a message");
        assert!(said.starts_with(&format!("connection.hello: {message}")), "{said}");
    }
}

/// Bodies of requests, with the status and the code of their refusal.
fn bodies() -> Vec<(String, u16, &'static str)> {
    let invalid = shapes().into_iter().flat_map(|shape| shape.frames());
    let mut cases: Vec<(String, u16, &str)> = Vec::new();
    for text in invalid {
        let batch = format!(r#"[{{"type":"delivery.ack","applied":0}},{text}]"#);
        cases.push((text, 422, "invalid_frame"));
        cases.push((batch, 422, "invalid_frame"));
    }
    cases.extend(malformed().into_iter().map(|it| (it, 400, "malformed_frame")));
    cases.extend(["[{]", "[7]", "[[]]"].map(|it| (it.to_owned(), 400, "malformed_frame")));
    cases.push((hello_shape().valid.to_string(), 422, "invalid_frame"));
    cases.push((large(), 413, "frame_too_large"));
    let many = vec![json!({"type": "delivery.ack", "applied": 0}); 257];
    cases.push((Value::from(many).to_string(), 413, "frame_too_large"));
    cases
}

async fn a_bad_frame_ends_its_stream_of_events(backend: Backend) {
    beside_another(&backend, Kind::Sse, async |bed| {
        for (body, status, code) in bodies() {
            let query = "?confirm=applied&instance=a";
            let mut peer = Stream::connect(bed.service(), &bed.key, query).await;
            peer.post_as(&bed.key, body.clone()).await.refusal(status, code);
            let error = peer.ended().await;
            assert!(error["code"].is_string(), "{body}: {error}");
            bed.until(async || peer.post(&json!([])).await.status == 409).await;
        }
        for (body, code) in contradictions() {
            // Only the lane knows what was sent.
            let mut peer = Stream::connect(bed.service(), &bed.key, "?confirm=applied").await;
            assert_eq!(peer.post_as(&bed.key, body).await.status, 204);
            assert_eq!(peer.ended().await["code"], code);
        }
    })
    .await;
}

async fn a_bad_frame_ends_its_polled_connection(backend: Backend) {
    beside_another(&backend, Kind::LongPoll, async |bed| {
        let peer = Polling::new(bed.service(), &bed.key);
        let live = format!("/gateways/{}/connections?status=connected", bed.id);
        let ended = async || {
            bed.service().eventually(&live, |shown| shown["count"] == 0).await;
        };
        for (body, status, code) in bodies() {
            assert_eq!(peer.poll("instance=a&wait=0s").await.status, 204);
            peer.post_text("a", body).await.refusal(status, code);
            ended().await;
        }
        for (body, _) in contradictions() {
            assert_eq!(peer.poll("instance=a&wait=0s").await.status, 204);
            assert_eq!(peer.post_text("a", body).await.status, 204);
            ended().await;
        }
    })
    .await;
}
