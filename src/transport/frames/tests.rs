//! Every frame, with each member missing, of a wrong type, out of range and too large.

use serde_json::{Value, json};

use super::*;
use crate::clock::Timestamp;
use crate::event::{CorrelationId, Epoch, Event, EventId, EventType};

const EPOCH: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
/// 2^53.
const BEYOND: i64 = Sequence::MAX.0 + 1;

/// A value of each kind of JSON.
fn values() -> [Value; 7] {
    [json!(null), json!(true), json!(7), json!(1.5), json!("x"), json!([]), json!({})]
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() => "integer",
        Value::Number(_) => "float",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn gateway(frame: &Value) -> Result<Option<GatewayFrame>, FrameError> {
    GatewayFrame::parse(frame.to_string().as_bytes())
}

fn server(frame: &Value) -> Result<Option<ServerFrame>, FrameError> {
    ServerFrame::parse(frame.to_string().as_bytes())
}

fn with(frame: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = frame.clone();
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
    let parent = changed.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    parent.insert(member.to_owned(), value);
    changed
}

fn without(frame: &Value, pointer: &str) -> Value {
    let mut changed = frame.clone();
    let (parent, member) = pointer.rsplit_once('/').expect("a pointer");
    let parent = changed.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    parent.remove(member).expect("the member exists");
    changed
}

/// Pointers to all members but `type`, those of nested objects included.
fn members(frame: &Value, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in frame.as_object().into_iter().flatten() {
        let pointer = format!("{prefix}/{name}");
        // A payload is passed on as it is.
        if name != "payload" {
            found.extend(members(value, &pointer));
        }
        if pointer != "/type" {
            found.push(pointer);
        }
    }
    found
}

fn invalid<T: std::fmt::Debug>(parsed: Result<T, FrameError>, member: &str, frame: &Value) {
    let error = parsed.expect_err(&frame.to_string());
    assert_eq!(error.code, ErrorCode::InvalidFrame, "{error} for {frame}");
    let frame_type = frame["type"].as_str().expect("a type");
    assert!(error.message.starts_with(&format!("{frame_type}: ")), "{error}");
    assert!(error.message.contains(member), "{error} does not name {member}");
}

/// One of each frame with all its members, and the pointers of its optional ones.
fn gateway_frames() -> Vec<(Value, &'static [&'static str])> {
    let position = json!({"epoch": EPOCH, "sequence": 5, "eventId": "e-5"});
    vec![
        (
            json!({
                "type": "connection.hello", "instance": "berlin-1", "resume": position, "window": 8,
                "windowBytes": 1024, "types": ["api.deployed"], "confirm": "applied",
                "envelope": "cloudevents",
            }),
            &["/instance", "/resume/eventId", "/window", "/windowBytes", "/types", "/envelope"],
        ),
        (json!({"type": "delivery.ack", "received": 2, "applied": 1}), &["/received", "/applied"]),
        (
            json!({
                "type": "delivery.nack", "sequence": 3, "code": "apply_failed", "retryable": true,
                "retryAfterMs": 500, "detail": "why",
            }),
            &["/retryAfterMs", "/detail"],
        ),
        (json!({"type": "delivery.progress", "sequence": 3}), &[]),
        (
            json!({"type": "delivery.credit", "window": 8, "windowBytes": 1024}),
            &["/window", "/windowBytes"],
        ),
    ]
}

