//! The edge: what strangers, clients and operators meet there, and what the
//! log says of it.

mod connection_limits;
mod connections;
mod headers;
pub(crate) mod log;
mod objects;
mod reconnects;
mod refusals;
mod strangers;
mod words;
