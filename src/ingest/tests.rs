//! Which rows and events are valid, and what the errors say.

use serde_json::json;

use super::*;
use crate::event_types::built_in;
use crate::store::{InboxContent, Rejection, RejectionReason};

const NOW: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);
const GATEWAY: &str = "0197b5a0-0000-7000-8000-000000000001";

fn row() -> InboxContent {
    InboxContent {
        organisation: "default".to_owned(),
        event_type: "gateway.config.updated".to_owned(),
        payload: r#"{"configType": "cache",  "action": "update"}"#.to_owned(),
        gateway_id: Some(GATEWAY.to_owned()),
        target: None,
        event_id: Some("e-1".to_owned()),
        correlation_id: None,
        user_id: None,
        expires_at: None,
        traceparent: None,
        collapse_key: None,
    }
}

fn validate(content: InboxContent) -> Result<NewEvent, ValidationError> {
    let draft = rows::read(content, NOW, NOW)?;
    let info = built_in(draft.event_type.as_str()).cloned().map(Arc::new);
    Rules::new(2000).validate(Candidate { draft, info }, NOW).map_err(|invalid| invalid.error)
}

#[test]
fn a_good_row_keeps_its_payload_byte_for_byte() {
    let new = validate(row()).unwrap();
    assert_eq!(new.event.payload.get(), row().payload);
    assert_eq!(new.event.correlation_id.as_str(), "e-1");
    assert_eq!(new.event.occurred_at, NOW);
    assert!(matches!(new.target, Target::Gateways(ids) if ids.len() == 1));
}

#[test]
fn an_error_names_the_invalid_column() {
    fn wrong(spoil: impl FnOnce(&mut InboxContent)) -> String {
        let mut content = row();
        spoil(&mut content);
        Rejection::from(validate(content).unwrap_err()).detail
    }
    for (message, field) in [
        (wrong(|row| row.event_type = "connection.ack".to_owned()), "type: "),
        (
            wrong(|row| row.payload = "{\"configType\": ".to_owned()),
            "payload: is not JSON: it ends",
        ),
        (wrong(|row| row.payload = String::new()), "payload: is not JSON: it is empty"),
        (wrong(|row| row.payload = "[]".to_owned()), "payload: must be a JSON object"),
        (wrong(|row| row.payload = "{}".to_owned()), "payload: "),
        (wrong(|row| row.gateway_id = Some("berlin".to_owned())), "gateway_id: must be a UUID"),
        (wrong(|row| row.gateway_id = None), "target: give exactly one"),
        (wrong(|row| row.target = Some("{\"all\":true}".to_owned())), "target: give exactly one"),
        (wrong(|row| row.target = Some("{\"label\":{}}".to_owned())), "target: label: unknown"),
        (wrong(|row| row.event_id = Some("a b".to_owned())), "event_id: "),
        (wrong(|row| row.correlation_id = Some(String::new())), "correlation_id: "),
        (wrong(|row| row.user_id = Some("u".repeat(257))), "user_id: "),
        (wrong(|row| row.traceparent = Some("00-1-2-3".to_owned())), "traceparent: must be a W3C"),
        (wrong(|row| row.expires_at = Some("1767225600".to_owned())), "expires_at: "),
        (
            wrong(|row| row.expires_at = Some("2025-01-01T00:00:00Z".to_owned())),
            "expires_at: is in",
        ),
    ] {
        assert!(message.starts_with(field), "{message}");
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused() {
    let sized = |length: usize| {
        let mut content = row();
        content.payload = json!({"configType": "x".repeat(length), "action": "a"}).to_string();
        validate(content)
    };
    assert!(sized(1000).is_ok());
    let refused = sized(2000).unwrap_err();
    assert_eq!(refused.reason(), RejectionReason::EventTooLarge);
}

#[test]
fn the_same_event_has_one_digest_however_it_is_written() {
    let digest = |spoil: &dyn Fn(&mut InboxContent)| {
        let mut content = row();
        spoil(&mut content);
        validate(content).unwrap().digest
    };
    let first = digest(&|_| ());
    let as_target = digest(&|row| {
        row.gateway_id = None;
        row.target = Some(format!(r#"{{ "gatewayIds" : ["{}"] }}"#, GATEWAY.to_uppercase()));
    });
    assert_eq!(first, as_target);
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(first, digest(&|row| row.traceparent = Some(traceparent.to_owned())));
    assert_ne!(first, digest(&|row| row.payload = row.payload.replace("cache", "log")));
    assert_ne!(first, digest(&|row| row.user_id = Some("u".to_owned())));
    assert_ne!(
        first,
        digest(&|row| {
            row.gateway_id = None;
            row.target = Some("{\"all\": true}".to_owned());
        })
    );
}
