//! A persistent event log with durable delivery tracking for API gateways.

pub mod clock;
pub mod event;
pub mod event_types;
pub mod socket;
pub mod store;
pub mod wake;
