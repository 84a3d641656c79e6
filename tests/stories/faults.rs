//! What goes wrong at a gateway's socket, and what the service makes of it.

mod silence;
