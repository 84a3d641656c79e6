//! The AsyncAPI document of all streams: those of gateways on each transport, and the feed. The
//! schemas of the frames are generated from the types that encode and parse them
//! ([`frames`](crate::transport::frames)). What AsyncAPI has no words for (the fields of an
//! event stream, the messages of gRPC) is in descriptions.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use crate::api::FeedMessage;
use crate::cloud_event::SPECVERSION;
use crate::transport::frames::{
    Ack, ConnectionAck, ConnectionDrain, ConnectionError, ConnectionResumed, Credit, DeliveryGap,
    DeliveryMark, EventFrame, FrameType, Hello, MAX_BATCH, MAX_GATEWAY_FRAME_BYTES, Nack,
    PolledEvents, Progress,
};
use crate::transport::report::DeploymentReport;

mod channels;

/// The document as JSON, as it is served.
pub fn json() -> String {
    let mut text = serde_json::to_string_pretty(&document()).expect("the document is JSON");
    text.push('\n');
    text
}

/// The AsyncAPI document of the streams of gateways and of the feed; `docs/asyncapi.json` is this.
pub fn document() -> Value {
    let mut schemas = Schemas::default();
    let messages = messages(&mut schemas);
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:gateway-events:gateways",
        "info": {
            "title": "gateway-events",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "The streams of the service: what gateways receive and send on each transport, and \
                 the feed for people and consoles.\n\n\
                 Members are camelCase, instants RFC 3339 in UTC. Ignore unknown members, and frames \
                 of an unknown type. A gateway's frame of a known type with an invalid member is a \
                 protocol error; an optional member that is `null` counts as omitted. It has at most {MAX_GATEWAY_FRAME_BYTES} bytes.\n\n\
                 How requests are refused is in the OpenAPI document, `/openapi.json`."
            ),
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": "application/json",
        "servers": channels::servers(),
        "channels": channels::channels(),
        "operations": channels::operations(),
        "components": {
            "messages": messages,
            "schemas": schemas.0,
            "securitySchemes": {
                "gatewayKey": {
                    "type": "httpApiKey",
                    "in": "header",
                    "name": "api-key",
                    "description": "A gateway's key, `gwk_…`.",
                },
                "grpcKey": {
                    "type": "apiKey",
                    "in": "user",
                    "description": "A gateway's key, `gwk_…`, in the metadata `api-key`.",
                },
                "accessToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An access token with the scope `read`.",
                },
            },
        },
    })
}

/// The schemas by name.
#[derive(Default)]
struct Schemas(Map<String, Value>);

impl Schemas {
    /// Adds a type's schema and those that it refers to.
    fn add<T: ToSchema>(&mut self) -> String {
        let mut others = Vec::new();
        T::schemas(&mut others);
        for (name, schema) in others {
            self.0.entry(name).or_insert_with(|| as_json(&schema));
        }
        self.insert(&T::name(), as_json(&T::schema()))
    }

    /// Adds the schema of a frame, with its type.
    fn frame<T: ToSchema + FrameType>(&mut self) -> String {
        let name = self.add::<T>();
        let schema = self.0.get_mut(&name).expect("it was added");
        set_type(schema, T::TYPE);
        name
    }

    fn insert(&mut self, name: &str, schema: Value) -> String {
        self.0.insert(name.to_owned(), schema);
        name.to_owned()
    }

    /// Requires one of these members, which are numbers, at least: `null` counts as omitted.
    fn require_one(&mut self, name: &str, members: &[&str]) {
        let is_given = |member: &&str| json!({ "required": [member], "properties": { (*member): { "type": "integer" } } });
        self.0[name]["anyOf"] = members.iter().map(is_given).collect();
    }

    /// A copy of a schema without these members.
    fn without(&mut self, name: &str, of: &str, members: &[&str], description: &str) -> String {
        let mut schema = self.0[of].clone();
        for member in members {
            remove(&mut schema, member);
        }
        schema["description"] = json!(description);
        self.insert(name, schema)
    }
}

fn as_json(schema: &RefOr<Schema>) -> Value {
    serde_json::to_value(schema).expect("a schema is JSON")
}

fn set_type(schema: &mut Value, frame_type: &str) {
    schema["properties"]["type"] = json!({ "type": "string", "const": frame_type });
    match schema["required"].as_array_mut() {
        Some(required) => required.insert(0, json!("type")),
        None => schema["required"] = json!(["type"]),
    }
}

fn remove(schema: &mut Value, member: &str) {
    if let Some(members) = schema["properties"].as_object_mut() {
        members.remove(member);
    }
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|name| name != member);
    }
}

/// The schema of an event as a CloudEvent, which is encoded without a type of its own.
fn cloud_event() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let number = json!({
        "type": "string",
        "pattern": "^[0-9]{16}$",
        "description": "A sequence of the gateway's log, with leading zeros.",
    });
    json!({
        "type": "object",
        "description": "A CloudEvent 1.0 in its JSON format. The attributes that its publisher has \
            given it are among its members, as they were published. `sequence`, `previous`, `epoch` \
            and `attempt` are those of the native form.",
        "properties": {
            "specversion": { "type": "string", "const": SPECVERSION },
            "id": text("The event's id, the same in every delivery."),
            "source": text("Where it comes from."),
            "type": text("The event's type. Ignore unknown types."),
            "subject": text("The subject: what the event is about, within its source."),
            "time": text("When it occurred."),
            "datacontenttype": text("The media type of its data: JSON."),
            "dataschema": text("The schema of its data."),
            "correlationid": text("The key by which gateways recognise repeats."),
            "userid": text("The user who caused it."),
            "expirytime": text("When it expires. It is not sent afterwards."),
            "traceparent": text("The publisher's trace context."),
            "sequence": number,
            "previous": number,
            "epoch": text("The epoch of the log."),
            "attempt": { "type": "integer", "minimum": 1 },
            "data": { "type": "object", "description": "The publisher's object, byte for byte." },
        },
        "required": [
            "specversion", "id", "source", "type", "time", "datacontenttype", "correlationid",
            "sequence", "previous", "epoch", "attempt", "data",
        ],
        "additionalProperties": { "type": ["string", "boolean", "integer"] },
    })
}

