//! Publishing events, and showing them with their deliveries.

#[expect(unused_imports, reason = "named by the schema of `labels`")]
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder, Ref, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::json;
use super::{Delivery, EventVerdict, Labels, Problem, PublishedTarget, Purge, Rollout};
use crate::clock::Timestamp;
use crate::cloud_event::Attributes;
use crate::event::{CollapseKey, CorrelationId, EventId, EventType, GatewayId, Sequence};
use crate::trace_context::TraceParent;

/// The maximum number of events in a batch.
pub const MAX_EVENTS: usize = 1000;

/// An event to publish. Exactly one of `gatewayIds`, `gatewayId` and `target` selects the gateways
/// that it is for.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "type": "gateway.config.updated",
    "payload": {"configType": "cache", "action": "update"},
    "target": {"labels": {"env": "prod"}},
}))]
pub struct NewEvent {
    /// Its type, which must be registered.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// A JSON object that satisfies the type's schema. Gateways receive it byte for
    /// byte.
    #[schema(value_type = Object)]
    pub payload: Box<RawValue>,
    /// The gateways that it is for, by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub gateway_ids: Option<Vec<GatewayId>>,
    /// The gateway that it is for, by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_id: Option<GatewayId>,
    /// The gateways that it is for, by other criteria.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The key by which gateways recognise repeats; the event's id if omitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// Its id; generated if omitted. A repeat with the same content gets the first response; one with
    /// different content is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<EventId>,
    /// The user on whose behalf it is published; at most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub user_id: Option<String>,
    /// When it occurred; now if omitted. At most five minutes in the future.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// When it expires. It is not delivered afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// In how many seconds it expires; at most ten years.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000)]
    pub ttl_seconds: Option<u64>,
    /// Of the events with the same type and key that are published while a gateway has no connection,
    /// only the newest is sent to it: the others are superseded. At most 256 bytes, none of them a
    /// control character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collapse_key: Option<CollapseKey>,
    /// The W3C trace context that gateways receive with it; by default that of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

impl NewEvent {
    /// An event without any of the optional members.
    pub fn new(event_type: EventType, payload: Box<RawValue>) -> Self {
        Self {
            event_type,
            payload,
            gateway_ids: None,
            gateway_id: None,
            target: None,
            correlation_id: None,
            id: None,
            user_id: None,
            timestamp: None,
            expires_at: None,
            ttl_seconds: None,
            collapse_key: None,
            traceparent: None,
        }
    }
}

/// Selects the gateways that an event is for. Exactly one member is present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(min_properties = 1, max_properties = 1)]
#[schema(example = json!({"labels": {"env": "prod"}}))]
pub struct Target {
    /// `true`: every gateway of the organisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// Every gateway that has all of these labels; at least one.
    #[serde(
        default,
        deserialize_with = "json::optional_members",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    pub labels: Option<Labels>,
    /// Exactly these gateways; at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub gateway_ids: Option<Vec<GatewayId>>,
}

/// `POST /events`: one event, a list of up to 1,000 events, or an object with such a
/// list. The events of a list are accepted or refused one by one.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum PublishBody {
    /// One event.
    One(Box<NewEvent>),
    /// Several events.
    Many(Vec<NewEvent>),
    /// Several events, in an object.
    Batch(EventBatch),
}

impl PartialSchema for PublishBody {
    fn schema() -> RefOr<Schema> {
        let list = ArrayBuilder::new()
            .items(Ref::from_schema_name("NewEvent"))
            .min_items(Some(1))
            .max_items(Some(MAX_EVENTS));
        OneOfBuilder::new()
            .item(Ref::from_schema_name("NewEvent"))
            .item(list)
            .item(Ref::from_schema_name("EventBatch"))
            .into()
    }
}

impl ToSchema for PublishBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("NewEvent".to_owned(), NewEvent::schema()));
        schemas.push(("EventBatch".to_owned(), EventBatch::schema()));
        NewEvent::schemas(schemas);
    }
}

