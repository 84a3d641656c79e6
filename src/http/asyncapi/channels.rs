//! Where the messages travel: servers, channels and operations.

use serde_json::{Map, Value, json};

use crate::event::Sequence;
use crate::transport::frames::{MAX_TYPES, PROTOCOL};

/// Where gateways open their WebSockets.
const CONNECT: &str = "/ws/gateways/connect";
/// Messages from the service in reliable mode.
const FROM_SERVICE: [&str; 8] = [
    "connectionAck",
    "connectionResumed",
    "event",
    "cloudEvent",
    "deliveryMark",
    "deliveryGap",
    "connectionDrain",
    "connectionError",
];
/// Messages from a gateway in reliable mode.
const FROM_GATEWAY: [&str; 5] =
    ["connectionHello", "deliveryAck", "deliveryNack", "deliveryProgress", "deliveryCredit"];

pub(super) fn servers() -> Value {
    let key = json!([{ "$ref": "#/components/securitySchemes/gatewayKey" }]);
    let token = json!([{ "$ref": "#/components/securitySchemes/accessToken" }]);
    let server = |protocol: &str, description: &str, security: &Value| {
        json!({
            "host": "localhost:8443",
            "pathname": "/api/internal/v1",
            "protocol": protocol,
            "description": description,
            "security": security,
        })
    };
    json!({
        "websocket": server("wss", "WebSocket (RFC 6455), over HTTP/1.1.", &key),
        "http": server("https", "Event streams and long polling for gateways.", &key),
        "feed": server("https", "The feed for people and consoles.", &token),
        "grpc": {
            "host": "localhost:8443",
            "protocol": "grpcs",
            "description": "gRPC, over HTTP/2 on the same port.",
            "security": [{ "$ref": "#/components/securitySchemes/grpcKey" }],
        },
    })
}

fn channel(address: &str, server: &str, description: &str, messages: &[&str]) -> Value {
    let messages: Map<String, Value> = messages
        .iter()
        .map(|name| {
            ((*name).to_owned(), json!({ "$ref": format!("#/components/messages/{name}") }))
        })
        .collect();
    json!({
        "address": address,
        "servers": [{ "$ref": format!("#/servers/{server}") }],
        "description": description,
        "messages": messages,
    })
}

/// Plain mode, at the address of reliable mode.
fn plain() -> Value {
    let mut plain = channel(
        CONNECT,
        "websocket",
        "Plain mode, for gateways in the field: an upgrade without a subprotocol. A gateway confirms \
         by its pongs: the payload of a ping is the sequence of the last event before it.",
        &["plainConnectionAck", "plainEvent", "deploymentAck"],
    );
    plain["bindings"] = json!({ "ws": { "method": "GET", "bindingVersion": "0.1.0" } });
    plain
}

pub(super) fn channels() -> Value {
    let both: Vec<&str> = FROM_SERVICE.into_iter().chain(FROM_GATEWAY).collect();
    let mut reliable = channel(
        CONNECT,
        "websocket",
        &format!(
            "Reliable mode: an upgrade with the subprotocol `{PROTOCOL}`. Each text message is one \
             frame. `connection.ack` is the first frame of the service, `connection.hello` that of the \
             gateway. Close codes 4000 to 4499 mean reconnect (4001 drain, 4003 heartbeat, 4008 \
             confirmation overdue, 4009 replaced), 4500 to 4999 do not (4500 key revoked, 4501 \
             protocol error, 4503 gateway disabled)."
        ),
        &both,
    );
    let protocol = json!({ "type": "string", "const": PROTOCOL });
    reliable["bindings"] = json!({ "ws": {
        "method": "GET",
        "headers": {
            "type": "object",
            "properties": { "Sec-WebSocket-Protocol": protocol },
            "required": ["Sec-WebSocket-Protocol"],
        },
        "bindingVersion": "0.1.0",
    } });
    let connection = json!({ "connectionId": {
        "description": "`connectionId` of the stream's `connection.ack`.",
    } });
    let mut frames = channel(
        "/gateways/connections/{connectionId}/frames",
        "http",
        "What a gateway that reads an event stream sends. Refused with 409 `connection_gone` if the \
         stream has ended.",
        &["gatewayFrames"],
    );
    frames["parameters"] = connection;
    let mut instance = channel(
        "/gateways/events/instances/{instance}/frames",
        "http",
        "What a long-polling instance sends.",
        &["gatewayFrames"],
    );
    instance["parameters"] = json!({ "instance": { "description": "The instance's name." } });
    json!({
        "plain": plain(),
        "reliable": reliable,
        "eventStream": channel(
            "/gateways/stream",
            "http",
            "Server-sent events. `event` is the frame's `type`, and `message` for events; `data` is \
             the frame; `id` is `<epoch>.<sequence>` on events and marks. `Last-Event-ID` resumes, and \
             beats `resume`; with `confirm=applied` it confirms nothing, and delivery continues after \
             the stored position if that is lower. A comment is sent every `heartbeatMs`.",
            &FROM_SERVICE,
        ),
        "eventStreamFrames": frames,
        "longPoll": channel(
            "/gateways/events",
            "http",
            "Long polling: 200 with events at once if there are any, 204 after `wait`.",
            &["polledEvents"],
        ),
        "instanceFrames": instance,
        "grpc": channel(
            "gateway_events.v1.Gateways/Connect",
            "grpc",
            "A bidirectional stream of `ServerFrame` and `GatewayFrame`, each a `oneof` of the frames \
             of reliable mode in Protocol Buffers. An event's payload is its JSON as bytes.",
            &both,
        ),
        "feed": channel(
            "/feed",
            "feed",
            "Server-sent events for people and consoles: what was published, attempts and \
             connections. `event` is the message's `kind`, `id` the position after it, with which \
             `Last-Event-ID` continues on any node.",
            &["feedMessage"],
        ),
    })
}