fn server_frames() -> Vec<(Value, &'static [&'static str])> {
    let now = "2026-01-01T00:00:00.000000Z";
    vec![
        (
            json!({
                "type": "connection.ack", "gatewayId": EPOCH, "connectionId": EPOCH, "timestamp": now,
                "protocol": PROTOCOL, "epoch": EPOCH, "head": 9, "oldest": 1, "heartbeatMs": 10_000,
                "limits": {"frameBytes": 1_048_667, "window": 64, "windowBytes": 4_194_304},
            }),
            &[],
        ),
        (
            json!({
                "type": "connection.resumed", "from": 4, "head": 9, "epoch": EPOCH, "mode": "replay",
                "pending": 5, "envelope": "cloudevents",
            }),
            &["/envelope"],
        ),
        (
            json!({
                "type": "api.deployed", "payload": {"apiId": "a"}, "timestamp": now,
                "correlationId": "c-5", "userId": "u", "eventId": "e-5", "sequence": 5, "previous": 4,
                "epoch": EPOCH, "attempt": 1, "expiresAt": now,
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            }),
            &["/userId", "/expiresAt", "/traceparent"],
        ),
        (json!({"type": "delivery.mark", "sequence": 7, "head": 9}), &[]),
        (
            json!({
                "type": "delivery.gap", "from": 1, "to": 3, "reason": "retention",
                "snapshotUrl": "https://localhost/snapshot", "resumeAt": 3, "epoch": EPOCH,
            }),
            &["/snapshotUrl"],
        ),
        (
            json!({
                "type": "connection.drain", "reason": "shutdown", "reconnectAfterMs": 1500,
                "graceMs": 5000,
            }),
            &[],
        ),
        (json!({"type": "connection.error", "code": "invalid_frame", "message": "why"}), &[]),
    ]
}

#[test]
fn every_frame_is_read_back_with_its_type_first() {
    for (frame, _) in gateway_frames() {
        let parsed = gateway(&frame).expect("valid").expect("known");
        let text = parsed.to_text();
        assert!(text.starts_with(b"{\"type\":\""), "{frame}");
        assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON"), frame);
    }
    for (frame, _) in server_frames() {
        let parsed = server(&frame).expect("valid").expect("known");
        assert_eq!(parsed.frame_type(), frame["type"]);
        let text = parsed.to_text();
        assert!(text.starts_with(b"{\"type\":\""), "{frame}");
        assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON"), frame);
    }
}

#[test]
fn a_missing_member_is_an_error_unless_it_is_optional() {
    fn check<T: std::fmt::Debug>(
        frames: Vec<(Value, &'static [&'static str])>,
        parse: fn(&Value) -> Result<T, FrameError>,
    ) {
        for (frame, optional) in frames {
            for member in members(&frame, "") {
                let changed = without(&frame, &member);
                if optional.contains(&member.as_str()) {
                    assert!(parse(&changed).is_ok(), "{member} of {frame}");
                } else {
                    let name = member.rsplit('/').next().expect("a name");
                    invalid(parse(&changed), &format!("{name}: is required"), &frame);
                }
            }
        }
    }
    check(gateway_frames(), gateway);
    check(server_frames(), server);
    for frame in ["delivery.ack", "delivery.credit"] {
        let frame = json!({"type": frame});
        invalid(gateway(&frame), "is required", &frame);
    }
}

#[test]
fn a_member_of_a_wrong_type_is_an_error() {
    fn check<T: std::fmt::Debug>(
        frames: Vec<(Value, &'static [&'static str])>,
        parse: fn(&Value) -> Result<T, FrameError>,
    ) {
        for (frame, optional) in frames {
            for member in members(&frame, "") {
                let is = kind(frame.pointer(&member).expect("the member"));
                for value in values() {
                    let is_allowed = kind(&value) == is
                        || value.is_null() && optional.contains(&member.as_str())
                        // The payload is passed on as it is.
                        || member == "/payload";
                    if !is_allowed {
                        let changed = with(&frame, &member, value);
                        let name = member.rsplit('/').next().expect("a name");
                        invalid(parse(&changed), name, &frame);
                    }
                }
            }
        }
    }
    check(gateway_frames(), gateway);
    check(server_frames(), server);
}

