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

impl Options {
    /// Options of a single connection, as a migration or a measurement needs.
    pub fn single_connection(url: SecretString) -> Self {
        Self {
            url,
            notify: false,
            listener_url: SecretString::default(),
            connections: 1,
            askers: 1,
            answer_timeout: Duration::from_secs(10),
            node_timeout: Duration::from_secs(30),
            queue: Queue { events: 1, bytes: 1 },
        }
    }
}
