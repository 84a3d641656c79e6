//! The state of all gateways together.

use std::time::Duration;

use crate::event::GatewayId;

/// How many gateways are in which state, and how far they are behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Gateways with a live connection to any node.
    pub connected: u64,
    /// Gateways without one.
    pub away: u64,
    /// Disabled gateways, which may not connect.
    pub disabled: u64,
    /// Gateways whose [verdict](super::Verdict) is `failing`.
    pub failing: u64,
    /// Sequences after the confirmed positions.
    pub pending: u64,
    /// Dead letters that were not redriven.
    pub dead_letters: u64,
    /// The gateways that are furthest behind, the furthest one first.
    pub furthest_behind: Vec<GatewayLag>,
}

/// How far a gateway is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayLag {
    /// The gateway.
    pub id: GatewayId,
    /// Its name.
    pub name: String,
    /// Sequences after its confirmed position.
    pub events: u64,
    /// How long ago its oldest pending event was appended; zero if none is pending.
    pub age: Duration,
}