#[test]
fn a_number_out_of_range_is_an_error() {
    fn check<T: std::fmt::Debug>(
        frames: Vec<(Value, &'static [&'static str])>,
        parse: fn(&Value) -> Result<T, FrameError>,
    ) {
        for (frame, _) in frames {
            for member in members(&frame, "") {
                if !frame.pointer(&member).is_some_and(Value::is_i64) {
                    continue;
                }
                let name = member.rsplit('/').next().expect("a name");
                let negative = with(&frame, &member, json!(-1));
                invalid(parse(&negative), name, &frame);
                for huge in [json!(1_u64 << 63), json!(u64::MAX), json!(1e300)] {
                    // Durations and sizes that only the service sends have no other limit.
                    let is_unlimited = matches!(
                        name,
                        "heartbeatMs"
                            | "frameBytes"
                            | "windowBytes"
                            | "pending"
                            | "reconnectAfterMs"
                            | "graceMs"
                    ) && huge.is_u64();
                    if !is_unlimited || frame["type"] == "delivery.credit" {
                        invalid(parse(&with(&frame, &member, huge)), name, &frame);
                    }
                }
                let is_sequence = matches!(
                    name,
                    "sequence"
                        | "previous"
                        | "received"
                        | "applied"
                        | "head"
                        | "oldest"
                        | "from"
                        | "to"
                        | "resumeAt"
                );
                if is_sequence {
                    let zero = with(&frame, &member, json!(0));
                    assert!(parse(&zero).is_ok(), "{zero}");
                    let last = with(&frame, &member, json!(Sequence::MAX));
                    assert!(parse(&last).is_ok(), "{last}");
                    invalid(parse(&with(&frame, &member, json!(BEYOND))), name, &frame);
                }
            }
        }
    }
    check(gateway_frames(), gateway);
    check(server_frames(), server);
    let (hello, _) = gateway_frames().swap_remove(0);
    for bytes in [json!(BEYOND), json!(u64::MAX)] {
        invalid(gateway(&with(&hello, "/windowBytes", bytes)), "windowBytes", &hello);
    }
    invalid(gateway(&with(&hello, "/window", json!(1_u64 << 32))), "window", &hello);
    let (nack, _) = gateway_frames().swap_remove(2);
    let day = json!(MAX_RETRY_AFTER_MS);
    assert!(gateway(&with(&nack, "/retryAfterMs", day)).is_ok());
    let more = json!(MAX_RETRY_AFTER_MS + 1);
    invalid(gateway(&with(&nack, "/retryAfterMs", more)), "retryAfterMs", &nack);
}

#[test]
fn an_unknown_name_is_an_error() {
    let frames = gateway_frames();
    for (frame, member) in [(0, "/resume"), (0, "/confirm"), (2, "/code")] {
        let (frame, _) = &frames[frame];
        for name in ["", "Server", "applied ", "x\n\u{7}"] {
            let changed = with(frame, member, json!(name));
            let error = gateway(&changed).expect_err("unknown");
            assert!(!error.message.contains(char::is_control), "{error:?}");
            invalid(Err::<(), _>(error), &member[1..], frame);
        }
    }
    for name in ["server", "latest", "earliest"] {
        assert!(gateway(&with(&frames[0].0, "/resume", json!(name))).is_ok(), "{name}");
    }
    for code in NackCode::ALL {
        let frame = with(&frames[2].0, "/code", json!(code.as_str()));
        let Ok(Some(GatewayFrame::Nack(nack))) = gateway(&frame) else { panic!("{frame}") };
        assert_eq!(nack.code, code);
    }
    for (frame, member) in [(1, "/mode"), (4, "/reason")] {
        let (frame, _) = &server_frames()[frame];
        invalid(server(&with(frame, member, json!("other"))), &member[1..], frame);
    }
}

#[test]
fn an_instance_has_1_to_64_characters_and_none_of_them_is_a_control_character() {
    let (hello, _) = gateway_frames().swap_remove(0);
    for name in ["a", " ", "Zürich 1/α", &"ü".repeat(64)] {
        assert!(gateway(&with(&hello, "/instance", json!(name))).is_ok(), "{name:?}");
    }
    for name in ["", "a\0", "\n", "a\u{7f}b", "\u{85}", &"ü".repeat(65), &"a".repeat(10_000)] {
        let error = gateway(&with(&hello, "/instance", json!(name))).expect_err("invalid");
        assert!(error.message.len() < 500, "{error:?}");
        invalid(Err::<(), _>(error), "instance", &hello);
    }
}

