//! Gateways that don't use WebSocket.

mod between_polls;
mod grpc;
mod grpc_requests;
pub(crate) mod long_poll;
mod polling;
mod repeated_polls;
mod sse;
mod sse_edge;
pub(crate) mod sse_peer;

/// Whether one of the listed connections has ended.
fn ended(connections: &serde_json::Value) -> bool {
    closed(connections).is_some()
}

/// The first of the listed connections that has ended.
fn closed(connections: &serde_json::Value) -> Option<&serde_json::Value> {
    connections["list"].as_array()?.iter().find(|connection| connection["status"] == "closed")
}
