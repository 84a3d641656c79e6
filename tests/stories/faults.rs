//! What goes wrong at a gateway's socket, and what the service makes of it.

mod farewell;
mod nonsense;
mod poison;
mod replicas;
mod reports;
mod revocation;
mod silence;
mod stall;
mod watchdog;