#[test]
fn lists_and_texts_that_are_too_large_are_errors() {
    let frames = gateway_frames();
    let (hello, _) = &frames[0];
    let types = |count: usize| json!(vec!["api.deployed"; count]);
    assert!(gateway(&with(hello, "/types", types(MAX_TYPES))).is_ok());
    invalid(gateway(&with(hello, "/types", types(MAX_TYPES + 1))), "types", hello);
    invalid(gateway(&with(hello, "/types", types(0))), "types", hello);
    for name in ["connection.x", "x", &format!("a.{}", "b".repeat(200))] {
        invalid(gateway(&with(hello, "/types", json!(["api.deployed", name]))), "types.1: ", hello);
    }
    let id = json!("e".repeat(65));
    invalid(gateway(&with(hello, "/resume/eventId", id)), "eventId", hello);

    let (nack, _) = &frames[2];
    let detail = |bytes: usize| with(nack, "/detail", json!("ü".repeat(bytes / 2)));
    assert!(gateway(&detail(MAX_DETAIL_BYTES)).is_ok());
    invalid(gateway(&detail(MAX_DETAIL_BYTES + 2)), "detail", nack);

    let padded = with(nack, "/unknown", json!("x".repeat(MAX_GATEWAY_FRAME_BYTES)));
    assert_eq!(gateway(&padded).expect_err("too large").code, ErrorCode::FrameTooLarge);
}

