//! The command line: one file per noun. Everything but `serve`, `migrate`,
//! `verify`, `config` and `token recover` is an ordinary client of the HTTP API and knows
//! nothing that another client could not know; `bench` also writes databases
//! that it has made itself. Secrets are never taken from
//! arguments, where other users of the machine could read them.

pub(crate) mod access;
pub(crate) mod bench;
pub(crate) mod config;
mod confirm;
pub(crate) mod delivery;
pub(crate) mod demo;
pub(crate) mod event;
pub(crate) mod gateway;
pub(crate) mod health;
pub(crate) mod inbox;
mod interrupt;
pub(crate) mod listen;
pub(crate) mod migrate;
pub(crate) mod node;
pub(crate) mod output;
mod reference;
pub(crate) mod serve;
mod service;
mod table;
mod time;
pub(crate) mod token;
pub(crate) mod verify;
