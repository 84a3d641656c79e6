//! The edge: what strangers, clients and operators meet there, and what the
//! log says of it.

mod connections;
mod crowds;
mod headers;
mod log;
mod objects;
mod strangers;
mod words;
