//! Payloads are delivered byte for byte.

use serde_json::json;

use crate::support::{Service, deployed};

/// Texts that would change if they were parsed and serialized again.
const NOT_CANONICAL: [&str; 12] = [
    r#"{"apiId":"a","deploymentId":"d","n":1.0}"#,
    r#"{"n":[1.10,1E5,1e-7,-0,-0.0,100000000000000000000000000001,0.1000000000000000055511151231257827]}"#,
    r#"{"z":1,"a":2,"m":{"z":1,"a":2}}"#,
    "{ \"a\" :\t1 ,\n\"b\" : [ ] }",
    r#"{"a":1,"a":2,"a":{"b":1,"b":2}}"#,
    r#"{"text":"\u0000\u001f\u00e9\ud83d\ude00\/"}"#,
    "{\"text\":\"é 😀 \u{2028} \u{feff} \u{7f}\"}",
    r#"{"":"","\u0061":null}"#,
    r#"{"performedAt":"2026-01-31T09:30:00.001000000+00:00"}"#,
    r#"{"type":"x","payload":{"type":"y"}}"#,
    "{}",
    r#"{"html":"</script><!--","quote":"\"'\\"}"#,
];

/// The payload's text within a frame, between these two members.
fn payload(frame: &str) -> &str {
    let (_, rest) = frame.split_once("\"payload\":").expect("a payload");
    rest.rsplit_once(",\"timestamp\":").expect("a timestamp").0
}

#[tokio::test]
async fn a_payload_arrives_byte_for_byte_live_and_from_the_log() {
    let service = Service::start().await;
    let admin = service.admin();
    let ((one, key), (later, later_key)) =
        (service.gateway("one").await, service.gateway("later").await);
    admin.put("/event-types/any.thing", &json!({})).await.success();
    let mut live = service.connected(&key).await;
    for payload in NOT_CANONICAL {
        let event = format!(
            r#"{{"type":"any.thing","gatewayIds":["{one}","{later}"],"payload":{payload}}}"#
        );
        admin.publish(event).await.success();
    }
    for expected in NOT_CANONICAL {
        assert_eq!(payload(&live.next_text().await.expect("an event")), expected);
    }
    let mut replayed = service.connected(&later_key).await;
    for expected in NOT_CANONICAL {
        let frame = replayed.next_text().await.expect("an event");
        assert_eq!(payload(&frame), expected);
        let event: serde_json::Value = serde_json::from_str(&frame).expect("JSON");
        let path = format!("/events/{}", event["eventId"].as_str().expect("an id"));
        let shown = admin.get(&path).await;
        assert!(shown.body.contains(&format!("\"payload\":{expected}")), "{}", shown.body);
    }
}

#[tokio::test]
async fn payloads_that_gateways_can_not_parse_are_refused() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, _) = service.gateway("one").await;
    admin.put("/event-types/any.thing", &json!({})).await.success();
    for (unreadable, says) in [
        (r#"{"n":1e400}"#, "number out of range"),
        (r#"{"n":-1e400}"#, "number out of range"),
        (r#"{"text":"\ud800"}"#, "hex escape"),
    ] {
        let event =
            format!(r#"{{"type":"any.thing","gatewayIds":["{id}"],"payload":{unreadable}}}"#);
        admin.publish(event).await.invalid("payload", &[says]);
    }
    for no_json in [r#"{"n":01}"#, r#"{"n":NaN}"#, r#"{"n":.5}"#, "{\"text\":\"\t\"}", "{'a':1}"] {
        let event = format!(r#"{{"type":"any.thing","gatewayIds":["{id}"],"payload":{no_json}}}"#);
        admin.publish(event).await.refusal(400, "malformed_json");
    }
}

#[tokio::test]
async fn the_largest_event_is_a_frame_of_one_mebibyte_with_the_largest_sequence() {
    let service = Service::start().await;
    let admin = service.admin();
    let (id, key) = service.gateway("one").await;
    let sized = |length: usize| {
        let mut event = deployed(&[&id], &"x".repeat(length));
        event["id"] = json!(format!("e-{length:0>20}"));
        event
    };
    let mut socket = service.connected(&key).await;
    admin.post("/events", &sized(1)).await.success();
    let frame = socket.next_text().await.expect("an event");
    // The sequence has one digit here, sixteen at its largest.
    let room = (1 << 20) - (frame.len() - 1) - 15;
    admin.post("/events", &sized(room)).await.success();
    let refused = admin.post("/events", &sized(room + 1)).await;
    let problem = refused.refusal(413, "event_too_large");
    let detail = problem["detail"].as_str().expect("a text");
    assert!(detail.contains("1048577") && detail.contains("1048576"), "{detail}");
    assert_eq!(socket.next_text().await.expect("the largest").len(), (1 << 20) - 15);
    // In a batch, only the event that is too large is refused.
    let batch = admin.post("/events", &json!([sized(room + 1), sized(2)])).await;
    let results = &batch.json()["results"];
    assert_eq!(
        (&results[0]["code"], &results[1]["status"]),
        (&json!("event_too_large"), &json!(202))
    );
}
