//! Connections of gateways, live and past.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, Reason, Sequence};

/// Which connections to list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConnectionsQuery {
    /// `connected` for live connections only, `all` for past ones too.
    #[param(value_type = Option<ConnectionsStatus>, inline)]
    pub status: Option<ConnectionsStatus>,
}

/// Which connections, by whether they are live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionsStatus {
    /// Live ones.
    Connected,
    /// Live and past ones.
    All,
}

/// A live or past connection of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Its id.
    pub connection_id: ConnectionId,
    /// The gateway.
    pub gateway_id: GatewayId,
    /// The gateway's name.
    #[schema(example = "berlin")]
    pub gateway_name: String,
    /// The transport's name, such as `websocket`.
    #[schema(example = "websocket")]
    pub transport: String,
    /// The node that holds or held it.
    #[schema(example = "01890a5d-ac96-774b-bcce-b302099a805b")]
    pub node: String,
    /// The peer's IP address.
    #[schema(example = "192.0.2.7")]
    pub remote_address: String,
    /// When it was opened.
    pub connected_at: Timestamp,
    /// When it last showed activity, accurate to about ten seconds.
    pub last_heartbeat: Timestamp,
    /// Whether it is live.
    pub status: ConnectionStatus,
    /// Everything up to this sequence is confirmed on this connection.
    pub confirmed: Sequence,
    /// When it ended. Omitted while it is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub closed_at: Option<Timestamp>,
    /// Why it ended. Omitted while it is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub close_reason: Option<Reason>,
}

/// Whether a connection is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionStatus {
    /// It is live.
    Connected,
    /// It has ended.
    Closed,
}

impl ConnectionStatus {
    /// Its name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Closed => "closed",
        }
    }
}
