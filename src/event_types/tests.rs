//! The catalogue, and the checks of schemas and payloads.

use serde_json::json;

use super::*;

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

fn typed(schema: &Value) -> EventTypeInfo {
    EventTypeInfo {
        name: "a.b".to_owned(),
        description: String::new(),
        schema: Some(raw(schema)),
        ttl_secs: None,
        barrier: false,
    }
}

fn check(info: &EventTypeInfo, payload: &Value) -> Result<Subject, Vec<FieldError>> {
    Validator::default().check(info, &payload.to_string())
}

#[test]
fn every_built_in_type_has_a_valid_name_and_schema() {
    assert_eq!(built_ins().count(), 34);
    for info in built_ins() {
        crate::event::EventType::new(info.name.as_str()).unwrap();
        check_schema(info.schema.as_deref().unwrap()).unwrap();
        assert!(!info.description.is_empty() && Validator::is_quick(info));
    }
}

#[test]
fn every_missing_or_wrong_member_is_reported() {
    let info = built_in("api.deployed").unwrap();
    let good = json!({"apiId": "a", "deploymentId": "d", "performedAt": "2026-01-31T09:30:00.5Z", "vhost": "x"});
    let subject =
        Subject { artifact_id: Some("a".to_owned()), deployment_id: Some("d".to_owned()) };
    assert_eq!(check(info, &good), Ok(subject));
    let errors = check(info, &json!({"apiId": 7, "performedAt": "yesterday"})).unwrap_err();
    let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["payload", "payload/apiId", "payload/performedAt"], "{errors:?}");
    assert!(errors.iter().all(|error| !error.message.contains("yesterday")));
}

#[test]
fn a_registered_schema_adds_to_that_of_the_built_in_type() {
    let mut info = built_in("api.deleted").unwrap().clone();
    info.schema = Some(raw(&json!({"required": ["x"]})));
    assert!(!Validator::is_quick(&info));
    for bad in [json!({"apiId": "a"}), json!({"x": 1}), json!({"x": 1, "apiId": ""})] {
        assert!(check(&info, &bad).is_err(), "{bad}");
    }
    let subject = check(&info, &json!({"x": 1, "apiId": "a"})).unwrap();
    assert_eq!(subject.artifact_id.as_deref(), Some("a"));
    info.schema = None;
    assert!(Validator::is_quick(&info));
    assert!(check(&info, &json!({})).is_err());
    let subject = check(&info, &json!({"apiId": "a"})).unwrap();
    assert_eq!(subject.artifact_id.as_deref(), Some("a"));
}

#[test]
fn a_changed_schema_takes_effect_at_once() {
    let validator = Validator::default();
    assert!(validator.check(&typed(&json!({"required": ["x"]})), "{}").is_err());
    assert!(validator.check(&typed(&json!({"required": []})), "{}").is_ok());
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

#[test]
fn references_by_pointer_anchor_and_escape_are_followed() {
    let schema = json!({
        "$defs": {"a/b c": {"type": "string"}, "n": {"$anchor": "number", "type": "number"}},
        "properties": {
            "x": {"$ref": "#/$defs/a~1b%20c"},
            "y": {"$ref": "#number"},
            "properties": {"$ref": "#"},
        },
    });
    assert_eq!(check_schema(&raw(&schema)), Ok(()));
    let info = typed(&schema);
    assert!(check(&info, &json!({"x": "x", "y": 1, "properties": {"x": "x"}})).is_ok());
    let errors = check(&info, &json!({"x": 1, "y": "y", "properties": {"x": 1}})).unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:?}");
}

#[test]
fn ordinary_schemas_and_payloads_are_far_below_the_limits() {
    let address = json!({
        "type": "object",
        "properties": {
            "street": {"type": "string", "maxLength": 200},
            "zip": {"type": "string", "pattern": "^[0-9]{4,10}$"},
            "mail": {"type": "string", "format": "email"},
        },
        "required": ["street"],
        "additionalProperties": false,
    });
    let schema = json!({
        "$defs": {"address": address},
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^[a-z0-9][a-z0-9.-]{0,62}$"},
            "version": {"pattern": "^v?(0|[1-9]\\d*)\\.(0|[1-9]\\d*)\\.(0|[1-9]\\d*)(?:-[\\da-zA-Z-]+)?$"},
            "addresses": {"type": "array", "items": {"$ref": "#/$defs/address"}, "uniqueItems": true},
            "kind": {"oneOf": [{"const": "a"}, {"enum": ["b", "c"]}]},
        },
        "patternProperties": {"^x-": {}},
        "unevaluatedProperties": false,
    });
    let validator = Validator::default();
    let info = typed(&schema);
    let address = |n: usize| json!({"street": format!("{n} Main Street"), "zip": "12345", "mail": "a@example.org"});
    let payload = |count: usize| {
        json!({
            "id": "weather.api-1", "version": "v1.20.3-rc1", "kind": "c", "x-more": true,
            "addresses": (0..count).map(address).collect::<Vec<_>>(),
        })
    };
    assert_eq!(validator.check(&info, &payload(500).to_string()), Ok(Subject::default()));
    let mut wrong = payload(2);
    wrong["addresses"][1]["zip"] = json!("no");
    wrong["other"] = json!(1);
    let errors = validator.check(&info, &wrong.to_string()).unwrap_err();
    assert!(errors.iter().any(|error| error.field == "payload/addresses/1/zip"), "{errors:?}");
}
