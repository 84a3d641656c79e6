//! The catalogue and the checks of schemas and payloads.

use serde_json::json;

use super::*;

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

#[test]
fn every_built_in_type_has_a_valid_name_and_schema() {
    assert_eq!(built_ins().len(), 32);
    for info in built_ins() {
        crate::event::EventType::new(info.name.as_str()).unwrap();
        check_schema(info.schema.as_deref().unwrap()).unwrap();
        assert!(!info.description.is_empty());
    }
}

#[test]
fn a_payload_is_told_each_member_that_is_missing_or_wrong() {
    let info = built_in("api.deployed").unwrap();
    let validator = Validator::default();
    let good = json!({"apiId": "a", "deploymentId": "d", "performedAt": "2026-01-31T09:30:00.5Z", "vhost": "x"});
    assert_eq!(validator.check(info, &good), Ok(()));
    let bad = json!({"apiId": 7, "performedAt": "yesterday"});
    let errors = validator.check(info, &bad).unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors.iter().any(|error| error.field == "payload/performedAt"));
    assert!(errors.iter().all(|error| !error.message.contains("yesterday")));
}

#[test]
fn a_changed_schema_takes_effect_at_once() {
    let validator = Validator::default();
    let mut info = EventTypeInfo {
        name: "a.b".to_owned(),
        description: String::new(),
        schema: Some(raw(&json!({"required": ["x"]}))),
    };
    assert!(validator.check(&info, &json!({})).is_err());
    info.schema = Some(raw(&json!({"required": []})));
    assert!(validator.check(&info, &json!({})).is_ok());
}

#[test]
fn schemas_that_reach_outside_or_too_deep_are_refused() {
    for reference in ["https://example.org/x.json", "file:///etc/passwd", "other.json"] {
        assert!(check_schema(&raw(&json!({"$ref": reference}))).is_err(), "{reference}");
    }
    let local =
        json!({"$defs": {"a": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a"}}});
    assert_eq!(check_schema(&raw(&local)), Ok(()));
    let deep = (0..40).fold(json!({}), |inner, _| json!({"not": inner}));
    assert!(check_schema(&raw(&deep)).is_err());
    assert!(check_schema(&raw(&json!({"type": "nonsense"}))).is_err());
    assert!(check_schema(&raw(&json!([]))).is_err());
}
