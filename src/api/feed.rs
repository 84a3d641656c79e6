//! `GET /feed`: what happens, as it happens.

use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::Outcome;
use crate::clock::Timestamp;
use crate::event::{
    ConnectionId, CorrelationId, EventId, EventType, GatewayId, NodeId, Reason, Sequence,
};

/// Which messages to receive. A message must match every parameter that is given, and has none of
/// the property of another kind: with `type` there are no messages about connections, and with
/// `outcome` only those about attempts. Each parameter may list up to 20 values, separated by
/// commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
pub struct FeedQuery {
    /// Kinds of messages; all by default.
    #[param(style = Form, explode = false, inline)]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "with_commas")]
    pub types: Vec<FeedKind>,
    /// Ids of gateways. With it, events are those that are for one of these gateways.
    #[param(style = Form, explode = false)]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "with_commas")]
    pub gateway_id: Vec<GatewayId>,
    /// Event types.
    #[param(style = Form, explode = false)]
    #[serde(
        rename = "type",
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "with_commas"
    )]
    pub event_type: Vec<EventType>,
    /// Outcomes of attempts.
    #[param(style = Form, explode = false, inline)]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "with_commas")]
    pub outcome: Vec<Outcome>,
}

impl FeedQuery {
    /// The maximum number of values of a parameter.
    pub const MAX_VALUES: usize = 20;
}

/// Texts, separated by commas.
fn with_commas<T: Serialize, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
    let texts: Vec<String> = values
        .iter()
        .filter_map(|value| Some(serde_json::to_value(value).ok()?.as_str()?.to_owned()))
        .collect();
    to.serialize_str(&texts.join(","))
}

/// A kind of message; also the field `event` of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeedKind {
    /// An event was published.
    Published,
    /// An attempt to deliver had an outcome.
    Attempt,
    /// A connection was opened or closed.
    Connection,
}

impl FeedKind {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Attempt => "attempt",
            Self::Connection => "connection",
        }
    }
}

/// A message of the feed: the JSON in the field `data`. More kinds may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum FeedMessage {
    /// An event was published.
    Published(FeedPublished),
    /// An attempt to deliver had an outcome.
    Attempt(FeedAttempt),
    /// A connection was opened or closed.
    Connection(FeedConnection),
    /// Messages are missing. The feed continues after them.
    Gap(FeedGap),
    /// The feed ends. Connect again, to any node, with the `id` of the last message.
    End(FeedEnd),
}

/// An event was published. Its payload is not included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedPublished {
    /// When it was appended.
    pub at: Timestamp,
    /// The event's id.
    pub event_id: EventId,
    /// Its type.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The key by which gateways recognise repeats.
    pub correlation_id: CorrelationId,
    /// The user on whose behalf it was published.
    #[schema(required = true)]
    pub user_id: Option<String>,
    /// How many gateways its target selected.
    pub gateway_count: i64,
}

/// An attempt to deliver had an outcome. It covers a contiguous run of sequences of one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedAttempt {
    /// When the outcome was known.
    pub at: Timestamp,
    /// When it was begun.
    pub started_at: Timestamp,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The first sequence.
    pub first_sequence: Sequence,
    /// The last sequence, inclusive.
    pub last_sequence: Sequence,
    /// The outcome.
    pub outcome: Outcome,
    /// Why it failed; `null` unless it did.
    #[schema(required = true)]
    pub reason: Option<Reason>,
    /// What the gateway reported, at most 1,024 characters.
    #[schema(required = true)]
    pub detail: Option<String>,
    /// The connection; `null` if there was none.
    #[schema(required = true)]
    pub connection_id: Option<ConnectionId>,
    /// The event, if the attempt covers one sequence.
    #[schema(required = true)]
    pub event_id: Option<EventId>,
    /// The event's type, if the attempt covers one sequence.
    #[serde(rename = "type")]
    #[schema(required = true)]
    pub event_type: Option<EventType>,
}

/// A connection was opened or closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedConnection {
    /// When it was opened or closed.
    pub at: Timestamp,
    /// Whether it was opened or closed.
    pub change: ConnectionChange,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    pub gateway_name: String,
    /// The connection.
    pub connection_id: ConnectionId,
    /// The transport's name.
    #[schema(required = true)]
    pub transport: Option<String>,
    /// The peer's IP address.
    #[schema(required = true)]
    pub remote_address: Option<String>,
    /// The node that holds or held it.
    #[schema(required = true)]
    pub node: Option<NodeId>,
    /// Why it was closed; `null` if it was opened.
    #[schema(required = true)]
    pub reason: Option<Reason>,
}

/// What happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionChange {
    /// It was opened.
    Opened,
    /// It was closed.
    Closed,
}

/// Messages are missing from the feed. `lists` names the lists that contain them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedGap {
    /// Why they are missing.
    pub reason: FeedGapReason,
    /// From when on; `null` if that is unknown.
    #[schema(required = true)]
    pub from: Option<Timestamp>,
    /// Until when, exclusive.
    pub to: Timestamp,
    /// The lists that contain what happened in between, as paths with queries: read them from
    /// their first pages.
    pub lists: Vec<String>,
}

/// Why messages are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeedGapReason {
    /// The client reads too slowly.
    Lagged,
    /// Too much has happened since the message that `Last-Event-ID` names, or it is too old.
    TooFarBehind,
    /// `Last-Event-ID` is not an id of this database's feed.
    UnknownId,
}

/// Why a feed ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeedEnd {
    /// Why the service ends the feed.
    pub reason: FeedEndReason,
}

/// Why a feed ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeedEndReason {
    /// The node is shutting down; another one continues the feed.
    Shutdown,
    /// The access token has expired or was revoked.
    TokenInvalid,
    /// The database can't be read.
    Unavailable,
}

impl FeedMessage {
    /// The field `event` of the stream.
    pub const fn event(&self) -> &'static str {
        match self {
            Self::Published(_) => "published",
            Self::Attempt(_) => "attempt",
            Self::Connection(_) => "connection",
            Self::Gap(_) => "gap",
            Self::End(_) => "end",
        }
    }
}