/// Where delivery of a named or unnamed instance starts, as query parameters.
fn hello_query() -> Map<String, Value> {
    let query = json!({
        "instance": { "type": "string", "minLength": 1, "maxLength": 64 },
        "resume": { "type": "string", "enum": ["server", "latest", "earliest"] },
        "window": { "type": "integer", "minimum": 0 },
        "types": {
            "type": "string",
            "description": format!("At most {MAX_TYPES} event types, separated by commas."),
        },
        "confirm": { "type": "string", "enum": ["received", "applied"] },
    });
    let Value::Object(query) = query else { unreachable!("it is an object") };
    query
}

pub(super) fn operations() -> Value {
    let http = |method: &str, query: &Value| {
        let mut binding = json!({ "method": method, "bindingVersion": "0.3.0" });
        if !query.is_null() {
            binding["query"] = json!({ "type": "object", "properties": query });
        }
        json!({ "http": binding })
    };
    let position = json!({
        "type": "string",
        "description": format!("`<epoch>.<sequence>`, a sequence from 0 to {}.", Sequence::MAX),
    });
    let poll = json!({
        "instance": { "type": "string", "minLength": 1, "maxLength": 64 },
        "after": position,
        "ack": position,
        "max": { "type": "integer", "minimum": 1 },
        "wait": { "type": "string", "default": "25s" },
    });
    let feed = json!({
        "types": { "type": "string" },
        "gatewayId": { "type": "string" },
        "type": { "type": "string" },
        "outcome": { "type": "string" },
    });
    let mut operations = Map::new();
    let mut add =
        |name: &str, action, channel: &str, messages: &[&str], summary: &str, bindings| {
            let messages: Vec<Value> = messages
                .iter()
                .map(
                    |message| json!({ "$ref": format!("#/channels/{channel}/messages/{message}") }),
                )
                .collect();
            let mut operation = json!({
                "action": action,
                "channel": { "$ref": format!("#/channels/{channel}") },
                "summary": summary,
                "messages": messages,
            });
            if let Some(bindings) = bindings {
                operation["bindings"] = bindings;
            }
            operations.insert(name.to_owned(), operation);
        };
    let events = "Events for a gateway, in order.";
    let replies = "Confirmations of a gateway.";
    let stream = json!(hello_query());
    add("sendPlain", "send", "plain", &["plainConnectionAck", "plainEvent"], events, None);
    add("receivePlain", "receive", "plain", &["deploymentAck"], "Reports of a gateway.", None);
    add("sendReliable", "send", "reliable", &FROM_SERVICE, events, None);
    add("receiveReliable", "receive", "reliable", &FROM_GATEWAY, replies, None);
    let bindings = Some(http("GET", &stream));
    add("sendEventStream", "send", "eventStream", &FROM_SERVICE, events, bindings);
    let bindings = Some(http("POST", &Value::Null));
    let batch = ["gatewayFrames"];
    add("receiveFrames", "receive", "eventStreamFrames", &batch, replies, bindings.clone());
    add("sendPolled", "send", "longPoll", &["polledEvents"], events, Some(http("GET", &poll)));
    add("receiveInstanceFrames", "receive", "instanceFrames", &batch, replies, bindings);
    add("sendGrpc", "send", "grpc", &FROM_SERVICE, events, None);
    add("receiveGrpc", "receive", "grpc", &FROM_GATEWAY, replies, None);
    let summary = "What happens, as it happens.";
    add("sendFeed", "send", "feed", &["feedMessage"], summary, Some(http("GET", &feed)));
    Value::Object(operations)
}
