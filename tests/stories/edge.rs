//! The edge: what strangers, clients and operators meet there, and what the
//! log says of it.

mod log;
mod strangers;
