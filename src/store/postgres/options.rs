//! What the shared database may be told, and nothing else.

use std::time::Duration;

use secrecy::SecretString;

use crate::store::Queue;

/// Settings of a database that nodes share (`[database]`).
#[derive(Clone, Debug)]
pub struct Options {
    /// `postgres://user:password@host:port/name`, with what sslmode it wants.
    pub url: SecretString,
    /// Whether nodes tell each other, and are told of the inbox, what to look
    /// for; without it they look for themselves.
    pub notify: bool,
    /// The server itself, to listen there, where `url` leads to a pooler; or empty.
    pub listener_url: SecretString,
    /// Connections besides the one that appends and records.
    pub connections: u32,
    /// Connections that answer people's questions, apart from those.
    pub askers: u32,
    /// An answer that would take longer is ended.
    pub answer_timeout: Duration,
    /// A node that is silent for longer is dead.
    pub node_timeout: Duration,
    /// How much may wait to be appended.
    pub queue: Queue,
}

/// The defaults with an empty URL.
impl Default for Options {
    fn default() -> Self {
        crate::store::Options::default().postgres()
    }
}
