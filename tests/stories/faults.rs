//! Failures on a gateway's socket, and how the service handles them.

mod invalid_messages;
mod poison;
mod replicas;
mod reports;
mod revocation;
mod shutdown;
mod silence;
mod stall;
mod watchdog;
