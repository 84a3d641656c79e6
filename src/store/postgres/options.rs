//! What the shared database may be told, and nothing else.

use secrecy::SecretString;

/// Settings of a database that nodes share (`[database]`).
#[derive(Clone, Debug)]
pub struct Options {
    /// `postgres://user:password@host:port/name`, with what sslmode it wants.
    pub url: SecretString,
    /// Connections besides the one that appends and records.
    pub connections: u32,
    /// Events that may wait to be appended; more are refused at once.
    pub queue_events: usize,
}
