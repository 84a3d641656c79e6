//! Reliable mode over WebSocket: the subprotocol `gateway-events.v1`.

mod bad_input;
mod closing;
mod filter;
mod gaps;
mod handshake;
mod instances;
mod kill;
mod nacks;
mod peer;
mod resume;
mod resync;
mod windows;

pub(crate) use resume::publish;