/// Several events.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventBatch {
    /// The events, 1 to 1,000.
    #[schema(min_items = 1, max_items = 1000)]
    pub events: Vec<NewEvent>,
}

/// An accepted event. It is committed: a crash does not lose it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The event's id.
    pub id: EventId,
    /// Its sequence in each gateway's log.
    pub deliveries: Vec<AcceptedDelivery>,
    /// Warnings for the publisher. Omitted if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    /// 202. Omitted except in the response to a batch in which other events were refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 202, maximum = 202)]
    pub status: Option<u16>,
}

/// An event's sequence in one gateway's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedDelivery {
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The sequence.
    pub sequence: Sequence,
}

/// Something about an accepted event that may be a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// The code, for programs: `no_gateways_matched`.
    #[schema(example = "no_gateways_matched")]
    pub code: String,
    /// The message, for people.
    #[schema(example = "the target selects no gateway")]
    pub message: String,
}

impl Warning {
    /// The code of the warning that no gateway will receive the event.
    pub const NO_GATEWAYS_MATCHED: &'static str = "no_gateways_matched";
}

/// The response to a batch, event by event, in the order of the request.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "results": [
        {
            "id": "01890a5d-ac96-774b-bcce-b302099a8057",
            "deliveries": [{"gatewayId": "01890a5d-ac96-774b-bcce-b302099a8057", "sequence": 42}],
            "status": 202,
        },
        {
            "type": "about:blank",
            "status": 422,
            "code": "unknown_event_type",
            "title": "Unprocessable Entity",
            "detail": "The event type is not registered.",
        },
    ],
}))]
pub struct AcceptedBatch {
    /// A result for each event.
    pub results: Vec<BatchItem>,
}

/// The result of one event of a batch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum BatchItem {
    /// It was accepted.
    Accepted(Accepted),
    /// It was refused; nothing of it was stored.
    Refused(Problem),
}

/// `GET /events/{id}`: an event with its state at each gateway.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventWithDeliveries {
    /// Its id.
    pub id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// Its payload, as it was published.
    #[schema(value_type = Object, example = json!({"apiId": "api-42", "deploymentId": "deploy-42"}))]
    pub payload: Box<RawValue>,
    /// The key by which gateways recognise repeats.
    pub correlation_id: CorrelationId,
    /// The user on whose behalf it was published.
    #[schema(required = true, example = "alice")]
    pub user_id: Option<String>,
    /// When it occurred.
    pub occurred_at: Timestamp,
    /// When it was appended to the log.
    pub appended_at: Timestamp,
    /// When it expires; `null` if it does not.
    #[schema(required = true)]
    pub expires_at: Option<Timestamp>,
    /// The collapse key that it was published with. Omitted if there was none, if its type is a barrier,
    /// and once retention has trimmed it from the logs of all gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub collapse_key: Option<String>,
    /// The W3C trace context that it was published with; `null` if there was none.
    #[serde(default)]
    #[schema(required = true)]
    pub traceparent: Option<TraceParent>,
    /// What else it has if it was published as a CloudEvent: `source`, `subject`, `dataschema`, a
    /// `datacontenttype` other than `application/json`, and extension attributes. Omitted for other
    /// events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false, nullable = false)]
    pub attributes: Option<Attributes>,
    /// What it was published for; `null` for an event of an earlier version.
    #[serde(default)]
    #[schema(required = true)]
    pub target: Option<PublishedTarget>,
    /// How many gateways the target selected when it was published.
    #[serde(default)]
    #[schema(required = true, example = 1)]
    pub gateway_count: i64,
    /// Its state over all gateways.
    pub verdict: EventVerdict,
    /// How far it has come. Omitted without `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rollout: Option<Rollout>,
    /// Its deliveries; a redriven one has several.
    pub deliveries: Vec<Delivery>,
    /// The purge of its payload, which is empty since then. Omitted if it was not purged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub purged: Option<Purge>,
}
