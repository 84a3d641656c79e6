//! The first message of a connection.

use std::time::Duration;

use crate::event::{ConnectionId, Epoch, GatewayId, Sequence};

/// The first message to the peer, whose values also label its events.
#[derive(Clone, Copy, Debug)]
pub struct Greeting {
    /// The gateway that connected.
    pub gateway_id: GatewayId,
    /// Its connection.
    pub connection_id: ConnectionId,
    /// The epoch of the gateway's log.
    pub epoch: Epoch,
}

/// The first message to the peer in reliable mode.
#[derive(Clone, Copy, Debug)]
pub struct ReliableGreeting {
    /// Who connected.
    pub greeting: Greeting,
    /// The log's last sequence; zero if it is empty.
    pub head: Sequence,
    /// The log's first sequence that can still be read; `head + 1` if there is none.
    pub oldest: Sequence,
    /// The interval of the transport's signs of life.
    pub heartbeat: Duration,
    /// The time within which the hello is due.
    pub hello_timeout: Duration,
    /// The maximum window, in events.
    pub window: u32,
    /// The maximum window, in bytes.
    pub window_bytes: u64,
}
