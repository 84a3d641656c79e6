//! The service behind the programs `gateway-events` and `gateway-events-bench`. The
//! repository's `docs/ARCHITECTURE.md` lists the modules and follows an event, a reconnect,
//! a crash and a shutdown through them.

pub mod admission;
pub mod agent;
pub mod alerts;
pub mod api;
pub mod app;
pub mod backoff;
pub mod bulk;
pub mod client;
pub mod clock;
pub mod cloud_event;
pub mod command;
pub mod compute;
pub mod config;
pub mod defaults;
pub mod diagnosis;
pub mod dispatch;
pub mod event;
pub mod event_types;
pub mod feed;
pub mod files;
pub mod http;
pub mod ingest;
pub mod jobs;
pub mod json_error;
pub mod lifecycle;
pub mod log_limit;
pub mod metric;
pub mod names;
pub mod retention;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod trace_context;
pub mod transport;
pub mod wake;
