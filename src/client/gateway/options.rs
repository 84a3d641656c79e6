//! What a gateway is told at the start, and what it tells while it runs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use rustls::ClientConfig;
use secrecy::SecretString;

use super::{AckPolicy, Backoff, ReceivedEvent};

/// What a gateway needs to know. The times are those of gateways in the
/// field, unless a test shortens them.
#[derive(Clone)]
pub struct GatewayOptions {
    /// The service's address, `https://host:port`.
    pub url: Url,
    /// The gateway's key.
    pub key: SecretString,
    /// Whom to trust.
    pub tls: Arc<ClientConfig>,
    /// What to report about deployments.
    pub ack: AckPolicy,
    /// Who handles the events.
    pub handler: Arc<dyn Handler>,
    /// Whether to send the manifest and ask for the well-known page at each connect.
    pub announces: bool,
    /// The waits after connects that failed.
    pub backoff: Backoff,
    /// How long to wait for the first frame.
    pub ack_timeout: Duration,
    /// After how long without a ping to hang up.
    pub ping_timeout: Duration,
    /// How many applied events are remembered.
    pub remembered: usize,
}

impl GatewayOptions {
    /// The usual ones.
    pub fn new(
        url: Url,
        key: SecretString,
        tls: Arc<ClientConfig>,
        handler: Arc<dyn Handler>,
    ) -> Self {
        Self {
            url,
            key,
            tls,
            ack: AckPolicy::default(),
            handler,
            announces: true,
            backoff: Backoff::new(Duration::from_secs(2), Duration::from_mins(5)),
            ack_timeout: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(35),
            remembered: 10_000,
        }
    }
}

/// Is given what a gateway receives, one after the other.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles an event. Nothing else is read before this returns.
    async fn handle(&self, event: ReceivedEvent);

    /// Learns of a change. Must not take long either.
    async fn notice(&self, _notice: Notice) {}
}

/// What happened to a gateway's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It is acknowledged.
    Connected {
        /// The connection's identity.
        connection_id: String,
        /// The gateway's identity, as the service knows it.
        gateway_id: String,
    },
    /// An acknowledged connection ended; the next try follows at once.
    Disconnected {
        /// How it ended, in words.
        why: String,
    },
    /// A connect failed; the next try follows after the wait.
    Failed {
        /// What went wrong.
        why: String,
        /// How long it waits.
        wait: Duration,
    },
    /// It was refused.
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// A frame was no event, and passed over.
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
}

/// Why a gateway stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was told to.
    Cancelled,
    /// The service answered with a status that ends these gateways.
    Refused(u16),
}
