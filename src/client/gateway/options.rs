//! Options of a gateway, and its notifications.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use rustls::ClientConfig;
use secrecy::SecretString;

use super::{AckPolicy, Backoff, ReceivedEvent};

/// Options of a gateway. The default times are those of deployed gateways.
#[derive(Clone)]
pub struct GatewayOptions {
    /// The service's address, `https://host:port`.
    pub url: Url,
    /// The gateway's key.
    pub key: SecretString,
    /// The certificates to trust.
    pub tls: Arc<ClientConfig>,
    /// What to report about deployments.
    pub ack: AckPolicy,
    /// Handles the events.
    pub handler: Arc<dyn Handler>,
    /// Whether to request the well-known page and send the manifest at each connect.
    pub announces: bool,
    /// The pauses after failed connects.
    pub backoff: Backoff,
    /// Timeout of the first frame.
    pub ack_timeout: Duration,
    /// Time without a ping after which the connection is closed.
    pub ping_timeout: Duration,
    /// How many applied events the gateway keeps to recognise repeats.
    pub max_applied: usize,
}

impl GatewayOptions {
    /// The defaults of deployed gateways.
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
            max_applied: 10_000,
        }
    }
}

/// Receives what a gateway reads, one event at a time.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles an event. The gateway reads nothing until this returns.
    async fn handle(&self, event: ReceivedEvent);

    /// Called when the state of the connection changes. Must return soon, because the gateway reads
    /// nothing meanwhile.
    async fn notice(&self, _notice: Notice) {}
}

/// A change of a gateway's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The connection was acknowledged.
    Connected {
        /// The connection's id.
        connection_id: String,
        /// The gateway's id.
        gateway_id: String,
    },
    /// An acknowledged connection ended. The gateway reconnects at once.
    Disconnected {
        /// How it ended.
        why: String,
    },
    /// A connect failed. The gateway retries after a pause.
    Failed {
        /// Why it failed.
        why: String,
        /// The pause.
        wait: Duration,
    },
    /// The service refused the connection permanently.
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// A frame was not a valid event, and was ignored.
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
}

/// Why a gateway stopped and does not reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was cancelled.
    Cancelled,
    /// The service answered with a status after which gateways stop.
    Refused(u16),
}
