//! Settings of the Postgres database.

use std::time::Duration;

use secrecy::SecretString;

use crate::store::Queue;

/// Settings of a database that nodes share (`[database]`).
#[derive(Clone, Debug)]
pub struct Options {
    /// `postgres://user:password@host:port/name`, with an sslmode.
    pub url: SecretString,
    /// Whether nodes notify each other, and listen to notifications from the inbox. Otherwise they
    /// poll.
    pub notify: bool,
    /// URL of the server itself, for LISTEN, if `url` leads to a pooler; or empty.
    pub listener_url: SecretString,
    /// Connections in the pool. The writer, the heartbeat and the listener have connections of
    /// their own.
    pub connections: u32,
    /// Connections of the query pool.
    pub query_connections: u32,
    /// A query that takes longer is cancelled.
    pub query_timeout: Duration,
    /// A node whose last heartbeat is older is declared dead.
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