#[test]
fn what_is_not_an_object_with_a_type_is_malformed() {
    let deep = [b"{\"type\":\"delivery.ack\",\"x\":".to_vec(), vec![b'['; 10_000]].concat();
    let not_utf8 = b"{\"type\":\"\xff\"}".to_vec();
    for text in [
        "",
        " ",
        "null",
        "7",
        "\"x\"",
        "[\"delivery.ack\"]",
        "[]",
        "{",
        "{}",
        "{\"type\":null}",
        "{\"type\":1}",
        "{\"type\":\"delivery.ack\",\"type\":\"delivery.ack\"}",
        "{\"type\":\"delivery.ack\",\"applied\":1} x",
        "\u{feff}{}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([deep, not_utf8])
    {
        let shown = String::from_utf8_lossy(&text);
        let error = GatewayFrame::parse(&text).expect_err(&shown);
        assert_eq!(error.code, ErrorCode::MalformedFrame, "{shown}: {error}");
        let error = ServerFrame::parse(&text).expect_err(&shown);
        assert_eq!(error.code, ErrorCode::MalformedFrame, "{shown}: {error}");
    }
    let twice = br#"{"type":"delivery.ack","applied":1,"applied":2}"#;
    let error = GatewayFrame::parse(twice).expect_err("a member twice");
    assert_eq!(error.code, ErrorCode::InvalidFrame, "{error}");
}

#[test]
fn unknown_types_and_members_are_ignored() {
    assert_eq!(gateway(&json!({"type": "delivery.later", "x": 1})), Ok(None));
    assert_eq!(gateway(&json!({"type": "api.deployed"})), Ok(None));
    for (frame, _) in gateway_frames() {
        assert!(gateway(&with(&frame, "/new", json!({"x": [1]}))).is_ok_and(|it| it.is_some()));
    }
    for new in ["connection.later", "delivery.later"] {
        assert!(server(&json!({"type": new, "sequence": "x"})).is_ok_and(|it| it.is_none()));
    }
    for (frame, _) in server_frames() {
        assert!(server(&with(&frame, "/new", json!({"x": [1]}))).is_ok_and(|it| it.is_some()));
    }
}

#[test]
fn a_batch_is_one_frame_or_an_array_and_counts_as_a_whole() {
    let batch = |value: &Value| GatewayFrame::parse_batch(value.to_string().as_bytes());
    let ack = json!({"type": "delivery.ack", "applied": 1});
    let unknown = json!({"type": "delivery.later"});
    assert_eq!(batch(&ack).expect("one frame").len(), 1);
    let frames = batch(&json!([ack, unknown, ack])).expect("three frames");
    assert!(matches!(frames[..], [Some(GatewayFrame::Ack(_)), None, Some(_)]), "{frames:?}");
    assert_eq!(batch(&json!([])), Ok(Vec::new()));
    assert_eq!(batch(&json!([ack, [ack]])).expect_err("nested").code, ErrorCode::MalformedFrame);
    assert_eq!(batch(&json!([ack, {}])).expect_err("no type").code, ErrorCode::MalformedFrame);
    let many = json!(vec![ack; MAX_BATCH + 1]);
    assert_eq!(batch(&many).expect_err("too many").code, ErrorCode::FrameTooLarge);
    assert_eq!(
        GatewayFrame::parse_batch(b" [{]").expect_err("not JSON").code,
        ErrorCode::MalformedFrame
    );
}

#[test]
fn an_event_is_encoded_as_its_frame_and_by_at_most_some_bytes_longer_than_in_plain_mode() {
    let event = Event {
        id: EventId::new("e-1").expect("an id"),
        event_type: EventType::new("api.deployed").expect("a type"),
        payload: RawValue::from_string("{\"b\": 1.10,\"a\":\"\\u0041\"  }".to_owned())
            .expect("JSON"),
        correlation_id: CorrelationId::new("c-1").expect("an id"),
        user_id: Some("u".to_owned()),
        occurred_at: Timestamp::from_micros(1_767_225_600_000_000),
        expires_at: Some(Timestamp::LAST),
        traceparent: None,
        attributes: None,
    };
    let epoch = Epoch(uuid::Uuid::nil());
    let position = EventPosition {
        sequence: Sequence::MAX,
        previous: Sequence::MAX,
        epoch,
        attempt: u32::MAX,
    };
    let text = event_text(&event, position, Envelope::Native);
    let longest = frame::longest_event_text(&event);
    assert_eq!(text.len(), longest + EXTRA_EVENT_BYTES);
    let text = event_text(&event, position, Envelope::CloudEvents);
    assert_eq!(text.len(), longest + EXTRA_CLOUD_EVENT_BYTES);
    let attributes =
        r#"{"a":5,"b":true,"datacontenttype":"application/json; charset=utf-8","source":"/a"}"#;
    let attributes = Some(Box::new(serde_json::from_str(attributes).expect("attributes")));
    let published = Event { attributes, ..event.clone() };
    let text = event_text(&published, position, Envelope::CloudEvents);
    assert!(text.len() <= frame::longest_event_text(&published) + EXTRA_CLOUD_EVENT_BYTES);
    let position = EventPosition { attempt: 1, ..position };
    for event in [&event, &published] {
        let text = event_text(event, position, Envelope::CloudEvents);
        let Ok(Some(ServerFrame::Event(read))) = ServerFrame::parse(&text) else {
            panic!("{}", String::from_utf8_lossy(&text));
        };
        assert_eq!(read.attributes, event.attributes);
        let native = event_text(event, position, Envelope::Native);
        assert_eq!(ServerFrame::Event(read).to_text(), native);
    }
    let text = String::from_utf8(text.to_vec()).expect("UTF-8");
    for (part, with, why) in [
        (r#","epoch":"#, r#","apoch":"#, "CloudEvent: epoch: is missing"),
        (r#""sequence":"9"#, r#""sequence":"x"#, "CloudEvent: sequence: "),
        (r#""a":5"#, r#""a":[5]"#, "CloudEvent: a: "),
    ] {
        assert!(text.contains(part), "{part} in {text}");
        let error = ServerFrame::parse(text.replace(part, with).as_bytes()).expect_err("an error");
        assert!(error.to_string().contains(why), "{error}");
    }

    let position =
        EventPosition { sequence: Sequence(7), previous: Sequence(5), epoch, attempt: 2 };
    let text = event_text(&event, position, Envelope::Native);
    let Ok(Some(ServerFrame::Event(frame))) = ServerFrame::parse(&text) else {
        panic!("{}", String::from_utf8_lossy(&text));
    };
    assert_eq!((frame.sequence, frame.previous, frame.attempt), (Sequence(7), Sequence(5), 2));
    assert_eq!(frame.payload.get(), event.payload.get());
    assert_eq!(ServerFrame::Event(frame).to_text(), text);
}

#[test]
fn close_codes_say_whether_to_reconnect() {
    use super::close_code::{DRAIN, GATEWAY_DISABLED, KEY_REVOKED, REPLACED, is_final};

    assert!(![1000, 1001, 1006, DRAIN, REPLACED, 4499, 5000].into_iter().any(is_final));
    assert!([KEY_REVOKED, GATEWAY_DISABLED, 4999].into_iter().all(is_final));
}
