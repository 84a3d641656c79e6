//! Examples of JSON bodies. A type states its own example, or its members do. A body whose type states
//! none, such as a page, gets an example that is composed of those of its members.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{OpenApi, RefOr};

/// Gives an example to each schema that is a JSON body and has none.
pub(super) fn complete(document: &mut OpenApi) {
    let Ok(written) = serde_json::to_value(&*document) else { return };
    let schemas = &written["components"]["schemas"];
    let Some(components) = &mut document.components else { return };
    for name in bodies(&written["paths"]) {
        let Some(RefOr::T(schema)) = components.schemas.get_mut(name) else { continue };
        let own = match schema {
            Schema::Object(object) => &mut object.example,
            Schema::Array(array) => &mut array.example,
            Schema::OneOf(one_of) => &mut one_of.example,
            Schema::AllOf(all_of) => &mut all_of.example,
            _ => continue,
        };
        if own.is_none() {
            // A request whose members are all optional has examples in its operation.
            *own = composed(&schemas[name], schemas).filter(|example| *example != json!({}));
        }
    }
}

/// The names of the schemas of requests and responses.
fn bodies(paths: &Value) -> BTreeSet<&str> {
    let operations = members(paths).flat_map(members);
    let contents = operations.flat_map(|operation| {
        let responses = members(&operation["responses"]).map(|response| &response["content"]);
        responses.chain([&operation["requestBody"]["content"]])
    });
    let schemas = contents.flat_map(members).map(|content| &content["schema"]);
    schemas.filter_map(|schema| named(schema).or_else(|| named(&schema["oneOf"][0]))).collect()
}

fn members(object: &Value) -> impl Iterator<Item = &Value> {
    object.as_object().into_iter().flat_map(Map::values)
}

/// The name of the schema that a reference leads to.
fn named(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// The example of a schema: its own, or else one that is composed of those of its parts. An object has
/// its required members; what may be `null` is `null`. `None` if a part has no example.
fn composed(schema: &Value, schemas: &Value) -> Option<Value> {
    if let Some(own) = schema.get("example").or_else(|| schema["examples"].get(0)) {
        return Some(own.clone());
    }
    if let Some(name) = named(schema) {
        return composed(schemas.get(name)?, schemas);
    }
    if let Some(alternatives) = schema["oneOf"].as_array() {
        let is_nullable = alternatives.iter().any(|schema| schema["type"] == "null");
        return if is_nullable {
            Some(Value::Null)
        } else {
            composed(alternatives.first()?, schemas)
        };
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let mut object = Map::new();
        for part in parts {
            let Value::Object(members) = composed(part, schemas)? else { return None };
            object.extend(members);
        }
        return Some(Value::Object(object));
    }
    if let Some(first) = schema["enum"].get(0) {
        return Some(first.clone());
    }
    match &schema["type"] {
        Value::Array(types) if types.contains(&json!("null")) => Some(Value::Null),
        Value::String(kind) if kind == "boolean" => Some(Value::Bool(false)),
        Value::String(kind) if kind == "array" => {
            Some(Value::Array(vec![composed(&schema["items"], schemas)?]))
        }
        Value::String(kind) if kind == "object" => {
            let required = schema["required"].as_array().into_iter().flatten();
            let members = required.filter_map(Value::as_str).map(|name| {
                Some((name.to_owned(), composed(&schema["properties"][name], schemas)?))
            });
            members.collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        _ => None,
    }
}
