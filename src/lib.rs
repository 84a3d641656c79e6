//! A persistent event log with durable delivery tracking for API gateways.

pub mod client;
pub mod clock;
pub mod event;
pub mod socket;
pub mod store;
pub mod wake;
