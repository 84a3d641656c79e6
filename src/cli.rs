//! The command line: one file per command. All commands except `serve`, `migrate`, `verify`, `backup`,
//! `restore`, `epoch`, `config` and `token recover` are ordinary clients of the HTTP API. Secrets are never
//! arguments, which other users of the machine can read.

pub(crate) use gateway_events::command::{access, formats, interrupt, output};
use gateway_events::command::{colour, confirm, service, table, time};

pub(crate) mod agent;
pub(crate) mod alert;
pub(crate) mod alias;
pub(crate) mod audit;
pub(crate) mod backup;
mod buckets;
pub(crate) mod complete;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod delivery;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod epoch;
pub(crate) mod event;
pub(crate) mod event_type;
pub(crate) mod gateway;
pub(crate) mod health;
pub(crate) mod inbox;
pub(crate) mod job;
pub(crate) mod listen;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod node;
pub(crate) mod openapi;
mod reference;
pub(crate) mod restore;
pub(crate) mod rollout;
pub(crate) mod serve;
pub(crate) mod stats;
pub(crate) mod tail;
pub(crate) mod token;
mod transport;
pub(crate) mod verify;
pub(crate) mod watch;
pub(crate) mod why;
