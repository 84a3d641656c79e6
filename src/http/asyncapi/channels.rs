//! Where the messages travel: servers, channels and operations.

use serde_json::{Map, Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use crate::api::{BASE_PATH, FeedQuery, PollQuery, StreamQuery};
use crate::transport::frames::PROTOCOL;

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
            "pathname": BASE_PATH,
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
            &[&FROM_SERVICE[..], &["streamRequest"]].concat(),
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
            &["feedMessage", "streamRequest"],
        ),
    })
}

/// The parameters of a request as the properties of a query, from the type that reads them. Values of a
/// list are one text, separated by commas.
fn query<T: IntoParams>() -> Value {
    let parameters = T::into_params(|| Some(ParameterIn::Query));
    let property = |parameter: Parameter| {
        let parameter = serde_json::to_value(parameter).expect("a parameter is JSON");
        let mut schema = match &parameter["schema"] {
            list if list["type"] == "array" => json!({ "type": "string" }),
            schema => schema.clone(),
        };
        schema["description"] = parameter["description"].clone();
        Some((parameter["name"].as_str()?.to_owned(), schema))
    };
    let properties: Map<String, Value> = parameters.into_iter().filter_map(property).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn reference(channel: &str) -> Value {
    json!({ "$ref": format!("#/channels/{channel}") })
}

/// References to messages of a channel.
fn messages_of(channel: &str, names: &[&str]) -> Vec<Value> {
    let reference =
        |name: &&str| json!({ "$ref": format!("#/channels/{channel}/messages/{name}") });
    names.iter().map(reference).collect()
}

fn operation(action: &str, channel: &str, messages: &[&str], summary: &str) -> Value {
    json!({
        "action": action,
        "channel": reference(channel),
        "summary": summary,
        "messages": messages_of(channel, messages),
    })
}

pub(super) fn operations() -> Value {
    let http = |method: &str, query: &Value| {
        let mut binding = json!({ "method": method, "bindingVersion": "0.3.0" });
        if !query.is_null() {
            binding["query"] = query.clone();
        }
        json!({ "http": binding })
    };
    let mut operations = Map::new();
    let mut add = |name: &str, action, channel, messages: &[&str], summary, bindings| {
        let mut operation = operation(action, channel, messages, summary);
        if let Some(bindings) = bindings {
            operation["bindings"] = bindings;
        }
        operations.insert(name.to_owned(), operation);
    };
    let events = "Events for a gateway, in order.";
    let replies = "Confirmations of a gateway.";
    add("sendPlain", "send", "plain", &["plainConnectionAck", "plainEvent"], events, None);
    add("receivePlain", "receive", "plain", &["deploymentAck"], "Reports of a gateway.", None);
    add("sendReliable", "send", "reliable", &FROM_SERVICE, events, None);
    add("receiveReliable", "receive", "reliable", &FROM_GATEWAY, replies, None);
    let bindings = Some(http("GET", &query::<StreamQuery>()));
    add("sendEventStream", "send", "eventStream", &FROM_SERVICE, events, bindings);
    let bindings = Some(http("POST", &Value::Null));
    let batch = ["gatewayFrames"];
    add("receiveFrames", "receive", "eventStreamFrames", &batch, replies, bindings.clone());
    let bindings_of_polls = Some(http("GET", &query::<PollQuery>()));
    add("sendPolled", "send", "longPoll", &["polledEvents"], events, bindings_of_polls);
    add("receiveInstanceFrames", "receive", "instanceFrames", &batch, replies, bindings);
    add("sendGrpc", "send", "grpc", &FROM_SERVICE, events, None);
    add("receiveGrpc", "receive", "grpc", &FROM_GATEWAY, replies, None);
    let summary = "What happens, as it happens.";
    let bindings = Some(http("GET", &query::<FeedQuery>()));
    add("sendFeed", "send", "feed", &["feedMessage"], summary, bindings);
    let summary = "The request that begins a stream, or continues one.";
    for (name, channel, answers) in [
        ("receiveStreamRequest", "eventStream", &FROM_SERVICE[..]),
        ("receiveFeedRequest", "feed", &["feedMessage"]),
    ] {
        let request = operation("receive", channel, &["streamRequest"], summary);
        let (channel, answers) = (reference(channel), messages_of(channel, answers));
        operations.insert(name.to_owned(), request);
        operations[name]["bindings"] = http("GET", &Value::Null);
        operations[name]["reply"] = json!({ "channel": channel, "messages": answers });
    }
    Value::Object(operations)
}
