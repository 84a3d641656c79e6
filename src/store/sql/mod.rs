//! The operations, with all statements that both databases share. This folder is compiled twice,
//! as part of `sqlite` and as part of `postgres`; [`dialect`] says why.
//!
//! A backend provides three things, each a trait that it implements:
//!
//! - the statements that databases word differently, by entity ([`dialect`]);
//! - connections that read, and a few properties of the database ([`access`]);
//! - the connection of the writer ([`writer::session`]).
//!
//! A file implements the trait of one entity, and calls the functions below it, each of which
//! runs statements on a connection. To add an operation, add a method to the trait of its entity
//! in `store/`, and implement it in the file of the same name here.

use super::Backend;

pub(crate) mod access;
mod actions;
mod alerts;
pub(crate) mod audit;
mod bulk;
pub(crate) mod connections;
mod console_sessions;
pub(crate) mod credentials;
pub(crate) mod cursors;
pub(crate) mod deliveries;
mod diagnosis;
pub(crate) mod dialect;
pub(crate) mod durations;
pub(crate) mod epochs;
mod event_types;
pub(crate) mod expiry;
mod feed;
#[cfg(test)]
mod fixture;
pub(crate) mod gateways;
mod health;
pub(crate) mod inbox;
pub(crate) mod instances;
pub(crate) mod ledger;
pub(crate) mod log;
mod maintenance;
pub(crate) mod nodes;
pub(crate) mod not_connected;
pub(crate) mod redrive;
pub(crate) mod retention;
mod supersession;
pub(crate) mod verify;
pub(crate) mod writer;
