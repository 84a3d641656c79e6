//! The command line: one file per noun. All commands except `serve`, `migrate`, `verify`,
//! `config` and `token recover` are ordinary clients of the HTTP API. Secrets are never
//! arguments, which other users of the machine can read.

pub(crate) use gateway_events::command::{access, output};
use gateway_events::command::{confirm, interrupt, service, table, time};

pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod delivery;
pub(crate) mod demo;
pub(crate) mod event;
pub(crate) mod gateway;
pub(crate) mod health;
pub(crate) mod inbox;
pub(crate) mod listen;
pub(crate) mod migrate;
pub(crate) mod node;
pub(crate) mod openapi;
mod reference;
pub(crate) mod serve;
pub(crate) mod token;
pub(crate) mod verify;