/// The request for an event stream, which has no body. Its query is a binding of the operation.
fn stream_request() -> Value {
    let text =
        "The `id` of the last message that was received, as `EventSource` sends it by itself.";
    json!({
        "name": "request",
        "summary": "A request for a stream.",
        "headers": {
            "type": "object",
            "properties": { "Last-Event-ID": { "type": "string", "description": text } },
        },
    })
}

/// All messages by name. Their schemas are added.
fn messages(schemas: &mut Schemas) -> Value {
    let mut messages = Map::new();
    let mut add = |name: &str, title: &str, summary: &str, schema: String| {
        let payload = json!({ "$ref": format!("#/components/schemas/{schema}") });
        let message = json!({ "name": title, "summary": summary, "payload": payload });
        messages.insert(name.to_owned(), message);
    };
    let text = "Always the first frame.";
    add("connectionAck", ConnectionAck::TYPE, text, schemas.frame::<ConnectionAck>());
    add("event", "event", "An event.", schemas.add::<EventFrame>());
    let text = "An event for a gateway that has asked for the envelope `cloudevents`.";
    let schema = schemas.insert("CloudEvent", cloud_event());
    add("cloudEvent", "event", text, schema);
    let reliable = ["protocol", "epoch", "head", "oldest", "heartbeatMs", "limits"];
    let schema = schemas.without("PlainConnectionAck", "ConnectionAck", &reliable, text);
    add("plainConnectionAck", ConnectionAck::TYPE, text, schema);
    let reliable = ["previous", "attempt", "expiresAt"];
    let schema = schemas.without("PlainEvent", "EventFrame", &reliable, "An event in plain mode.");
    add("plainEvent", "event", "An event.", schema);
    let report = schemas.add::<DeploymentReport>();
    let mut schema = json!({
        "type": "object",
        "description": "The result of a deployment.",
        "properties": { "payload": { "$ref": format!("#/components/schemas/{report}") } },
        "required": ["payload"],
    });
    set_type(&mut schema, "deployment.ack");
    let schema = schemas.insert("DeploymentAck", schema);
    add("deploymentAck", "deployment.ack", "The result of a deployment.", schema);

    let text = "Where delivery starts: the reply to the hello.";
    add("connectionResumed", ConnectionResumed::TYPE, text, schemas.frame::<ConnectionResumed>());
    let text = "Complete up to here. Sent after skipped events and when idle.";
    add("deliveryMark", DeliveryMark::TYPE, text, schemas.frame::<DeliveryMark>());
    let text = "Events that can't be delivered. Delivery waits until the snapshot is confirmed.";
    add("deliveryGap", DeliveryGap::TYPE, text, schemas.frame::<DeliveryGap>());
    let text = "The connection will be closed: finish, and reconnect later.";
    add("connectionDrain", ConnectionDrain::TYPE, text, schemas.frame::<ConnectionDrain>());
    let text = "Why the connection is being closed.";
    add("connectionError", ConnectionError::TYPE, text, schemas.frame::<ConnectionError>());

    let text = "The first frame of a gateway, due within 10 s.";
    add("connectionHello", Hello::TYPE, text, schemas.frame::<Hello>());
    let text = "Confirms all events up to a sequence.";
    let schema = schemas.frame::<Ack>();
    schemas.require_one(&schema, &["received", "applied"]);
    add("deliveryAck", Ack::TYPE, text, schema);
    let text = "An event was not applied: send it again, or give it up.";
    add("deliveryNack", Nack::TYPE, text, schemas.frame::<Nack>());
    let text = "An event is still being handled.";
    add("deliveryProgress", Progress::TYPE, text, schemas.frame::<Progress>());
    let text = "A new window.";
    let schema = schemas.frame::<Credit>();
    schemas.require_one(&schema, &["window", "windowBytes"]);
    add("deliveryCredit", Credit::TYPE, text, schema);

    let frames = ["Ack", "Nack", "Progress", "Credit"]
        .map(|name| json!({ "$ref": format!("#/components/schemas/{name}") }));
    let batch = json!({
        "description": "One frame, or an array of frames, which counts as a whole.",
        "oneOf": [
            { "oneOf": frames },
            { "type": "array", "items": { "oneOf": frames }, "maxItems": MAX_BATCH },
        ],
    });
    let schema = schemas.insert("GatewayFrames", batch);
    add("gatewayFrames", "frames", "One frame, or an array of frames.", schema);

    let text = "The next events.";
    let polled = schemas.add::<PolledEvents>();
    let forms = ["EventFrame", "CloudEvent"]
        .map(|name| json!({ "$ref": format!("#/components/schemas/{name}") }));
    schemas.0[&polled]["properties"]["events"]["items"] = json!({ "anyOf": forms });
    add("polledEvents", "events", text, polled);
    let text = "What has happened.";
    add("feedMessage", "feed", text, schemas.add::<FeedMessage>());
    messages.insert("streamRequest".to_owned(), stream_request());
    Value::Object(messages)
}
