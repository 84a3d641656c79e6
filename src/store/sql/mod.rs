//! Every verb, written once. This folder is compiled twice, as a part of
//! `sqlite` and as a part of `postgres`; what a database must say in its own
//! words it says in the `dialect` beside this folder:
//!
//! - `Connection`, and the macros `query`, `query_as` and `query_scalar`, which
//!   mark a statement as this database's, because the metadata of checked
//!   statements is filed by their text;
//! - `Session`: how the writer reaches its database, and what a failed commit
//!   means there;
//! - `clock`: whose time is written down;
//! - `lock_streams`, `still_there`, `only_one`, `silent_before`: how nodes
//!   wait for each other, and when one is dead, which a database with one node
//!   has no need of;
//! - statements that take many rows at once, and walks that need an index to
//!   be named, each a function that fills a row type of this folder.
//!
//! Where nodes share a database this order keeps them from deadlocks: a
//! transaction locks all streams that it will touch first, by rising key, and
//! everything else only after that; rows of streams that it has not locked it
//! passes over if they are taken. Rows of the inbox are taken before streams,
//! under a lock of their own.

use super::{Backend, dialect};

pub(crate) mod append;
pub(crate) mod batch;
mod browse;
mod closing;
pub(crate) mod connections;
pub(crate) mod deliveries;
mod event_types;
pub(crate) mod expiry;
mod failing;
#[cfg(test)]
mod fixture;
pub(crate) mod gateways;
mod history;
pub(crate) mod inbox;
pub(crate) mod ledger;
mod missed;
pub(crate) mod nodes;
pub(crate) mod positions;
pub(crate) mod record;
pub(crate) mod redrive;
pub(crate) mod repeats;
pub(crate) mod retention;
mod sides;
pub(crate) mod stream;
pub(crate) mod sweep;
pub(crate) mod targets;
pub(crate) mod tokens;
mod verbs;
pub(crate) mod verify;
pub(crate) mod writer;

/// Work that one node at a time does for all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Chore {
    /// Removing what is too old.
    Retention,
    /// Closing what dead nodes left open.
    Reaping,
    /// Giving up deliveries whose event has expired.
    Expiry,
}
