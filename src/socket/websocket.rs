//! WebSocket, plain mode.

use std::time::Duration;

use axum::extract::ws::WebSocket;
use bytes::Bytes;

use super::TransportEnd;

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For reading what is written to it.
    pub write_timeout: Duration,
    /// For its part of the close handshake.
    pub close_timeout: Duration,
}

/// Runs a socket to its end.
pub async fn run(socket: WebSocket, first: Bytes, end: TransportEnd, limits: Limits) {
    let _ = (socket, first, end, limits);
}
