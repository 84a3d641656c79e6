//! The client library in reliable mode, with a real service.

mod kill;
mod outcomes;
mod recorder;
mod resuming;
mod transports;
