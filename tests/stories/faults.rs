//! Failures on a gateway's socket, and how the service handles them.

mod farewell;
mod nonsense;
mod poison;
mod replicas;
mod reports;
mod revocation;
mod silence;
mod stall;
mod watchdog;
