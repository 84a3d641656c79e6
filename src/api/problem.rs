//! Problem documents (RFC 9457) and their codes.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::GatewayId;

/// An error response, `application/problem+json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Always `about:blank`: status and code identify the kind of problem.
    #[serde(rename = "type", default)]
    #[schema(value_type = String, required = true, example = "about:blank")]
    pub kind: Cow<'static, str>,
    /// The HTTP status.
    #[serde(default)]
    #[schema(required = true, minimum = 400, maximum = 599)]
    pub status: u16,
    /// The stable code that programs match.
    #[serde(default)]
    #[schema(value_type = String, required = true, example = "not_found")]
    pub code: Cow<'static, str>,
    /// The name of the status.
    #[serde(default)]
    #[schema(value_type = String, required = true, example = "Not Found")]
    pub title: Cow<'static, str>,
    /// What was wrong, for people.
    #[serde(default)]
    #[schema(required = true, example = "There is no such gateway.")]
    pub detail: String,
    /// The invalid fields. Omitted if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The ids that are not registered. Omitted unless the code is `unknown_gateways`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway_ids: Vec<GatewayId>,
    /// The request id, by which operators find the request in the log. Omitted for 401.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub request_id: Option<String>,
    /// Seconds to wait before a retry. Sent in the header `Retry-After`.
    #[serde(skip)]
    pub retry_after_secs: Option<u32>,
}

/// One invalid field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Its name or path, such as `payload/apiId`.
    #[schema(required = true, example = "payload/apiId")]
    pub field: String,
    /// What is wrong, and what is allowed.
    #[schema(required = true, example = "is required")]
    pub message: String,
}

macro_rules! codes {
    ($($name:ident = $status:literal $code:literal $meaning:literal,)*) => {
        /// The stable codes of problem documents. Each has one HTTP status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name in problem documents.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// What it means, for the OpenAPI document.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

codes! {
    BadRequest = 400 "bad_request" "The request can't be read.",
    MalformedJson = 400 "malformed_json" "The body is not JSON.",
    OriginRefused = 400 "origin_refused" "The request comes from a web page whose origin is not in `server.allowed_origins`.",
    MalformedFrame = 400 "malformed_frame" "A frame is not a JSON object with a type; none of the frames counts.",
    Unauthorized = 401 "unauthorized" "The credentials are missing, unknown, expired or revoked.",
    InsufficientScope = 403 "insufficient_scope" "The access token lacks the scope that the route needs.",
    GatewayDisabled = 403 "gateway_disabled" "The gateway is disabled.",
    NotFound = 404 "not_found" "The resource does not exist in the token's organisation.",
    UnknownGateways = 404 "unknown_gateways" "The event names gateways that are not registered; nothing of it was stored.",
    MethodNotAllowed = 405 "method_not_allowed" "The path exists, but not for this method.",
    Conflict = 409 "conflict" "A name or an id is taken, or a limit is reached.",
    ConnectionGone = 409 "connection_gone" "The node has no such stream of this gateway, or no longer.",
    EventTypeInUse = 409 "event_type_in_use" "Events of the last 24 hours have this type; `force` deletes it.",
    AlertKeyMissing = 409 "alert_key_missing" "The secrets of alert destinations can't be encrypted or decrypted: `alerts.key_file` is not set, or another key was used.",
    EventIdTaken = 409 "event_id_taken" "The id belongs to an event with different content. Ids are unique in the organisation, whatever the `source` of a CloudEvent.",
    EventPurged = 409 "event_purged" "The event's payload was purged; it can't be sent again.",
    ResyncUnsupported = 409 "resync_unsupported" "The gateway has only used plain mode, whose protocol has no message that requests a resync; replay its log instead.",
    BodyTooLarge = 413 "body_too_large" "The body exceeds `server.body_limit` (events) or 256 KiB (other requests).",
    EventTooLarge = 413 "event_too_large" "The event's frame would exceed `limits.event_bytes`.",
    FrameTooLarge = 413 "frame_too_large" "A frame exceeds 16 KiB, or there are more than 256; none of the frames counts.",
    ManifestTooLarge = 413 "manifest_too_large" "The manifest exceeds 1 MiB.",
    TooManyDeliveries = 413 "too_many_deliveries" "The request results in more deliveries than one transaction may write; nothing was stored.",
    UnsupportedMediaType = 415 "unsupported_media_type" "The body's `Content-Type` is not accepted here.",
    UnsupportedContentEncoding = 415 "unsupported_content_encoding" "The body is compressed.",
    InvalidFrame = 422 "invalid_frame" "A member of a frame is missing, of a wrong type or out of range, or the frame may not be sent now.",
    Invalid = 422 "invalid" "Fields are invalid; `errors` names them.",
    UnknownEventType = 422 "unknown_event_type" "The event type is not registered.",
    IdempotencyKeyReused = 422 "idempotency_key_reused" "The `Idempotency-Key` was used with a different body.",
    UpgradeRequired = 426 "upgrade_required" "The path is for WebSocket upgrades only.",
    TooManyWaits = 429 "too_many_waits" "Too many requests of this organisation are waiting at this node.",
    TooManyAttempts = 429 "too_many_attempts" "Too many connection attempts; `Retry-After` says how long to wait.",
    TooManyFeeds = 429 "too_many_feeds" "Too many feeds are open: with this token, in this organisation or on this node.",
    Internal = 500 "internal" "The service failed; its log has the reason.",
    CommitOutcomeUnknown = 503 "commit_outcome_unknown" "It is unknown whether the request was stored. A retry with the same event id or `Idempotency-Key` is safe.",
    ConnectionLimit = 503 "connection_limit" "The node has the maximum number of gateway connections.",
    Draining = 503 "draining" "The node is shutting down.",
    GatewayConnectionLimit = 503 "gateway_connection_limit" "The gateway has the maximum number of connections to this node: `delivery.max_connections_per_gateway`, or twice its `replicas` if that is more.",
    HttpConnectionLimit = 503 "http_connection_limit" "All HTTP connections but those reserved for probes and admins are in use.",
    JobOverdue = 503 "job_overdue" "A background job of the node has not completed a run in time.",
    Overloaded = 503 "overloaded" "Too many large or complex requests are being processed.",
    QueryTimeout = 503 "query_timeout" "The query took too long and was cancelled; narrow it.",
    Timeout = 503 "timeout" "The request exceeded `server.request_timeout`. What it was to store may still be stored; a retry with the same event id or `Idempotency-Key` is safe.",
    Unavailable = 503 "unavailable" "The database is unavailable or overloaded; nothing was stored.",
    StorageFull = 507 "storage_full" "The disk is nearly full; publishing is refused, delivery continues.",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Code::ALL.len());
    }
}
