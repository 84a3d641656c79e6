//! Invalid messages: they confirm nothing, end at most their own connection, and harm no other.

use serde_json::{Value, json};

use crate::raw_gateway::{BINARY, CLOSE, CONTINUATION, PING, PONG, RawGateway, TEXT};
use crate::support::{Service, deployed};

/// A service, and a gateway that has received three events and confirmed none.
async fn with_unconfirmed_events(service: &Service) -> (RawGateway, String) {
    let (id, key) = service.gateway("one").await;
    let mut gateway = RawGateway::connect(service, service.port, &key).await;
    let batch: Vec<Value> =
        (1..=3).map(|number| deployed(&[&id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
    gateway.receipt_asked(3).await;
    (gateway, id)
}

/// Waits for an answer, which shows that everything sent before was processed.
async fn processed(gateway: &mut RawGateway) {
    gateway.send(true, PING, b"there?").await;
    while gateway.next_of(PONG).await.expect("an answer").payload != b"there?" {}
}

async fn confirmed(service: &Service, id: &str) -> Value {
    service.api().get(&format!("/gateways/{id}")).await.expect("the gateway")["confirmed"].clone()
}

#[tokio::test]
async fn only_echoes_of_sent_pings_confirm_and_only_forwards() {
    const LOGGED: &str = "receipt_not_sent";
    let service = Service::start().await;
    let (mut gateway, id) = with_unconfirmed_events(&service).await;
    let nothing = [
        "",
        "0",
        "4",
        "-1",
        "+2",
        "02",
        " 2",
        "2 ",
        "2.0",
        "0x2",
        "two",
        "9007199254740991",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "99999999999999999999999999999999999999999999",
    ];
    for payload in nothing {
        gateway.pong(payload).await;
    }
    gateway.send(true, PONG, &[0xff; 125]).await;
    processed(&mut gateway).await;
    assert_eq!(confirmed(&service, &id).await, 0);
    gateway.pong("2").await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 2).await;
    // Messages are processed in order, so this covers what was sent before the 2.
    assert_eq!(service.invalid_messages(LOGGED).await, 2, "4 and the largest number there is");
    for payload in ["1", "2", "4"] {
        gateway.pong(payload).await;
    }
    processed(&mut gateway).await;
    assert_eq!(confirmed(&service, &id).await, 2);
    gateway.pong("3").await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
    assert_eq!(service.invalid_messages(LOGGED).await, 3);
    // It is still the same connection.
    let path = format!("/gateways/{id}/connections");
    let past = service.api().get(&path).await.expect("connections");
    assert_eq!((&past["count"], &past["list"][0]["status"]), (&json!(1), &json!("connected")));
}

#[tokio::test]
async fn invalid_messages_do_not_end_the_connection() {
    let service = Service::start().await;
    let (mut gateway, id) = with_unconfirmed_events(&service).await;
    gateway.send(true, BINARY, &[0, 159, 146, 150]).await;
    gateway.send(true, TEXT, b"").await;
    gateway.text("{ no JSON").await;
    gateway.text("{\"type\":\"delivery.ack\",\"received\":3}").await;
    gateway.text("{\"type\":\"connection.ack\"}").await;
    gateway.text(&"[".repeat(16_000)).await;
    gateway
        .text(&format!("{{\"type\":\"deployment.ack\",\"payload\":{}", "{\"a\":".repeat(3_000)))
        .await;
    processed(&mut gateway).await;
    assert_eq!(confirmed(&service, &id).await, 0);
    gateway.pong("3").await;
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
}

/// RFC 6455, 5.4: a message may be fragmented, with control frames between the fragments.
#[tokio::test]
async fn a_fragmented_message_is_one_message() {
    let service = Service::start().await;
    let (mut gateway, id) = with_unconfirmed_events(&service).await;
    let report = json!({"type": "deployment.ack", "payload": {
        "deploymentId": "d-3", "artifactId": "a-1", "resourceType": "api", "action": "deploy",
        "status": "failed", "performedAt": "2026-01-31T09:30:00.001Z",
        "errorCode": "DEPLOYMENT_ID_MISMATCH"}})
    .to_string();
    let (first, rest) = report.as_bytes().split_at(10);
    gateway.send(false, TEXT, first).await;
    gateway.pong("3").await;
    gateway.send(false, CONTINUATION, b"").await;
    gateway.send(true, CONTINUATION, rest).await;
    let path = format!("/deliveries?gatewayId={id}");
    let page = service.eventually(&path, |page| page["count"] == 1).await;
    assert_eq!(page["list"][0]["reason"], "deployment_id_mismatch", "{page:#}");
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 3).await;
}

/// Whether a frame is final, its opcode, and its payload.
type Frames<'a> = Vec<(bool, u8, &'a [u8])>;

