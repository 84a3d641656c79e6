//! The HTTP edge, for unauthenticated peers, clients and operators, and what is logged about it.

mod connection_limits;
mod connections;
mod error_messages;
mod gateway_limit;
mod headers;
pub(crate) mod http2;
mod invalid_bodies;
pub(crate) mod log;
mod names;
mod objects;
mod reconnects;
mod refusals;
mod unauthenticated;
mod unread_bodies;
mod upgrades;
