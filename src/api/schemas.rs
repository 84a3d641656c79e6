//! OpenAPI schemas of the domain types.

use std::borrow::Cow;

use serde_json::json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use super::RejectionReason;
use crate::clock::Timestamp;
use crate::event::{
    CollapseKey, ConnectionId, CorrelationId, Epoch, EventId, EventType, GatewayId, JobId, NodeId,
    Reason, Sequence,
};
use crate::trace_context::TraceParent;

macro_rules! schema {
    ($name:ident, $object:expr) => {
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $object.into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    };
}

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

fn uuid(description: &str) -> ObjectBuilder {
    text(description).format(Some(SchemaFormat::Custom("uuid".to_owned())))
}

/// 1 to 64 visible ASCII characters.
fn id(description: &str, example: &str) -> ObjectBuilder {
    text(description)
        .min_length(Some(1))
        .max_length(Some(64))
        .pattern(Some("^[!-~]+$"))
        .examples([json!(example)])
}

schema!(
    GatewayId,
    uuid("A gateway's id.").examples([json!("01890a5d-ac96-774b-bcce-b302099a8057")])
);
schema!(
    ConnectionId,
    uuid("A connection's id.").examples([json!("01890a5d-ac96-774b-bcce-b302099a8058")])
);
schema!(JobId, uuid("A job's id.").examples([json!("01890a5d-ac96-774b-bcce-b302099a8059")]));
schema!(
    Epoch,
    uuid(
        "The identity of a gateway's log. It changes when the log is reset or restored; \
         sequences then start again."
    )
    .examples([json!("01890a5d-ac96-774b-bcce-b302099a805a")])
);
schema!(
    NodeId,
    uuid("The id of one process of the service.")
        .examples([json!("01890a5d-ac96-774b-bcce-b302099a805b")])
);
schema!(
    EventId,
    id("An event's id: 1 to 64 visible ASCII characters.", "01890a5d-ac96-774b-bcce-b302099a8057")
);
schema!(
    CorrelationId,
    id(
        "The key that gateways use for an event, the same at every redelivery: 1 to 64 visible \
         ASCII characters.",
        "deploy-42"
    )
);
schema!(
    CollapseKey,
    text("A collapse key: at most 256 bytes, none of them a control character.")
        .min_length(Some(1))
        .max_length(Some(256))
        .examples([json!("api-42")])
);
schema!(
    EventType,
    text(
        "Words of letters, digits, `_` and `-`, joined by dots. `connection.*`, `delivery.*` and \
         `deployment.ack` are reserved."
    )
    .min_length(Some(3))
    .max_length(Some(128))
    .pattern(Some(r"^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z][A-Za-z0-9_-]*)+$"))
    .examples([json!("api.deployed")])
);
schema!(
    TraceParent,
    text("A W3C `traceparent`.")
        .pattern(Some("^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
        .examples([json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")])
);
schema!(
    Sequence,
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .description(Some("A sequence in a gateway's log: 1, 2, 3, …; 0 is before the first."))
        .minimum(Some(0))
        .maximum(Some(Sequence::MAX.0))
        .examples([json!(42)])
);
schema!(
    Timestamp,
    text("RFC 3339 with an offset. Responses are in UTC, to the microsecond.")
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
        .examples([json!("2026-01-31T09:30:00.123456Z")])
);
schema!(
    Reason,
    text(
        "Why an attempt failed or a connection ended. While the service is upgraded, a response may \
         contain a reason of the newer version that is not listed here."
    )
    .enum_values(Some(Reason::ALL.iter().map(|reason| reason.as_str())))
);
schema!(
    RejectionReason,
    text(
        "Why a row was rejected. Where the HTTP API has the same error, the code is the same. While \
         the service is upgraded, a response may contain a reason of the newer version that is not \
         listed here."
    )
    .enum_values(Some(RejectionReason::ALL.map(RejectionReason::as_str)))
);
