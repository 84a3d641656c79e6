//! Requests, connections and events can be traced: by request id, by trace context, in metrics, and
//! in the log.

mod metrics;
mod otlp;
mod requests;
mod trace_context;