/// Frames that end their connection, each with its close code.
#[tokio::test]
async fn a_protocol_violation_ends_its_own_connection_with_a_close_code() {
    const TOO_LARGE: usize = 16 * 1024 + 1;
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (other, other_key) = service.gateway("other").await;
    let mut bystander = RawGateway::connect(&service, service.port, &other_key).await;
    let (id, key) = service.gateway("hostile").await;
    let large = vec![b'x'; TOO_LARGE];
    let half = vec![b'x'; TOO_LARGE / 2 + 1];
    let offences: [(u16, Frames<'_>); 8] = [
        (1009, vec![(true, TEXT, &large)]),
        (1009, vec![(true, BINARY, &large)]),
        (1009, vec![(false, TEXT, &half), (true, CONTINUATION, &half)]),
        (1007, vec![(true, TEXT, b"\xc3\x28")]),
        (1007, vec![(false, TEXT, b"\xc3"), (true, CONTINUATION, b"\x28")]),
        (1002, vec![(true, CONTINUATION, b"of nothing")]),
        (1002, vec![(true, 3, b"no such opcode")]),
        (1002, vec![(true, PING, &[0; 126])]),
    ];
    for (number, (code, frames)) in offences.iter().enumerate() {
        let mut gateway = RawGateway::connect(&service, service.port, &key).await;
        for (is_final, opcode, payload) in frames {
            gateway.send(*is_final, *opcode, payload).await;
        }
        let close = gateway.next_of(CLOSE).await.expect("a close frame");
        assert_eq!(close.code(), *code, "offence {number}");
        let path = format!("/gateways/{id}/connections");
        let past = service
            .eventually(&path, |page| {
                page["count"] == number + 1 && page["list"][0]["status"] == "closed"
            })
            .await;
        assert_eq!(past["list"][0]["closeReason"], "protocol_error", "offence {number}: {past:#}");
    }
    service.api().post("/events", &deployed(&[&other], "d")).await.expect("accepted");
    bystander.receipt_asked(1).await;
    bystander.pong("1").await;
    service.eventually(&format!("/gateways/{other}"), |gateway| gateway["confirmed"] == 1).await;
    assert!(!service.log().contains("panicked"), "{}", service.log());
}

/// Frames that are not masked, and reserved bits.
#[tokio::test]
async fn invalid_frames_only_end_their_own_connection() {
    let service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let (id, key) = service.gateway("hostile").await;
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
    for bytes in [&b"\x81\x02hi"[..], b"\xf1\x80\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", &noise] {
        let mut gateway = RawGateway::connect(&service, service.port, &key).await;
        gateway.write(bytes).await;
        while gateway.next().await.is_some() {}
    }
    let path = format!("/gateways/{id}/connections");
    let closed = |page: &Value| {
        page["list"].as_array().is_some_and(|list| list.iter().all(|one| one["status"] == "closed"))
    };
    service.eventually(&path, closed).await;
    assert!(!service.log().contains("panicked"), "{}", service.log());
}
