//! Requests, connections and events can be followed: by request id, by trace
//! context, in metrics, in the log.

mod otlp;
mod requests;
mod trace_context;
