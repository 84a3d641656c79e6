#![doc = include_str!("ARCHITECTURE.md")]

pub mod app;
pub mod client;
pub mod clock;
pub mod config;
pub mod dispatch;
pub mod event;
pub mod event_types;
pub mod http;
pub mod intake;
pub mod lifecycle;
pub mod retention;
pub mod socket;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod wake;
